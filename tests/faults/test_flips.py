# SPDX-License-Identifier: Apache-2.0
"""Bits that flip in one process are found, named, and leave no trace in what the run ends with."""

from __future__ import annotations

import json
import re

import fault_stages as stages
import flips
import pytest
from e2e_runs import placed

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("processes", "count"), [(2, 12), (3, 8)])
def test_every_flipped_bit_is_found_and_the_run_ends_with_the_bits_of_the_undisturbed_one(tmp_path, record_property,
                                                                                          processes, count):
    """Of three processes the one that differs is named too."""
    row = flips.launch(tmp_path, count, processes)
    record_property("summary", f"flipped bits, {processes} processes: {row['found']} of {row['times']} found within "
                               f"{row['note']['steps']} steps")
    assert row["missed"] == [] and row["times"] == count and row["same_bits_as_undisturbed"] and not row["harmed"]
    assert all(number >= 2 for number in row["by_kind"].values())


@pytest.fixture(scope="module")
def sources(warm, tmp_path_factory):
    return stages.make_sources(warm, tmp_path_factory.mktemp("sources"))


@pytest.mark.parametrize("name", stages.NAMES)
def test_steps_computed_twice_change_nothing_and_find_a_flip(name, warm, sources, tmp_path, case):
    """--verify-every: a bit flips in a step; it is found and named, and the run is the undisturbed one."""
    command = stages.stage(name, sources, 6)
    warm.run(tmp_path / "log", placed(command, tmp_path / "whole", 2))
    twice = [*command, f"{'run' if name == 'segment' else 'train'}.verify_every=1"]
    warm.run(tmp_path / "log", placed(twice, tmp_path / "run", 2), inject=["flip_a_bit", 3])
    case.inject("bit flipped in a step that is computed twice")
    told = tmp_path / "run/corruption.jsonl"
    found, _ = map(json.loads, told.read_text().splitlines())
    assert (found["after_step"], found["found_at_step"], found["went_back_to_step"]) == (3, 4, 2)
    assert len(found["tensors"]) == 1
    told.unlink()
    stages.assert_same_run(tmp_path / "whole", tmp_path / "run")
    case.check("tensor and step named; the same end to the bit, metrics too")


@pytest.mark.parametrize("name", stages.NAMES)
def test_a_failing_step_gives_its_number_again(name, warm, sources, tmp_path, case):
    """beitv2 replay FILE: the loss that ended the run, and where its first non-finite value is."""
    rate = "lr_scheduler.learning_rate" if name == "segment" else "optim.lr"
    command = [*stages.stage(name, sources, 6), f"{rate}=1e30"]
    output = warm.run(tmp_path / "log", placed(command, tmp_path / "run", 2), code=1)
    file = next((tmp_path / "run").glob("failing_batch_step_*.npz"))
    case.inject("learning rate of 1e30")
    told = warm.run(tmp_path / "log", ["replay", str(file)])
    loss = re.search(r"loss (?:is|then:) (\S+)", told)
    assert loss and (f"loss is {loss[1]}" in output or "gradient norm is" in output), (told, output)
    assert "(the same)" in told and re.search("first value that is not finite: |gradients are not: ", told), told
    case.check("the same loss; the first value that is not finite")
