# SPDX-License-Identifier: Apache-2.0
"""Processes wait for each other without a limit, and end, saying why, when one of them is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beitv2_core.engine import peer_monitor
from beitv2_core.errors import BEiTError

SCRIPT = Path(__file__).with_name("peer_process.py")


def start(folder, rank, *actions):
    return subprocess.Popen([sys.executable, str(SCRIPT), str(folder), str(rank), str(len(actions)), actions[rank]],
                            text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "PADDLE_TRAINER_ID": str(rank)})


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


def test_a_process_finishes_what_it_must_before_it_ends_because_another_one_is_gone(tmp_path):
    code, said, _ = group(tmp_path, "writing", "killed")[0]
    assert code == 1 and said == "written\n"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the state of a process is read in /proc")
@pytest.mark.parametrize("gone", [0, 2])
@pytest.mark.parametrize("others", ["busy", "waiting"])
def test_when_one_stays_stopped_the_others_name_it_and_end(tmp_path, gone, others):
    actions = [others] * 3
    actions[gone] = "stopped"
    processes = [start(tmp_path, rank, *actions) for rank in range(3)]
    try:
        for rank in {0, 1, 2} - {gone}:
            said = processes[rank].communicate(timeout=30)[1]
            assert processes[rank].returncode == 1
            assert f"process {gone} of 3" in said and "--resume auto" in said
    finally:
        processes[gone].kill()
        processes[gone].communicate()


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


@pytest.fixture
def first(tmp_path):
    """The first of two processes, waiting for the second, and its port."""
    process = start(tmp_path, 0, "waiting", "waiting")
    deadline = time.monotonic() + 20
    while not (tmp_path / "numbers").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    yield process, json.loads((tmp_path / "numbers").read_text())
    process.kill()


def connected(port):
    stranger = socket.create_connection(("127.0.0.1", port))
    stranger.settimeout(20)
    return stranger


def assert_both_finish(first, folder):
    second = start(folder, 1, "waiting", "waiting")
    for rank, process in enumerate((first, second)):
        assert process.communicate(timeout=30)[0] == f"{rank} finished\n"


SAID = {"another token": b"12345 1\n", "no text": b"\xff\xfe\x00 1\n", "digits that are no ASCII": "٣ ١\n".encode(),
        "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "no end of the line": b"x" * 5000, "an empty line": b"\n"}


@pytest.mark.parametrize("words", SAID.values(), ids=SAID)
def test_a_stranger_that_says_something_is_turned_away(tmp_path, first, words):
    process, (port, _) = first
    with connected(port) as stranger:
        stranger.sendall(words)
        try:
            assert stranger.recv(10) == b""
        except ConnectionResetError:  # what it said was not read to the end
            pass
        assert_both_finish(process, tmp_path)


def test_silent_strangers_and_some_that_leave_hold_nobody_up(tmp_path, first):
    process, (port, token) = first
    silent = [connected(port) for _ in range(5)]
    for words in (b"", b"12", str(token).encode()):
        with connected(port) as leaving:
            leaving.sendall(words)
    silent[0].sendall(str(token).encode())  # the beginning of the right line
    assert_both_finish(process, tmp_path)
    for stranger in silent:
        stranger.close()


def test_who_knows_the_token_but_is_no_process_of_the_group_is_turned_away(tmp_path, first):
    process, (port, token) = first
    for number in ("0", "2", "-1", "one"):
        with connected(port) as stranger:
            stranger.sendall(f"{token} {number}\n".encode())
            assert stranger.recv(10) == b""
    assert_both_finish(process, tmp_path)


def test_a_first_process_that_cannot_be_reached_is_named():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(BEiTError, match=f"process 1 of 2: cannot reach process 0 at 127.0.0.1, port {port}"):
        peer_monitor.PeerMonitor(1, 2, "127.0.0.1", lambda numbers: [port, 1])


def test_processes_that_never_connect_are_named(monkeypatch):
    monkeypatch.setattr(peer_monitor, "CONNECT_SECONDS", 0.5)
    with pytest.raises(BEiTError, match=r"no connection from process\(es\) 1, 2 at 127.0.0.1"):
        peer_monitor.PeerMonitor(0, 3, "127.0.0.1", lambda numbers: numbers)
