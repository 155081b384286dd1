# SPDX-License-Identifier: Apache-2.0
"""When a job is started, stopped, started again or given up: decided by the first host, computed without doing it.

A round is one life of the job: the processes between a start and their end.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import NamedTuple

#: how the processes of a host ended: all with 0; one by an error of its own; after a signal and a checkpoint; otherwise
DONE, FAILED, STOPPED, LOST = "done", "failed", "stopped", "lost"
#: after a lost process: time for the processes of the other hosts to end by themselves, and to say why
GRACE_SECONDS = 10.0


class Start(NamedTuple):
    """Start a round on these hosts, in the order of their processes' ranks."""

    hosts: tuple[int, ...]
    why: str


class Stop(NamedTuple):
    """Have the processes save and end (SIGTERM)."""

    why: str


class Kill(NamedTuple):
    """End what is left of the processes of these hosts."""

    hosts: tuple[int, ...]


class Finish(NamedTuple):
    """End the job with this exit code, on every host."""

    code: int
    why: str


class Job:
    """The state of a job: which hosts are there, what runs, and how often it may still be started again.

    restarts: after lost processes; most_hosts: those that are waited for, for at most `wait` seconds; clock: seconds.
    """

    def __init__(self, *, restarts: int, most_hosts: int, wait: float, clock: Callable[[], float]):
        self.restarts, self.most_hosts, self._wait, self._clock = restarts, most_hosts, wait, clock
        self.left = restarts
        self.rounds = 0
        self.total_batch: int | None = None
        self._processes: dict[int, int] = {}  # of every host that is there
        self._round: tuple[int, ...] = ()
        self._ended: dict[int, tuple[str, int]] = {}
        self._leaving: set[int] = set()
        self._asked = ""  # why the round was told to stop
        self._killed: set[int] = set()
        self._bad_since: float | None = None
        self._waiting_since = clock()
        self._why = "the first start"
        self._finish: Finish | None = None

    @property
    def hosts(self) -> list[int]:
        """Those that are there."""
        return sorted(self._processes)

    def joined(self, host: int, processes: int) -> None:
        """A host is there, with that many processes."""
        self._processes[host] = processes
        self._leaving.discard(host)

    def leaves(self, host: int) -> None:
        """A host was told to end: the job saves, and goes on without it."""
        self._leaving.add(host)

    def gone(self, host: int) -> None:
        """The connection to a host has ended, or it has not been heard of."""
        self._processes.pop(host, None)
        if host in self._round and host not in self._ended:
            leaving = host in self._leaving
            self.ended(host, STOPPED if leaving else LOST, 1)
            if not leaving:  # nothing more will be said by it
                self.hurry()
        self._leaving.discard(host)

    def ended(self, host: int, how: str, code: int) -> None:
        """The processes of a host have ended."""
        self._ended[host] = how, code
        if how != DONE and self._bad_since is None:
            self._bad_since = self._clock()

    def hurry(self) -> None:
        """End what is left of the round without waiting for it."""
        self._bad_since = self._clock() - GRACE_SECONDS

    def finish(self, code: int, why: str) -> None:
        """End the job as soon as its processes have."""
        self._finish = self._finish or Finish(code, why)

    def next(self) -> Start | Stop | Kill | Finish | None:
        """What is to be done now."""
        if self._round:
            action = self._in_a_round()
            if self._round or action is not None:
                return action
        if self._finish is not None:
            return self._finish
        waited = self._clock() - self._waiting_since
        there = [host for host in self.hosts if host not in self._leaving]
        if 0 not in there or (len(there) < self.most_hosts and waited < self._wait):
            return None
        hosts = self._fitting(there)
        if not hosts:
            sizes = ", ".join(f"host {host}: {self._processes[host]}" for host in there)
            return Finish(2, f"{self.total_batch} images behind one update (the setting total_batch) are not divided "
                             f"by the processes that are left ({sizes})")
        self._round, self._ended, self._asked, self._bad_since = hosts, {}, "", None
        self._killed = set()
        self.rounds += 1
        return Start(hosts, self._why)

    def _fitting(self, there: list[int]) -> tuple[int, ...]:
        """As many of the hosts as have processes that divide the images behind one update."""
        for count in range(len(there), 0, -1):
            if self.total_batch is None or self.total_batch % sum(self._processes[one] for one in there[:count]) == 0:
                return tuple(there[:count])
        return ()

    def _in_a_round(self) -> Stop | Kill | Finish | None:
        running = tuple(host for host in self._round if host not in self._ended)
        if not running:
            return self._conclude()
        if self._bad_since is not None:
            late = tuple(host for host in running if host not in self._killed)
            if late and self._clock() - self._bad_since >= GRACE_SECONDS:
                self._killed |= set(late)
                return Kill(late)
            return None
        if self._asked:
            return None
        there = [host for host in self.hosts if host not in self._leaving]
        new = set(self._fitting(there)) - set(self._round)
        if self._finish is not None:
            self._asked = self._finish.why
        elif self._leaving & set(self._round):
            self._asked = f"host {min(self._leaving & set(self._round))} leaves"
        elif new:
            self._asked = f"host {min(new)} is there"
        return Stop(self._asked) if self._asked else None

    def _conclude(self) -> Finish | None:
        """All processes of the round have ended: is that the end of the job?"""
        ends = self._ended  # in the order in which they ended
        self._round, self._waiting_since = (), self._clock()
        failed = [(host, code) for host, (how, code) in ends.items() if how == FAILED]
        lost = [host for host, (how, _) in ends.items() if how == LOST]
        if failed:
            host, code = failed[0]
            return Finish(code, f"a process of host {host} ended by an error of its own, which another start would "
                                "meet again")
        if all(how == DONE for how, _ in ends.values()):
            return Finish(0, "all processes have finished")
        if self._finish is not None:
            return self._finish
        if self._asked:  # also when a process was still starting, and died of the signal
            self._why = self._asked
            return None
        what = f"a process of host {lost[0]} was lost" if lost else "a process was stopped by a signal"
        if self.left == 0:
            after = f"; it was started again {self.restarts} time(s), as --restarts allows" if self.restarts else ""
            return Finish(1, f"{what}{after}. The last checkpoint is intact: the same command with --resume "
                             "auto continues from it")
        self.left -= 1
        self._why = f"{what}; restart {self.restarts - self.left} of {self.restarts}"
        return None


def code_of_signal(number: int) -> int:
    """The exit code of a program that ends because of a signal, as shells report it."""
    return 128 + int(signal.Signals(number))
