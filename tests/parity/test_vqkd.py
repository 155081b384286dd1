# SPDX-License-Identifier: Apache-2.0
"""The tokenizer's forward, backward, EMA and AdamW steps, and its codes in eval mode, against the official code."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from golden_io import assert_close_grad, assert_close_output, assert_close_update, group, load_golden, official_usage

from beitv2_core.engine.optim import build_optimizer
from beitv2_core.engine.step import global_norm
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.models.vqkd import VQKD
from beitv2_core.weights.keymaps.official import from_official

SUBJECT = "vqkd"


def build(arrays, meta, prefix="init", **changes) -> VQKD:
    c = meta["config"]
    grid = c["img_size"] // c["patch_size"]
    common = dict(num_heads=c["heads"], mlp_ratio=c["mlp_ratio"], use_abs_pos_emb=True, norm="pool")
    encoder = BEiTBackbone(image_size=c["img_size"], patch_size=c["patch_size"], width=c["enc_dim"],
                           depth=c["enc_depth"], **common)
    decoder = BEiTBackbone(image_size=grid, patch_size=1, in_chans=c["code_dim"], width=c["dec_dim"],
                           depth=c["dec_depth"], **common)
    changes = {"input_range": "imagenet" if "imagenet" in c["process_type"] else "unit", **changes}
    model = VQKD(encoder, decoder, num_codes=c["n_code"], code_dim=c["code_dim"], teacher_width=c["out_dim"],
                 decay=c["decay"], **changes)
    state = from_official(group(arrays, prefix))
    assert set(state) == set(model.state_dict())
    model.set_state_dict({key: paddle.to_tensor(np.ascontiguousarray(value)) for key, value in state.items()})
    return model


def batch(arrays, step):
    return (paddle.to_tensor(arrays[f"input/step{step}/{name}"]) for name in ("image", "target"))


def test_every_stage_of_the_first_forward_matches(fixture_path):
    arrays, meta = load_golden(fixture_path)
    model = build(arrays, meta)
    images, target = batch(arrays, 1)
    x = model.preprocess(images)
    assert_close_output(x, arrays["output/step1/preprocessed"], "preprocessed")
    assert_close_output(model.encoder.patch_tokens(x), arrays["output/step1/encoder_patch_tokens"], "encoder tokens")
    h = model.features(images)
    assert_close_output(h, arrays["output/step1/to_quantizer_features"], "features")
    model.eval()
    z_q = model.quantize(h).z_q
    official = arrays["output/step1/z_q"]
    assert_close_output(z_q.transpose([0, 2, 1]).reshape(official.shape), official, "z_q")
    codes = paddle.to_tensor(arrays["output/step1/token_ids"])
    np.testing.assert_array_equal(model.tokenize(images).numpy(), codes.numpy())
    assert_close_output(model.decode(codes), arrays["output/step1/rec"], "reconstruction")
    model.train()
    out = model(images, target)
    losses = [float(out[key]) for key in ("quant_loss", "rec_loss", "loss")]
    assert_close_output(losses, arrays["output/losses"][0], "losses")
    assert_close_output(model.quantize.codebook, arrays["output/step1/codebook_after_ema"], "codebook after EMA")


def test_every_gradient_matches(fixture_path, formulation):
    arrays, meta = load_golden(fixture_path)
    model = build(arrays, meta)
    model(*batch(arrays, 1))["loss"].backward()
    reference = from_official(group(arrays, "grad"))
    parameters = dict(model.named_parameters())
    assert set(reference) == set(parameters)
    for name, parameter in parameters.items():
        assert_close_grad(parameter.grad, reference[name], name)
    norm = float(global_norm(model.parameters()))
    assert norm == pytest.approx(arrays["output/grad_norm"].reshape(-1)[0], rel=1e-4)


def test_adamw_steps_and_codebook_updates_match(fixture_path):
    arrays, meta = load_golden(fixture_path)
    c = meta["config"]
    model = build(arrays, meta)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    optimizer = build_optimizer("adamw", model, lr=c["lr"], weight_decay=c["weight_decay"], betas=tuple(c["betas"]),
                                eps=c["eps"], no_decay=model.no_weight_decay())
    for step in range(1, c["steps"] + 1):
        if f"input/step{step}/image" not in arrays:
            break  # later images were not recorded; the states up to here are
        out = model(*batch(arrays, step))
        np.testing.assert_array_equal(out["codes"].numpy(), arrays[f"output/step{step}/token_ids"])
        losses = [float(out[key]) for key in ("quant_loss", "rec_loss", "loss")]
        assert_close_output(losses, arrays["output/losses"][step - 1], f"losses of step {step}")
        out["loss"].backward()
        optimizer.step()
        optimizer.clear_grad()
        reference = from_official(group(arrays, f"step{step}"))
        for name, value in (model.state_dict() if reference else {}).items():
            if name.startswith("quantize."):
                assert_close_output(value, reference[name], f"{name} after step {step}")
            else:
                assert_close_update(before[name], value, reference[name], f"{name} after step {step}",
                                    max_abs=0.1 * c["lr"] * step)


def test_eval_mode_gives_the_official_codes_and_moves_nothing(fixture_path):
    arrays, meta = load_golden(fixture_path)
    model = build(arrays, meta, "step3")
    model.eval()
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    images = paddle.to_tensor(arrays["input/eval/image"])
    codes = model.tokenize(images).numpy()
    np.testing.assert_array_equal(codes, arrays["output/eval/token_ids"])
    assert_close_output(model.features(images), arrays["output/eval/to_quantizer_features"], "features")
    out = model(images, paddle.to_tensor(arrays["input/step1/target"]))
    losses = [float(out[key]) for key in ("quant_loss", "rec_loss", "loss")]
    assert_close_output(losses, arrays["output/eval/losses"], "losses")
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name], err_msg=name)
    usage = official_usage(before["quantize.cluster_size"], codes, meta["config"]["decay"])
    assert_close_output(usage, arrays["output/eval/cluster_size_after"], "tracked usage")


@pytest.mark.parametrize("input_range, key", [("unit", "default"), ("imagenet", "imagenet_norm")])
def test_declared_input_range_gives_the_official_pixels(fixture_path, input_range, key):
    arrays, meta = load_golden(fixture_path)
    images = paddle.to_tensor(arrays["input/eval/image"])
    model = build(arrays, meta, input_range=input_range)
    assert_close_output(model.preprocess(images), arrays[f"output/pre_process/{key}"], key)
