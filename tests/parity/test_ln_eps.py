# SPDX-License-Identifier: Apache-2.0
"""Tiny tokens make the LayerNorm epsilon of every model family visible."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from golden_io import assert_close_output, group, load_golden

from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.weights.keymaps.official import from_official

SUBJECT = "ln_eps"


@pytest.mark.parametrize("family", ["finetune", "pretrain_cls", "vqkd_encoder"])
def test_layer_norm_epsilon_is_the_official_one(fixture_path, family):
    arrays, meta = load_golden(fixture_path)
    state = from_official(group(arrays, f"{family}/state"))
    if not state:
        pytest.skip(f"{fixture_path.name} holds no {family}")
    c = meta["config"]
    depth = len({key.split(".")[1] for key in state if key.startswith("blocks.")})
    common = dict(image_size=c["img"], patch_size=c["patch"], width=c["dim"], depth=depth, num_heads=c["heads"],
                  init_values=0.1 if "blocks.0.gamma_1" in state else None, use_abs_pos_emb="pos_embed" in state,
                  use_rel_pos_bias="blocks.0.attn.relative_position_bias_table" in state,
                  use_shared_rel_pos_bias="rel_pos_bias.relative_position_bias_table" in state)
    head = {key: paddle.to_tensor(np.ascontiguousarray(state.pop(key))) for key in list(state)
            if key.startswith("head.")}
    if family == "pretrain_cls":
        layers = {int(key.split(".")[1]) for key in state if key.startswith("cls_pt_layers.")}
        model = BEiTForMaskedImageModeling(num_codes=state["lm_head.weight"].shape[1], early_layers=1,
                                           head_layers=len(layers), **common)
    else:
        model = BEiTBackbone(norm="pool", **common)
    assert set(state) == set(model.state_dict())
    model.set_state_dict({key: paddle.to_tensor(np.ascontiguousarray(value)) for key, value in state.items()})
    model.eval()
    x = paddle.to_tensor(arrays["input/x"])
    if family == "pretrain_cls":
        got = paddle.stack(list(model(x, paddle.to_tensor(arrays["input/mask"].astype(bool))).values()))
    elif family == "finetune":
        got = paddle.matmul(model(x), head["head.weight"]) + head["head.bias"]
    else:
        got = model.patch_tokens(x)
    assert_close_output(got, arrays[f"{family}/output"], family)
