# SPDX-License-Identifier: Apache-2.0
"""Linear evaluation against the official per-layer features, logits, losses, gradients and AdamW steps."""

from __future__ import annotations

import numpy as np
import paddle
from golden_io import assert_close_grad, assert_close_output, assert_close_update, group, load_golden

from beitv2_cls.linear_probe import LinearProbes, LinearProbeTask
from beitv2_core.data.views.classify_recipe import TrainBatch
from beitv2_core.engine.optim import build_optimizer
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.weights.keymaps.official import from_official

SUBJECT = ("linear_probe",)
DECAY = 1e-4  # of every parameter, written in the official script


def probes_of(meta: dict, arrays: dict) -> LinearProbes:
    c = meta["config"]
    trunk = BEiTBackbone(image_size=c["img_size"], patch_size=c["patch_size"], width=c["dim"], depth=c["depth"],
                         num_heads=c["heads"], init_values=c["init_values"], use_shared_rel_pos_bias=True)
    load(trunk, group(arrays, "backbone"))
    probes = LinearProbes(trunk, num_classes=c["num_labels"], layers=range(c["depth"]), rates=(c["lr"],))
    load(probes, group(arrays, "init"))
    return probes


def load(model, official: dict[str, np.ndarray]) -> None:
    state = from_official(official)
    assert set(state) == set(model.state_dict()), "names differ from the official state dict"
    model.set_state_dict({name: paddle.to_tensor(np.ascontiguousarray(array)) for name, array in state.items()})


def test_features_and_logits_of_every_layer(fixture_path):
    arrays, meta = load_golden(fixture_path)
    probes = probes_of(meta, arrays)
    x = paddle.to_tensor(group(arrays, "input/step1")["x"])
    features, logits = probes.features(x), probes(x)
    for i, probe in enumerate(probes.probes):
        assert_close_output(features[probe.layer, "concat"], arrays[f"output/features/{i}"], f"features of block {i}")
        assert_close_output(logits[i], arrays[f"output/logits/{i}"], f"classifier {i}")


def test_losses_gradients_and_steps(fixture_path):
    arrays, meta = load_golden(fixture_path)
    c, probes = meta["config"], probes_of(meta, arrays)
    task = LinearProbeTask(probes)
    decay = DECAY
    optimizer = build_optimizer(c["optimizer"], probes, lr=c["lr"], weight_decay=decay,
                                lr_scale=probes.rate_scale(c["lr"]), decay_all=True)
    before = from_official(group(arrays, "init"))
    trunk_before = {name: value.numpy() for name, value in probes._frozen[0].state_dict().items()}
    for step in range(1, c["steps"] + 1):
        at = group(arrays, f"input/step{step}")
        loss, _ = task.loss(TrainBatch(at["x"], at["y"], []), step=step)
        assert_close_output(loss, arrays["output/losses"][step - 1], f"loss of step {step}")
        loss.backward()
        if step == 1:
            grads = {name: parameter.grad for name, parameter in probes.named_parameters()}
            for name, expected in from_official(group(arrays, "grad")).items():
                assert_close_grad(grads[name], expected, name)
        optimizer.step()
        optimizer.clear_grad()
        for name, expected in from_official(group(arrays, f"step{step}")).items():
            assert_close_update(before[name], probes.state_dict()[name], expected, f"{name} after step {step}",
                                0.1 * c["lr"] * step + 1e-9)
    for name, value in probes._frozen[0].state_dict().items():
        assert np.array_equal(value.numpy(), trunk_before[name]), f"the frozen trunk moved: {name}"
