# SPDX-License-Identifier: Apache-2.0
"""The pretraining models, with and without the [CLS] head, against the official forward, backward and AdamW steps."""

from __future__ import annotations

import numpy as np
import paddle
import paddle.nn.functional as F
from golden_io import assert_close_grad, assert_close_output, assert_close_update, group, load_golden

from beitv2_core.engine.optim import build_optimizer
from beitv2_core.engine.step import clip_by_global_norm
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.weights.keymaps.official import from_official

SUBJECT = ("pretrain_cls", "pretrain_v1")


def model_of(meta: dict, arrays: dict) -> BEiTForMaskedImageModeling:
    c = meta["config"]
    model = BEiTForMaskedImageModeling(
        image_size=c["img_size"], patch_size=c["patch_size"], width=c["dim"], depth=c["depth"], num_heads=c["heads"],
        mlp_ratio=c["mlp_ratio"], num_codes=c["vocab"], init_values=c["init_values"], use_abs_pos_emb=c["abs_pos"],
        use_shared_rel_pos_bias=c["shared_rel"], use_rel_pos_bias=c["rel"], attn_head_dim=c["attn_head_dim"],
        early_layers=c["early_layers"] if c["arch"] == "cls" else None, head_layers=c["head_layers"],
        share_lm_head=c["shared_lm_head"])
    load(model, group(arrays, "init"))
    return model


def load(model, official: dict[str, np.ndarray]) -> None:
    state = from_official(official)
    assert set(state) == set(model.state_dict()), "names differ from the official state dict"
    model.set_state_dict({name: paddle.to_tensor(np.ascontiguousarray(a)) for name, a in state.items()})


def inputs(arrays: dict, step: int):
    at = group(arrays, f"input/step{step}")
    return paddle.to_tensor(at["x"]), paddle.to_tensor(at["mask"].astype(bool)), paddle.to_tensor(at["labels"])


def loss_of(model, arrays, step):
    x, mask, labels = inputs(arrays, step)
    logits = model(x, mask)
    return logits, [F.cross_entropy(values, labels) for values in logits.values()]


def test_masked_logits_and_losses_match_the_official_model(fixture_path):
    arrays, meta = load_golden(fixture_path)
    model = model_of(meta, arrays)
    logits, losses = loss_of(model, arrays, 1)
    for i, (head, values) in enumerate(logits.items()):
        assert_close_output(values, arrays[f"output/step1/masked_logits_{i + 1}"], head)
        assert_close_output(float(losses[i]), arrays["output/losses"][0, i], f"loss of {head}")
    assert_close_output(float(sum(losses)), arrays["output/losses"][0, -1], "total loss")


def test_every_gradient_matches_the_official_model(fixture_path, formulation):
    arrays, meta = load_golden(fixture_path)
    model = model_of(meta, arrays)
    sum(loss_of(model, arrays, 1)[1]).backward()
    reference = from_official(group(arrays, "grad"))
    parameters = dict(model.named_parameters())
    assert set(reference) == set(parameters)
    for name, parameter in parameters.items():
        assert_close_grad(parameter.grad, reference[name], name)


def test_clipped_adamw_steps_match_the_official_training(fixture_path):
    arrays, meta = load_golden(fixture_path)
    c = meta["config"]
    model = model_of(meta, arrays)
    before = {name: value.numpy() for name, value in model.state_dict().items()}
    optimizer = build_optimizer("adamw", model, lr=c["lr"], weight_decay=c["weight_decay"], betas=tuple(c["betas"]),
                                eps=c["eps"], no_decay=model.no_weight_decay())
    for step in range(1, c["steps"] + 1):
        optimizer.set_lr(float(arrays["schedule/lr_used"][step - 1]))
        loss = sum(loss_of(model, arrays, step)[1])
        assert_close_output(float(loss), arrays["output/losses"][step - 1, -1], f"loss of step {step}")
        loss.backward()
        norm = clip_by_global_norm(model.parameters(), c["clip"])
        assert abs(float(norm) / arrays["output/grad_norm"][step - 1] - 1) < 1e-4
        optimizer.step()
        optimizer.clear_grad()
        if f"step{step}/cls_token" in arrays:
            reference = from_official(group(arrays, f"step{step}"))
            for name, value in model.state_dict().items():
                assert_close_update(before[name], value, reference[name], f"{name} after step {step}",
                                    max_abs=0.1 * c["lr"] * step)


def test_accuracy_per_head_matches_the_official_log(fixture_path):
    arrays, meta = load_golden(fixture_path)
    model = model_of(meta, arrays)
    logits, _ = loss_of(model, arrays, 1)
    labels = arrays["input/step1/labels"]
    for i, values in enumerate(logits.values()):
        # a share of M patches, float64 here and recorded in float32
        assert_close_output((values.numpy().argmax(-1) == labels).mean(), arrays["output/mlm_acc"][0, i], "accuracy")


def test_forward_variants_match_the_official_model(fixture_path):
    arrays, meta = load_golden(fixture_path)
    model = model_of(meta, arrays)
    model.eval()
    x, mask, _ = inputs(arrays, 1)
    variants = group(arrays, "output/variants")
    names = {"mim": "main", "cls": "cls_pt"}
    for head, values in model.all_logits(x, mask).items():
        assert_close_output(values, variants[f"all_tokens_logits/{names[head]}"], "all_tokens_logits " + head)
    for head, values in model.all_logits(x, None).items():
        assert_close_output(values, variants[f"all_tokens_logits_nomask/{names[head]}"], "nomask " + head)
    for head, tokens in model.head_tokens(x, mask).items():
        assert_close_output(tokens, variants[f"features_all/{names[head]}"], "features_all " + head)
        assert_close_output(tokens[:, 1:], variants[f"patch_tokens/{names[head]}"], "patch_tokens " + head)
    assert_close_output(model.last_attention(x), variants["last_selfattention"], "last_selfattention")
