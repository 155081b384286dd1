# SPDX-License-Identifier: Apache-2.0
"""A training run that is recorded, and the reader of what a power cut left of one: for replayed power cuts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

Mark = Callable[[str], None]


class Writing(NamedTuple):
    """prepare: what is in the folder before; run: what is recorded; check: the reader of what a power cut left.

    check: (folder, marks that were set) -> "new", "old", "none", "refused", ...; AssertionError for anything half.
    """

    name: str
    run: Callable[[Path, Mark], None]
    check: Callable[[Path, list[str]], str]
    prepare: Callable[[Path], None] = lambda folder: None


def training() -> Writing:
    """A run with checkpoints, old ones dropped, branches abandoned, one saved again; its metrics."""
    import toy

    from beitv2_core.checkpoint.store import CheckpointStore
    from beitv2_core.engine.health import read_rows
    from beitv2_core.errors import CheckpointError

    truth, order, rows = {}, [], []  # type: tuple[dict[int, Any], list[int], list[Any]]

    def run(folder: Path, mark: Mark) -> None:
        save = CheckpointStore.save

        def saved(self, step, *arguments, **options):
            path = save(self, step, *arguments, **options)
            truth[step] = self.load(path)
            order.append(step)
            mark(f"saved {step}")
            return path

        with mock.patch.object(CheckpointStore, "save", saved):
            loop = partial(toy.make_loop, folder / "runs" / "run", steps=12)
            loop(save_every=3).run()
            checkpoint = folder / "runs" / "run" / "checkpoints" / "step_000009.pdckpt"
            mark("told to go on from 9")
            loop(save_every=3).run(checkpoint)  # the old step 12 goes aside
            mark("told to go on from 9")
            loop(save_every=1).run(checkpoint)
            again = truth[12]
            CheckpointStore(checkpoint.parent, keep_last=2).save(12, *again[1:])  # over the one that is there
        rows.extend(plain(read_rows(folder / "runs" / "run" / "metrics.jsonl")))

    def check(folder: Path, marks: list[str]) -> str:
        store = CheckpointStore(folder / "runs" / "run" / "checkpoints")
        told = [9] if marks and marks[-1] == "told to go on from 9" else []
        found = check_run(folder / "runs" / "run", marks, order, rows, told)
        for each in store.steps():  # no other is half and taken for whole
            with contextlib.suppress(CheckpointError):
                one = store.load(store.folder / f"step_{each:06d}.pdckpt")
                np.testing.assert_equal(one[:4], truth[each][:4])
        return found

    return Writing("training: checkpoints and metrics", run, check)


def plain(found: list[Any]) -> list[Any]:
    """Rows of metrics without the rates of this machine."""
    return [{key: value for key, value in row.items() if not key.endswith("per_second")} for row in found]


def check_run(path: Path, marks: list[str], order: list[int], rows: list[Any], told: Sequence[int] = ()) -> str:
    """A run's newest checkpoint and its metrics after a power cut, and that the folder can be trained in.

    order: the steps in the order they were saved in; rows: the metrics of the whole run, see `plain`; told: a step to
    go on from that is not saved again.
    """
    from beitv2_core.checkpoint.store import CheckpointStore
    from beitv2_core.engine.health import read_rows
    from beitv2_core.engine.run_folder import RunFolder
    from beitv2_core.viz.curves import read_curves

    # the step that was reported last, or the next, which was being saved
    saved = sum(mark.startswith("saved") for mark in marks)
    allowed = {*order[max(saved - 1, 0) : saved + 1], *told, *(() if saved else (None,))}
    newest = CheckpointStore(path / "checkpoints").latest()
    step = None if newest is None else CheckpointStore(path / "checkpoints").load(newest).step
    assert step in allowed, f"the newest whole checkpoint is of step {step}, not of {allowed}"
    if step is None:
        return "none"
    kept = [row for row in plain(read_rows(path / "metrics.jsonl")) if row["step"] <= step]
    np.testing.assert_equal(kept, [row for row in rows if row["step"] <= step])
    if (path / "metrics.jsonl").is_file():
        read_curves(path / "metrics.jsonl")
    run_folder, store = RunFolder(path), CheckpointStore(path / "checkpoints")
    run_folder.open()
    run_folder.close()
    store.remove_leftovers()
    newest = store.latest()
    assert newest is not None and store.load(newest).step == step
    assert not list(path.rglob(".*tmp*")), "left under a temporary name"
    return "newest"
