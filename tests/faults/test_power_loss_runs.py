# SPDX-License-Identifier: Apache-2.0
"""A power cut at any moment of the four trainings: the newest checkpoint and its metrics, and the same end."""

from __future__ import annotations

import random
import re
import shutil

import fault_stages as stages
import pytest
from e2e_runs import placed
from power_cuts import Disk, moments, replay
from recorded_writes import operations
from writing_runs import check_run, plain

from beitv2_core.engine.health import read_rows

STEPS = 9


@pytest.fixture(scope="module")
def sources(warm, tmp_path_factory):
    return stages.make_sources(warm, tmp_path_factory.mktemp("sources"))


def command(name, sources, folder):
    words = stages.stage(name, sources, STEPS)
    if name == "pretrain":
        words = [*words, "tokenizer.cache.views=2"]
    return placed(words, folder, 2)


@pytest.mark.parametrize("name", stages.NAMES)
def test_a_training_command_survives_a_power_cut_at_any_moment(name, warm, sources, seed, states, tmp_path, case):
    """Disks as a power cut leaves them: the newest saved checkpoint is whole, resumed runs end with the same bits."""
    whole, disk, folder = tmp_path / "whole", tmp_path / "disk", tmp_path / "disk" / "run"
    warm.run(tmp_path / "log", command(name, sources, whole))
    warm.run(tmp_path / "log", command(name, sources, folder), inject=["record_writes", str(disk),
                                                                               str(tmp_path / "record")])
    ops, rows = operations(tmp_path / "record"), plain(read_rows(whole / "metrics.jsonl"))
    order = [int(found[1]) for op in ops for found in [re.fullmatch(r"saved (\d+)", op.name)] if found]
    assert order == [2, 4, 6, 8, 9] and ops[-1].kind != "mark"
    draw = random.Random(f"{seed}/{name}")
    (tmp_path / "replay").mkdir()
    found = replay(ops, states, draw, tmp_path / "replay",
                   lambda state, marks: check_run(state / "run", marks, order, rows))
    case.inject(f"power cut, {name}", states)
    case.note(f"{len(moments(ops))} moments; " + ", ".join(f"{count} {what}" for what, count in found.items()))
    resumed = max(2, states // 50)
    for _ in range(resumed):
        shutil.rmtree(disk)
        moment = draw.choice(moments(ops))
        state = Disk(ops[:moment])
        drawn = state.after_a_cut(draw, disk)
        output = warm.run(tmp_path / "log", command(name, sources, folder))
        assert "An older checkpoint is used" not in output, (moment, drawn)
        stages.assert_same_run(whole, folder)
    case.inject(f"power cut and resume, {name}", resumed)
    case.check("newest saved checkpoint whole, metrics up to it; resumed runs equal the uninterrupted one to the bit")
