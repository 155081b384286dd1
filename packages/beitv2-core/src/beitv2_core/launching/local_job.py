# SPDX-License-Identifier: Apache-2.0
"""The processes of one host in one round, started by Paddle's launcher.

Paddle's own restart options are of no use here (2.6.2 and 3.3.1, read and tried): `--max_restart`, `--elastic_level`
and `--nnodes 1:2` act only with `--master etcd://...`, that is with a server of etcd and the package etcd3; without it
they are accepted and ignored (a killed process ends the job, and `--nnodes 1:2` waits for two hosts for ever).  With it
they start the job again after any error, also one that every start would meet.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ..runtime import users_environment
from .decisions import DONE, FAILED, LOST, STOPPED
from .processes import StoppedWatch, is_alive, kill
from .records import FOLDER, HOSTS, PARENT, RESTARTED, Records

log = logging.getLogger("beitv2_core")
#: a process that is stopped (SIGSTOP) for this long is lost: before gloo gives up on it after 30 seconds
STOPPED_SECONDS, LOOK_SECONDS = 20.0, 1.0
#: for killed processes to leave
KILL_SECONDS = 20.0


class LocalJob:
    """Start, watch and end the processes of this host.

    command: words after `beitv2`; devices: the launcher's flags that say how many processes on what; log_dir: where
    their output goes; most_hosts: of the job.
    """

    def __init__(self, command: Sequence[str], *, devices: Sequence[str], log_dir: Path, most_hosts: int):
        self._command, self._devices, self._log_dir = list(command), list(devices), log_dir
        self._most_hosts = most_hosts
        self._all_records = Path(tempfile.mkdtemp(prefix="beitv2_launch_"))
        self._records = self._all_records
        self._launcher: subprocess.Popen[bytes] | None = None
        self._stopped = StoppedWatch(int(STOPPED_SECONDS / LOOK_SECONDS))
        self._looked = 0.0

    def start(self, number: int, hosts: int, rank: int, master: str | None) -> None:
        """Start round `number` as host `rank` of `hosts`; master: address and port for Paddle's launchers."""
        self.kill()
        self._records = Path(tempfile.mkdtemp(dir=self._all_records))  # host 0 may have begun to count anew
        between = [] if hosts == 1 else ["--nnodes", str(hosts), "--master", str(master), "--rank", str(rank)]
        words = [sys.executable, "-m", "beitv2_core.launching.launcher", *between, *self._devices,
                 "--log_dir", str(self._log_dir), str(Path(__file__).with_name("worker.py")), *self._command]
        told = {FOLDER: str(self._records), HOSTS: str(self._most_hosts), RESTARTED: str(int(number > 1)),
                PARENT: str(os.getpid())}
        # A session of its own: Ctrl-C is for `beitv2 launch`, which has the processes save first.
        self._launcher = subprocess.Popen(words, env={**users_environment(), **told}, start_new_session=True)

    def poll(self) -> tuple[str, int] | None:
        """How the processes ended, and with which exit code; None while they run, or where none were started.

        A process that has been stopped for too long is killed.
        """
        if self._launcher is None:
            return None
        code = self._launcher.poll()
        found = Records.read(self._records)
        if code is None:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._looked = time.monotonic()
                self._end_stopped(found)
            return None
        self._launcher = None
        return ending(code, found)

    def _end_stopped(self, found: Records) -> None:
        ranks = {pid: rank for rank, pid in found.pids.items()}
        for pid in self._stopped.look(ranks):
            log.error("launch: process %d (rank %d) has been stopped by a signal for %g s; it is killed", pid,
                      ranks[pid], STOPPED_SECONDS)
            kill(pid)

    def total_batch(self) -> int | None:
        """The images behind one update, once a process has said so."""
        return Records.read(self._records).total_batch

    def terminate(self) -> None:
        """Have the processes save and end: the training loop of each hears of a signal that one has seen."""
        found = Records.read(self._records)
        for rank, pid in found.pids.items():
            if rank not in found.codes:
                kill(pid, signal.SIGTERM)

    def kill(self) -> None:
        """End the processes at once, and wait until they have left: their locks and ports are free then."""
        if self._launcher is not None:
            self._launcher.kill()  # on Linux its processes end with it
            self._launcher.wait()
            self._launcher = None
        pids = list(Records.read(self._records).pids.values())
        for pid in pids:
            kill(pid)
        deadline = time.monotonic() + KILL_SECONDS
        while any(map(is_alive, pids)) and time.monotonic() < deadline:
            time.sleep(0.05)

    def close(self) -> None:
        """End what is left, and forget what the processes told."""
        self.kill()
        shutil.rmtree(self._all_records, ignore_errors=True)


def ending(code: int, found: Records) -> tuple[str, int]:
    """How processes with these records ended, and the exit code that says so; code: the launcher's."""
    own = [one for one in found.codes.values() if 0 < one < 128]
    if code == 0:
        return DONE, 0
    if own:
        return FAILED, own[0]
    if not found.pids:  # the launcher itself
        return FAILED, code if 0 < code < 128 else 1
    if any(one > 128 for one in found.codes.values()):
        return STOPPED, 1
    return LOST, 1
