# SPDX-License-Identifier: Apache-2.0
"""One process of a group that has nothing but a peer monitor.

    python peer_process.py FOLDER RANK WORLD_SIZE ACTION
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

from beitv2_core.engine import peer_monitor
from beitv2_core.engine.peer_monitor import PeerMonitor

if __name__ == "__main__":
    folder, rank, world_size, action = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    logging.basicConfig()

    def share(numbers: list[int]) -> list[int]:
        file = folder / "numbers"
        if rank == 0:
            file.with_suffix(".part").write_text(json.dumps(numbers))
            os.replace(file.with_suffix(".part"), file)
        while not file.exists():
            time.sleep(0.01)
        return json.loads(file.read_text())

    peer_monitor.LOOK_SECONDS = 0.05
    monitor = PeerMonitor(rank, world_size, "127.0.0.1", share)
    if action == "writing":  # set before the others may be gone
        monitor.before_end = lambda: (time.sleep(0.5), print("written"))
    if action == "late":
        time.sleep(0.5)
    monitor.barrier()
    if action == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    if action == "failing":
        monitor.abandon()
        sys.exit("an error of its own")
    if action == "working":
        time.sleep(1.0)
    elif action in ("waiting", "late"):
        monitor.barrier()
    elif action in ("busy", "writing"):
        time.sleep(60)
    print(f"{rank} finished")
