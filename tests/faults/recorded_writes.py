# SPDX-License-Identifier: Apache-2.0
"""What a run does to a folder, in order: files and folders made, written, renamed and removed, and what was synced.

How it is known.  Python tells an audit hook of every opening for writing, renaming, linking, removing, truncating and
making of a folder before it happens; `os.fsync` is replaced by one that tells too.  At each of them, and at each mark,
the folder is read and compared with what it held before.  So are seen: every name that Python changes, one at a time
and in order; every sync, with the content it made last; and all that compiled code (safetensors, Paddle, pyarrow)
wrote in between, as the difference.  That the packages sync and rename nowhere else is
`tests/house/test_one_writer.py`'s to show.

Not seen: the order of the single writes between two of these moments, which nothing on the disk depends on: what is not
synced may be lost in any way.
"""

from __future__ import annotations

import os
import pickle
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Optional, Union

ROOT = 0
#: the mark before the first operation of the run itself
START = "start"
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_TELLING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


class Op(NamedTuple):
    """One operation.

    kind: "make" (an empty file or folder `node`), "add" (name in folder -> node), "remove" (name), "rename" (name ->
    new_folder/new_name, one step), "write" (the file's whole content and time from here on), "sync" (a file's content,
    or a folder's names), "mark" (name: what the run has just reported).
    """

    kind: str
    node: int = ROOT
    folder: int = ROOT
    name: str = ""
    new_folder: int = ROOT
    new_name: str = ""
    content: Optional[bytes] = None
    is_folder: bool = False
    time: int = 0


class Seen(NamedTuple):
    """A file or folder of the disk as it was read: its content, or its names and the inodes behind them."""

    names: Optional[dict[str, int]]
    content: Optional[bytes]
    time: int


class Recorder:
    """Operations on what is below `root`, which must exist; what it holds at first counts as synced long ago.

    stream: also written there, one by one, for a process that may end at any time.
    """

    def __init__(self, root: Union[str, Path], stream: Optional[BinaryIO] = None):
        self.root, self.ops, self.stream = os.path.realpath(root), [], stream  # type: ignore[var-annotated]
        self._lock, self._busy, self.on = threading.RLock(), False, False
        self._process = os.getpid()  # forks inherit the hook, and write nothing that lasts
        self._numbers: dict[int, int] = {}
        self._next = 1
        self._before: dict[int, Seen] = {}

    def start(self) -> None:
        """Begin; what is there is recorded as synced."""
        inode = os.stat(self.root).st_ino
        self._numbers, self._before = {inode: ROOT}, {inode: Seen({}, None, 0)}
        self._look()
        for number in sorted(self._numbers.values()):
            self._keep(Op("sync", number))
        self._keep(Op("mark", name=START))
        sys.addaudithook(self._hook)
        self._fsync = os.fsync
        os.fsync = self._synced  # type: ignore[assignment]
        self.on = True

    def stop(self) -> None:
        """See the last changes, and record no more."""
        self._look()
        self.on = False
        os.fsync = self._fsync

    def mark(self, name: str) -> None:
        """The run has just reported something: it must be true after any later power cut."""
        self._look()
        self._keep(Op("mark", name=name))

    def _keep(self, op: Op) -> None:
        self.ops.append(op)
        if self.stream is not None:
            pickle.dump(op, self.stream)
            self.stream.flush()

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on or os.getpid() != self._process or (event != "open" and event not in _TELLING):
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _WRITES or isinstance(path, int):
                return
            if not os.path.realpath(os.fsdecode(path)).startswith(self.root):
                return
        self._look()

    def _synced(self, descriptor: Any) -> None:
        if os.getpid() != self._process:
            self._fsync(descriptor)
            return
        self._look()
        self._fsync(descriptor)
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        node = self._numbers.get(os.fstat(number).st_ino)
        if node is not None:
            with self._lock:
                self._keep(Op("sync", node))

    def _look(self) -> None:
        """Record what changed since the last look."""
        with self._lock:
            if self._busy:
                return
            self._busy = True
            try:
                now = self._read_all()
                self._compare(now)
                self._before = now
            finally:
                self._busy = False

    def _read_all(self) -> dict[int, Seen]:
        while True:
            found: dict[int, Seen] = {}
            try:
                self._read(self.root, found)
            except FileNotFoundError:  # another thread took it away meanwhile
                continue
            return found

    def _read(self, folder: str, found: dict[int, Seen]) -> None:
        names: dict[str, int] = {}
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                state = entry.stat(follow_symlinks=False)
                names[entry.name] = state.st_ino
                if stat.S_ISDIR(state.st_mode):
                    self._read(entry.path, found)
                elif stat.S_ISREG(state.st_mode) and state.st_ino not in found:
                    with open(entry.path, "rb") as file:
                        content = file.read()
                    before = self._before.get(state.st_ino)
                    if before is not None and before.content == content:
                        content = before.content or b""  # held once
                    found[state.st_ino] = Seen(None, content, state.st_mtime_ns)
        found[os.stat(folder).st_ino] = Seen(names, None, 0)

    def _compare(self, now: dict[int, Seen]) -> None:
        links = [{(folder, name): inode for folder, one in state.items() for name, inode in (one.names or {}).items()}
                 for state in (self._before, now)]
        gone = [(place, inode) for place, inode in links[0].items() if links[1].get(place) != inode]
        come = [(place, inode) for place, inode in links[1].items() if links[0].get(place) != inode]
        moved: dict[int, tuple[int, str]] = {}
        for place, inode in gone:
            moved[inode] = place
        new = {inode for inode in now if inode not in self._before}
        for inode in sorted(new):
            self._numbers[inode] = self._next  # an inode that was used before is another file now
            self._keep(Op("make", self._next, is_folder=now[inode].names is not None))
            self._next += 1
        number = self._numbers
        replaced = {place for place, _ in come}
        for inode in new:  # content first: the name may be given by a rename of compiled code
            if now[inode].content:
                self._keep(Op("write", number[inode], content=now[inode].content, time=now[inode].time))
        for inode, seen in now.items():
            before = self._before.get(inode)
            if before is not None and seen.content is not None and seen[1:] != before[1:]:
                self._keep(Op("write", number[inode], content=seen.content, time=seen.time))
        for (folder, name), inode in come:
            if inode in moved and inode not in new:
                old_folder, old_name = moved.pop(inode)
                self._keep(Op("rename", number[inode], number[old_folder], old_name, number[folder], name))
                gone = [one for one in gone if one != ((old_folder, old_name), inode)]
            else:
                self._keep(Op("add", number[inode], number[folder], name))
        for (folder, name), inode in gone:
            if (folder, name) not in replaced and folder in now:
                self._keep(Op("remove", number[inode], number[folder], name))


@contextmanager
def recorded(root: Union[str, Path]) -> Iterator[Recorder]:
    """Record what the block does below `root`."""
    recorder = Recorder(root)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.stop()


def operations(record: Union[str, Path]) -> list[Op]:
    """What a recorder with that stream has written."""
    found = []
    with open(record, "rb") as file:
        while file.peek(1):
            found.append(pickle.load(file))
    return found
