# SPDX-License-Identifier: Apache-2.0
"""The disks that a power cut may leave, made from the record of a run.

What is simulated.  Of a file, the content at its last sync is there; of what was written since, each block of 4096
bytes is old, new or, where the file is longer now, zeros, and it ends at an old or new end or at a border of blocks
between them.  Of a folder, the names at
its last sync are there; each later making, removing and renaming happened or did not, on its own and whatever came
before or after it.  A file's sync keeps its content and not its name.  A renaming in one folder happens whole; one into
another folder first gives the new name, then takes the old one.  This is weaker than ext4, XFS and Btrfs promise
(Pillai et al., OSDI 2014, section 3 and table 1).

Not simulated: a disk that says a sync is done when it is not, and blocks that change after they were synced.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from recorded_writes import ROOT, START, Op

BLOCK = 4096


class Version(NamedTuple):
    """A content that a file had, and when it was written."""

    content: bytes
    time: int


class Change(NamedTuple):
    """A change of names that is not synced: (folder, name, node behind it before, after); needs: another one's number
    that happens before this, -1 for none."""

    entries: tuple[tuple[int, str, Optional[int], Optional[int]], ...]
    needs: int = -1


class Disk:
    """A disk after some operations: what is synced, and what may or may not be there."""

    def __init__(self, ops: Sequence[Op]):
        self.versions: dict[int, list[Version]] = {}
        self.folders: dict[int, dict[str, int]] = {ROOT: {}}
        self.pending: dict[int, Change] = {}
        self.marks: list[str] = []
        self._live: dict[int, dict[str, int]] = {ROOT: {}}  # as the running system sees it
        self._count = 0
        for op in ops:
            self.do(op)

    def do(self, op: Op) -> None:
        """Let one more operation happen."""
        if op.kind == "mark":
            self.marks.append(op.name)
        elif op.kind == "make" and op.is_folder:
            self.folders[op.node], self._live[op.node] = {}, {}
        elif op.kind == "make":
            self.versions[op.node] = [Version(b"", 0)]
        elif op.kind == "write":
            assert op.content is not None
            self.versions[op.node].append(Version(op.content, op.time))
        elif op.kind == "add":
            self._change((op.folder, op.name, self._live[op.folder].get(op.name), op.node))
        elif op.kind == "remove":
            self._change((op.folder, op.name, op.node, None))
        elif op.kind == "rename":
            new = (op.new_folder, op.new_name, self._live[op.new_folder].get(op.new_name), op.node)
            old = (op.folder, op.name, op.node, None)
            if op.folder == op.new_folder:
                self._change(old, new)
            else:
                self._change(old, needs=self._change(new))
        elif op.node in self.versions:
            self.versions[op.node] = self.versions[op.node][-1:]
        else:
            for number in [number for number, change in self.pending.items()
                           if any(folder == op.node for folder, *_ in change.entries)]:
                self._settle(number)

    def _change(self, *entries: tuple[int, str, Optional[int], Optional[int]], needs: int = -1) -> int:
        for folder, name, _, node in entries:
            _put(self._live, folder, name, node)
        self._count += 1
        self.pending[self._count] = Change(entries, needs)
        return self._count

    def _settle(self, number: int) -> None:
        change = self.pending.pop(number, None)
        if change is not None:
            self._settle(change.needs)
            _apply(self.folders, change)

    def after_a_cut(self, draw: random.Random, folder: Path) -> str:
        """Write one of the disks that may be left to the new folder `folder`; returns what was drawn, in words."""
        names, kept = _draw_changes(draw, self.pending)
        tree = {number: dict(entries) for number, entries in self.folders.items()}
        for number in kept:
            _apply(tree, self.pending[number])
        how = draw.choice(("old", "new", "zeros", "cut", "torn", "torn", "mixed", "mixed"))
        _write(tree, ROOT, folder, lambda node: _draw_content(draw, self.versions[node], how))
        return f"names: {names}, contents: {how}"


def _draw_changes(draw: random.Random, pending: dict[int, Change]) -> tuple[str, list[int]]:
    """Which of the changes happened, in their order."""
    numbers = list(pending)
    how = draw.choice(("none", "all", "first", "any", "any", "all but one", "one"))
    if how == "none":
        chosen = set()
    elif how == "all":
        chosen = set(numbers)
    elif how == "first":
        chosen = set(numbers[: draw.randint(0, len(numbers))])
    elif how == "any":
        share = draw.random()
        chosen = {number for number in numbers if draw.random() < share}
    else:
        one = {draw.choice(numbers)} if numbers else set()
        chosen = one if how == "one" else set(numbers) - one
    for number in numbers:  # in order: what a change needs comes before it
        if number in chosen and pending[number].needs in pending and pending[number].needs not in chosen:
            chosen.discard(number)
    return f"{how} ({len(chosen)} of {len(numbers)})", [number for number in numbers if number in chosen]


def _apply(tree: dict[int, dict[str, int]], change: Change) -> None:
    for folder, name, before, after in change.entries:
        if after is not None or tree[folder].get(name) == before:
            _put(tree, folder, name, after)


def _put(tree: dict[int, dict[str, int]], folder: int, name: str, node: Optional[int]) -> None:
    if node is None:
        tree[folder].pop(name, None)
    else:
        tree[folder][name] = node


def _draw_content(draw: random.Random, versions: list[Version], how: str) -> Version:
    """A content that a file may have: its first version is synced."""
    old, new = versions[0], versions[-1]
    if how == "mixed":
        how = draw.choice(("old", "new", "zeros", "cut", "torn"))
    if len(versions) == 1 or how == "old":
        return old
    if how == "new":
        return new
    sizes = {len(one.content) for one in versions}
    ends = sorted(sizes | set(range(-(-min(sizes) // BLOCK) * BLOCK, max(sizes), BLOCK)))
    if how == "cut":
        end = draw.choice(ends)
        longest = max(versions, key=lambda one: len(one.content)) if end > len(new.content) else new
        return Version(longest.content[:end], new.time)
    if how == "zeros":  # the end is there before the blocks are: an old part, then zeros
        return Version(old.content[: len(new.content)].ljust(len(new.content), b"\0"), new.time)
    end, blocks = draw.choice(ends), []
    for start in range(0, end, BLOCK):
        source = draw.choice((old.content, new.content, draw.choice(versions).content))
        if start >= len(old.content) and draw.random() < 0.3:  # a block that was synced is never zeros
            source = b""
        blocks.append(source[start : start + BLOCK].ljust(BLOCK, b"\0"))
    return Version(b"".join(blocks)[:end], new.time)


def _write(tree: dict[int, dict[str, int]], node: int, folder: Path, content_of) -> None:
    folder.mkdir()
    for name, inner in tree[node].items():
        path = folder / name
        if inner in tree:
            _write(tree, inner, path, content_of)
        else:
            version = content_of(inner)
            path.write_bytes(version.content)
            if version.time:
                os.utime(path, ns=(version.time, version.time))


def moments(ops: Sequence[Op]) -> list[int]:
    """How many operations have been done when the power may go: all numbers from the run's beginning to its end."""
    first = next(number for number, op in enumerate(ops) if op.kind == "mark" and op.name == START)
    return list(range(first + 1, len(ops) + 1))


def replay(ops: Sequence[Op], states: int, draw: random.Random, scratch: Path,
           check: Callable[[Path, list[str]], str]) -> Counter[str]:
    """Check so many drawn disks, at moments spread over all; counts of what `check` said.

    check: (the folder as it is left, what the run had reported) -> a word; raises AssertionError where something half
    is taken or something reported is lost.
    """
    found: Counter[str] = Counter()
    all_moments = moments(ops)
    chosen = sorted(all_moments[number * len(all_moments) // states] if states >= len(all_moments) else
                    draw.choice(all_moments) for number in range(states))
    disk, done = Disk([]), 0
    for number, moment in enumerate(chosen):
        for op in ops[done:moment]:
            disk.do(op)
        done = moment
        folder = scratch / "disk"
        drawn = disk.after_a_cut(draw, folder)
        try:
            found[check(folder, [mark for mark in disk.marks if mark != START])] += 1
        except Exception as error:
            after = f"after operation {moment} of {len(ops)} ({ops[moment - 1].kind} {ops[moment - 1].name})"
            raise AssertionError(f"state {number}, {after}, {drawn}, reported {disk.marks[-1]}: {error!r}") from error
        shutil.rmtree(folder)
    return found
