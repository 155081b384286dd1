# SPDX-License-Identifier: Apache-2.0
"""Free memory of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

#: the limit of a container: of cgroup v2, of v1
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def free_memory(meminfo: Path = Path("/proc/meminfo"), groups: Path = Path("/sys/fs/cgroup")) -> Optional[int]:
    """Bytes that processes can still take, at most a container's limit; None where the system does not tell."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    for name in LIMITS:
        try:
            limit = int((groups / name).read_text())
        except (OSError, ValueError):  # no such group; "max" is no limit
            continue
        free = limit if free is None else min(free, limit)
    return free
