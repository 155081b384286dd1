"""Processes wait for each other without a limit, and end, saying why, when one of them is gone."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("lifeline_process.py")


def start(folder, rank, *actions):
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(rank), str(len(actions)), actions[rank]],
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def group(folder, *actions):
    """(exit code, stdout, stderr) of every process."""
    processes = [start(folder, rank, *actions) for rank in range(len(actions))]
    said = [process.communicate(timeout=30) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, said)]


@pytest.mark.parametrize("actions", [("waiting", "late", "waiting"), ("late", "waiting", "waiting")])
def test_a_late_process_is_waited_for(tmp_path, actions):
    assert [code for code, _, _ in group(tmp_path, *actions)] == [0, 0, 0]


@pytest.mark.parametrize("gone", [0, 2])
@pytest.mark.parametrize("others", ["busy", "waiting"])
def test_when_one_is_killed_the_others_name_it_and_end(tmp_path, gone, others):
    actions = [others] * 3
    actions[gone] = "killed"
    for rank, (code, _, said) in enumerate(group(tmp_path, *actions)):
        if rank == gone:
            assert code == -9
        else:
            assert code == 1
            assert f"process {gone} of 3 is gone" in said and "--resume auto" in said


def test_a_failing_process_ends_the_others_and_keeps_its_own_error(tmp_path):
    found = group(tmp_path, "busy", "failing")
    assert [code for code, _, _ in found] == [1, 1]
    assert "process 1 of 2 is gone" in found[0][2]
    assert "an error of its own" in found[1][2] and "gone" not in found[1][2]


@pytest.mark.parametrize("actions", [("working", "done", "working"), ("done", "working", "working")])
def test_a_process_that_has_finished_leaves_the_others_alone(tmp_path, actions):
    assert [code for code, _, _ in group(tmp_path, *actions)] == [0, 0, 0]


@pytest.mark.parametrize("actions", [("waiting", "done"), ("done", "waiting")])
def test_waiting_for_a_process_that_has_finished_is_an_error(tmp_path, actions):
    waiting = actions.index("waiting")
    code, _, said = group(tmp_path, *actions)[waiting]
    assert code == 1 and f"process {1 - waiting} of 2 has ended" in said


def test_a_stranger_that_connects_is_turned_away(tmp_path):
    first = start(tmp_path, 0, "waiting", "waiting")
    deadline = time.monotonic() + 20
    while not (tmp_path / "numbers").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    with socket.create_connection(("127.0.0.1", json.loads((tmp_path / "numbers").read_text())[0])) as stranger:
        stranger.settimeout(20)
        stranger.sendall(b"12345 1\n")
        assert stranger.recv(10) == b""
        second = start(tmp_path, 1, "waiting", "waiting")
        for rank, process in enumerate((first, second)):
            assert process.communicate(timeout=30)[0] == f"{rank} finished\n"
