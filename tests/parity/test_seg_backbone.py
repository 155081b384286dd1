# SPDX-License-Identifier: Apache-2.0
"""The segmentation backbone: four maps, gradients, batch-norm statistics, other sizes, and the LayerNorm epsilon."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from golden_io import assert_close_grad, assert_close_output, group, load_golden

from beitv2_core.errors import ShapeError
from beitv2_core.weights.keymaps.official import from_official
from beitv2_seg.model.backbone import BEiTv2

SUBJECT = ("seg_backbone", "ln_eps_seg")


def backbone_of(config: dict, official: dict[str, np.ndarray], **changed) -> BEiTv2:
    options = dict(image_size=config["img_size"], patch_size=config["patch_size"], width=config["dim"],
                   depth=config["depth"], num_heads=config["heads"], mlp_ratio=config["mlp_ratio"],
                   init_values=config["init_values"], use_abs_pos_emb=config["abs_pos"],
                   use_rel_pos_bias=config["rel"], use_shared_rel_pos_bias=config["shared_rel"],
                   out_indices=config["out_indices"])
    model = BEiTv2(**{**options, **changed})
    load(model, official)
    return model


def load(model, official: dict[str, np.ndarray]) -> None:
    state = from_official(official)
    names = set(model.state_dict())
    assert set(state) == names, sorted(set(state) ^ names)[:5]
    model.set_state_dict({name: paddle.to_tensor(np.ascontiguousarray(array)) for name, array in state.items()})


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_maps_gradients_and_running_statistics(fixture_path, mode):
    arrays, meta = load_golden(fixture_path)
    expected = group(arrays, mode)
    if not expected:
        pytest.skip(f"{fixture_path.name} records no {mode} pass")
    model = backbone_of(meta["config"], group(arrays, "init"))
    (model.train if mode == "train" else model.eval)()
    x = paddle.to_tensor(arrays["input/x"], stop_gradient=False)
    maps = model(x)
    for i, level in enumerate(maps, 1):
        assert_close_output(level, expected[f"fpn{i}"], f"fpn{i}")
    loss = sum((level * paddle.to_tensor(expected[f"cotangent{i}"])).sum() for i, level in enumerate(maps, 1))
    assert_close_output(loss, expected["loss"], "loss")
    loss.backward()
    assert_close_grad(x.grad, expected["grad_x"], "gradient of the image")
    reference = from_official(group(arrays, f"{mode}/grad"))
    assert reference
    parameters = dict(model.named_parameters())
    for name, gradient in reference.items():
        assert_close_grad(parameters[name].grad, gradient, name)
    for name, value in from_official(group(arrays, "train/after") if mode == "train" else {}).items():
        assert_close_output(model.state_dict()[name], value, name)


def test_other_sizes_without_position_terms_and_refused_with_them(fixture_path):
    arrays, meta = load_golden(fixture_path)
    config = meta["config"]
    if "nopos_sizes" not in config:
        pytest.skip(f"{fixture_path.name} records no other sizes")
    for height, width in config["nopos_sizes"]:
        at = group(arrays, f"nopos/{height}x{width}")
        official = {name: value for name, value in group(arrays, "init").items()
                    if "relative_position" not in name and name != "pos_embed"}
        model = backbone_of(config, official, use_rel_pos_bias=False, use_abs_pos_emb=False,
                            use_shared_rel_pos_bias=False)
        model.eval()
        for i, level in enumerate(model(paddle.to_tensor(at["x"])), 1):
            assert_close_output(level, at[f"fpn{i}"], f"fpn{i} at {height}x{width}")
    if config["rel"] or config["shared_rel"]:
        model = backbone_of(config, group(arrays, "init"))
        for size in meta["raises"]:
            height, width = map(int, size.split("x"))
            with pytest.raises(ShapeError, match="patches"):
                model(paddle.zeros([1, 3, height, width]))


def test_layer_norm_epsilon_is_the_official_one(fixture_path):
    arrays, meta = load_golden(fixture_path)
    official = group(arrays, "seg/state")
    if not official:
        pytest.skip(f"{fixture_path.name} is about other things")
    config, x = meta["config"], arrays["input/xs"]
    depth = len({name.split(".")[1] for name in official if name.startswith("blocks.")})
    tables = [value for name, value in official.items() if name.endswith("relative_position_bias_table")]
    patch = official["patch_embed.proj.weight"].shape[-1]
    # A trunk of one block has no four taps: its third map is the raw output, read directly.
    model = BEiTv2(image_size=x.shape[2:], patch_size=patch, width=config["dim"], depth=max(depth, 4),
                   num_heads=config["heads"], init_values=0.1, use_rel_pos_bias=bool(tables), out_indices=(0, 1, 2, 3))
    state = from_official(official)
    known = {name: value for name, value in model.state_dict().items()
             if not name.startswith("blocks.") or int(name.split(".")[1]) < depth}
    assert set(state) == set(known)
    model.set_state_dict({name: paddle.to_tensor(np.ascontiguousarray(array)) for name, array in state.items()})
    model.eval()
    tap = depth - 1 if depth < 4 else 2
    tokens = model.forward_tokens(paddle.to_tensor(x), taps=[tap])[1][tap]
    grid = (x.shape[2] // patch, x.shape[3] // patch)
    got = tokens[:, 1:].transpose([0, 2, 1]).reshape([x.shape[0], config["dim"], *grid])
    assert_close_output(got, arrays["seg/output"], "third map")
