# SPDX-License-Identifier: Apache-2.0
"""How processes end is told from what they leave; stopped ones are seen, orphans end."""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from beitv2_core.launching import processes, records, worker
from beitv2_core.launching.decisions import DONE, FAILED, LOST, STOPPED
from beitv2_core.launching.local_job import ending
from beitv2_core.launching.records import Records

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.mark.parametrize(("code", "pids", "codes", "wanted"), [
    (0, {0: 1, 1: 2}, {0: 0, 1: 0}, (DONE, 0)),
    (241, {0: 1, 1: 2}, {}, (LOST, 1)),  # both killed: by the system, and then by the launcher
    (1, {0: 1, 1: 2}, {0: 0}, (LOST, 1)),  # one has finished, the other was killed
    (1, {0: 1, 1: 2}, {1: 2}, (FAILED, 2)),  # the first one ended because the second one did
    (241, {0: 1, 1: 2}, {0: 143, 1: 2}, (FAILED, 2)),
    (143, {0: 1, 1: 2}, {0: 143, 1: 143}, (STOPPED, 1)),
    (2, {}, {}, (FAILED, 2)),  # the launcher refused its arguments
    (247, {}, {}, (FAILED, 1))])
def test_how_processes_ended(code, pids, codes, wanted):
    assert ending(code, Records(pids, codes, None)) == wanted


def test_processes_tell_their_launch_and_nobody_else(tmp_path, monkeypatch):
    monkeypatch.delenv(records.FOLDER, raising=False)
    records.tell("pid", 1)
    assert not records.is_restart() and not records.processes_may_change()
    monkeypatch.setenv(records.FOLDER, str(tmp_path))
    monkeypatch.setenv("PADDLE_TRAINER_ID", "3")
    records.tell("pid", 77)
    records.tell("total_batch", 64)
    (tmp_path / "part_of_code.3").write_text("")  # being written
    assert Records.read(tmp_path) == Records({3: 77}, {}, 64)


@pytest.mark.parametrize(("end", "code"), [(SystemExit(2), 2), (SystemExit(None), 0), (SystemExit("why"), 1),
                                           (SystemExit(143), 143), (ValueError("a bug"), 1)])
def test_a_process_leaves_its_exit_code(tmp_path, monkeypatch, end, code):
    def command(*arguments, **options):
        raise end

    monkeypatch.setattr(runpy, "run_module", command)
    monkeypatch.setattr(worker, "end_with", lambda parent: None)
    monkeypatch.setattr(worker, "SECONDS_OF_THE_MONITOR", 0.0)
    monkeypatch.setenv(records.FOLDER, str(tmp_path))
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    with pytest.raises(type(end)):
        worker.run()
    assert Records.read(tmp_path) == Records({0: os.getpid()}, {0: code}, None)


@pytest.mark.parametrize("chosen", [None, "3"])
def test_processes_take_their_share_of_the_cores_unless_the_user_has_said_otherwise(tmp_path, chosen):
    """This process has all cores for itself, and says so in its environment."""
    code = ("import os, subprocess; from pathlib import Path; from beitv2_core.launching import local_job; "
            "subprocess.Popen = lambda words, env, **options: found.append(env); found = []; "
            "job = local_job.LocalJob([], devices=[], log_dir=Path('log'), most_hosts=1); job.start(1, 1, 0, None); "
            "job.close(); print(os.environ['OMP_NUM_THREADS'], found[0].get('OMP_NUM_THREADS'))")
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    said = subprocess.run([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, check=True,
                          env=own if chosen is None else {**own, "OMP_NUM_THREADS": chosen}).stdout.split()
    assert said[1] == str(chosen) and (chosen is None or said[0] == chosen)


@linux
def test_a_process_that_stays_stopped_is_seen_and_one_that_goes_on_is_not():
    sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        watch = processes.StoppedWatch(3)
        assert [watch.look([sleeping.pid]) for _ in range(4)] == [[]] * 4
        os.kill(sleeping.pid, signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while processes.state(sleeping.pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [watch.look([sleeping.pid]) for _ in range(2)] == [[]] * 2
        os.kill(sleeping.pid, signal.SIGCONT)
        while processes.state(sleeping.pid) == "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watch.look([sleeping.pid]) == []
        os.kill(sleeping.pid, signal.SIGSTOP)
        while processes.state(sleeping.pid) != "T" and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [watch.look([sleeping.pid]) for _ in range(3)] == [[], [], [sleeping.pid]]
    finally:
        sleeping.kill()
        sleeping.wait()
    assert not processes.is_alive(sleeping.pid)


@linux
def test_a_process_ends_with_its_parent(tmp_path):
    """The parent is killed, and could not have told anybody."""
    child = (f"import os, time; from pathlib import Path; from beitv2_core.launching.processes import end_with; "
             f"end_with(os.getppid()); Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)")
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess, sys; "
                               f"subprocess.run([sys.executable, '-c', {child!r}])"])
    deadline = time.monotonic() + 20
    while not ((tmp_path / "pid").exists() and (tmp_path / "pid").read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = int((tmp_path / "pid").read_text())
    parent.kill()
    parent.wait()
    while processes.is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not processes.is_alive(pid)
