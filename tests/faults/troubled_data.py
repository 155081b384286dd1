# SPDX-License-Identifier: Apache-2.0
"""Data for workers that have trouble; a module of its own, so that the workers can import it."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing import connection
from pathlib import Path

from beitv2_core.data import ImageFolder, TokenizerTransform


class Slow(ImageFolder):
    """Reading one image takes so many seconds."""

    slow, seconds = 5, 0.0

    def load(self, index):
        if index == self.slow:
            time.sleep(self.seconds)
        return super().load(index)


class DiesWhileSending(TokenizerTransform):
    """The worker that reads `path` is killed with half of its batch in the pipe."""

    def __init__(self, path: Path):
        super().__init__(8)
        self.path = str(path)

    def __call__(self, sample, rng):
        if sample.path == self.path:
            connection.Connection._send = _send_half
        return super().__call__(sample, rng)


def _send_half(self, buffer, write=os.write):
    write(self._handle, bytes(buffer)[: len(buffer) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
