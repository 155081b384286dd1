# SPDX-License-Identifier: Apache-2.0
"""A run folder is one run's own; nothing of the machine around it (locks, git, other programs) ends a run."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time

import pytest
import toy

from beitv2_core.engine import run_folder
from beitv2_core.engine.run_folder import RunFolder, environment
from beitv2_core.errors import ConfigError


@pytest.fixture(autouse=True)
def heard(caplog):
    logging.getLogger("beitv2_core").propagate = True
    caplog.set_level(logging.INFO, logger="beitv2_core")
    return caplog


def put_git(folder, script):
    """A `git` that comes first."""
    (folder / "bin").mkdir()
    (folder / "bin/git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bin/git").chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("script", ["exec sleep 60", "printf '\\377\\376'; exit 1", "kill -9 $$", "exit 128"])
def test_a_git_that_hangs_or_fails_ends_no_run_and_is_no_commit(tmp_path, monkeypatch, script, heard):
    monkeypatch.setenv("PATH", put_git(tmp_path, script))
    monkeypatch.setattr(run_folder, "GIT_SECONDS", 0.5)
    began = time.monotonic()
    toy.make_loop(tmp_path / "run", steps=8, save_every=1).run()
    assert json.loads((tmp_path / "run/environment.json").read_text())["git_commit"] is None
    assert time.monotonic() - began < 50
    assert ("git gave no commit" in heard.text) == ("sleep" in script)


def test_git_is_asked_once_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", put_git(tmp_path, f"echo asked >> {tmp_path}/asked; echo 1234abcd"))
    toy.make_loop(tmp_path / "run", steps=8, save_every=1).run()
    assert (tmp_path / "asked").read_text() == "asked\n"
    assert json.loads((tmp_path / "run/environment.json").read_text())["git_commit"] == "1234abcd"


def test_without_git_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment(0, "cpu", 1)["git_commit"] is None


def refusing(number):
    def flock(file, how):
        raise OSError(number, os.strerror(number))
    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_trained_on(tmp_path, monkeypatch, number, heard):
    monkeypatch.setattr(run_folder.fcntl, "flock", refusing(number))
    toy.make_loop(tmp_path, steps=4).run()
    assert "has no locks" in heard.text and os.strerror(number) in heard.text
    assert "another process" not in heard.text


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_somebody_holds_is_another_process(tmp_path, monkeypatch, number):
    monkeypatch.setattr(run_folder.fcntl, "flock", refusing(number))
    with pytest.raises(ConfigError, match="another process is training"):
        RunFolder(tmp_path).open()


def test_another_failure_of_the_lock_is_named_as_what_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder.fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(ConfigError, match="Input/output error") as error:
        RunFolder(tmp_path).open()
    assert "another process" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_system_without_locks_at_all_is_told_when_a_run_starts_not_at_the_import():
    code = ("import sys; sys.modules['fcntl'] = None\n"
            "from beitv2_core.engine.run_folder import RunFolder\n"
            "from beitv2_core.errors import ConfigError\n"
            "try: RunFolder('runs/none').open()\n"
            "except ConfigError as error: print(error)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "runs/none" in done.stdout and "fcntl" in done.stdout and len(done.stdout.splitlines()) == 1, done.stderr


def test_only_files_this_code_left_half_written_are_removed(tmp_path):
    """Others' temporary files stay, and those of another run below, which may be writing them now."""
    (tmp_path / "figures").mkdir()
    RunFolder(tmp_path / "other").open()
    ours = [tmp_path / ".config.yml.12.beitv2.tmp", tmp_path / "figures/.curves.png.12.beitv2.tmp"]
    others = [tmp_path / ".editor.tmp", tmp_path / ".report.12.tmp", tmp_path / "figures/.x.tmp", tmp_path / "mine.tmp",
              tmp_path / "other/.summary.json.12.beitv2.tmp"]
    for path in (*ours, *others):
        path.write_text("half")
    folder = RunFolder(tmp_path)
    folder.open()
    folder.close()
    assert not any(path.exists() for path in ours) and all(path.exists() for path in others)
