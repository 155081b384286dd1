# SPDX-License-Identifier: Apache-2.0
"""From the options of `beitv2 launch` to the exit code of the job."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError
from .decisions import Job
from .local_job import LocalJob
from .supervise import FirstHost, OtherHost, Signals, hello

#: for one attempt to reach host 0
CONNECT_TIMEOUT_SECONDS = 10.0


class Hosts(NamedTuple):
    """Where a job runs: number of hosts, number of this one, "ADDRESS:PORT" of host 0, seconds to wait for hosts."""

    nnodes: int
    rank: int
    master: str | None
    wait: float


def run_job(command: Sequence[str], hosts: Hosts, *, nproc_per_node: int | None, gpus: str | None, restarts: int,
            log_dir: Path) -> int:
    """Run a command of `beitv2` in several processes to its end; the exit code. Raises ConfigError."""
    processes, devices = _devices(nproc_per_node, gpus)
    if hosts.rank >= hosts.nnodes:
        raise ConfigError(f"--rank {hosts.rank}: there are {hosts.nnodes} host(s) (--nnodes); their ranks are 0 to "
                          f"{hosts.nnodes - 1}.")
    address = None if hosts.nnodes == 1 else _address(hosts.master)
    local = LocalJob(command, devices=devices, log_dir=log_dir, most_hosts=hosts.nnodes)
    signals = Signals()
    try:
        with signals.remembered():
            if hosts.rank == 0 or address is None:
                job = Job(restarts=restarts, most_hosts=hosts.nnodes, wait=hosts.wait, clock=time.monotonic)
                return FirstHost(job, local, hello(0, processes, command), address, signals).run()
            first = address
            return OtherHost(local, lambda: hello(hosts.rank, processes, command),
                             lambda: socket.create_connection(first, timeout=CONNECT_TIMEOUT_SECONDS), signals).run()
    finally:
        local.close()


def _devices(nproc_per_node: int | None, gpus: str | None) -> tuple[int, list[str]]:
    """The processes of this host, and the launcher's flags for them."""
    if (nproc_per_node is None) == (gpus is None):
        raise ConfigError("launch: give either --gpus 0,1,... (one process each) or --nproc-per-node N (on the CPU).")
    if gpus is None:
        return int(nproc_per_node or 0), ["--nproc_per_node", str(nproc_per_node)]
    numbers = gpus.split(",")
    if not all(number.strip().isdigit() for number in numbers):
        raise ConfigError(f"--gpus {gpus}: numbers of GPUs with commas between them are expected, e.g. 0,1.")
    return len(numbers), ["--gpus", gpus]


def _address(master: str | None) -> tuple[str, int]:
    host, _, port = (master or "").rpartition(":")
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        host = ""
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"--master {master}: with several hosts the IPv4 address of host 0 and a free port there are "
                          "expected, the same on all of them, e.g. 10.0.0.1:8090.")
    return host, int(port)
