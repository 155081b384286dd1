# SPDX-License-Identifier: Apache-2.0
"""LayerNorm epsilon of the teachers: tokens so small that 1e-5 in place of 1e-6 moves the output visibly."""

from __future__ import annotations

import paddle
import pytest
from golden_io import assert_close_output, group, load_golden

from beitv2_core.teachers.clip import visual_from_state
from beitv2_core.teachers.dino import vit_from_state

SUBJECT = "ln_eps"


def output(kind: str, arrays, meta, fixture_path):
    if f"{kind}/output" not in arrays:
        pytest.skip(f"{fixture_path.name} has no {kind} part")
    build = visual_from_state if kind == "clip" else vit_from_state
    net = build(group(arrays, f"{kind}/state"), num_heads=meta["config"]["heads"])
    net.eval()
    with paddle.no_grad():
        return net.tokens(paddle.to_tensor(arrays["input/x"]))[:, 1:]


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_the_epsilon_of_the_teacher_matches(fixture_path, kind):
    arrays, meta = load_golden(fixture_path)
    assert_close_output(output(kind, arrays, meta, fixture_path), arrays[f"{kind}/output"], f"{kind}/output")
