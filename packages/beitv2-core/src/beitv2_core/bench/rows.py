# SPDX-License-Identifier: Apache-2.0
"""The ways in which a model can be run, and the process in which one of them does."""

from __future__ import annotations

import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from ..errors import BEiTError
from ..exported_model import load_exported, read_description
from ..runners import PRECISIONS, RUNTIMES
from ..runtime import keep_freed_memory

#: name of the runtime of a model that is not exported
LIVE = "paddle, live"
#: why a run has no eight-bit graph
NOT_CALIBRATED = "int8: no images were given to take its ranges from. Give --calibrate FOLDER."
Answers = Mapping[str, np.ndarray]


class Row(NamedTuple):
    """One way to run a model.

    source: run or checkpoint where runtime is LIVE, otherwise an exported folder.  kind, name: as `find_exportable`
    takes them.
    missing: why it cannot be run; then nothing else counts.
    """

    runtime: str
    precision: str
    source: str
    kind: Optional[str] = None
    name: Optional[str] = None
    missing: Optional[str] = None


def rows_of_export(folder: str | Path) -> list[Row]:
    """Every runtime of an exported folder's form in every precision it has."""
    form = read_description(Path(folder)).format
    return [Row(runtime.name, precision, str(folder)) for runtime in RUNTIMES.values() if runtime.form == form
            for precision in PRECISIONS if precision in runtime.precisions]


def rows_of_run(run: str, kind: str | None, name: str | None, exports: Mapping[str, Path | BEiTError]) -> list[Row]:
    """The live model, then every way to run its exports, by form; an error is why that form is not there."""
    from ..layers.fast.products import why_not

    reason = why_not("bf16")
    rows = [Row(LIVE, "f32", run, kind, name),
            Row(LIVE, "bf16", run, kind, name, missing=reason and f"bf16: {reason}")]
    for form, export in exports.items():
        if isinstance(export, Path):
            calibrated = read_description(export).int8 is not None
            rows += [row if calibrated or row.precision != "int8" else row._replace(missing=NOT_CALIBRATED)
                     for row in rows_of_export(export)]
        else:
            rows += [Row(runtime.name, runtime.precisions[0], "", missing=str(export))
                     for runtime in RUNTIMES.values() if runtime.form == form]
    return rows


def serve(row: Row, threads: int, link: Connection) -> None:
    """Run a row in this process: load it, then answer what comes through `link` until None does.

    Sent are ("ready", None) or ("failed", reason); then for images (B, 3, H, W) after mean and std
    (seconds, outputs by name), and for "memory" the peak of this process in bytes.
    """
    keep_freed_memory()  # as the commands do
    try:
        run = _load(row, threads)
    except Exception as error:  # of any library; the row says why it is not there
        link.send(("failed", " ".join(str(error).split()) or type(error).__name__))
        return
    link.send(("ready", None))
    while True:
        asked = link.recv()
        if asked is None:
            return
        if isinstance(asked, str):
            link.send(peak_memory())
            continue
        began = time.perf_counter()
        found = run(asked)
        link.send((time.perf_counter() - began, dict(found)))


def _load(row: Row, threads: int) -> Callable[[np.ndarray], Answers]:
    if row.runtime != LIVE:
        model = load_exported(row.source, runtime=row.runtime, precision=row.precision, threads=threads)
        return model.run_normalised
    import paddle

    from ..exporting import find_exportable
    from ..layers.fast.products import mixed_precision

    live: Any = find_exportable(row.source, kind=row.kind, name=row.name).live

    def run(images: np.ndarray) -> Answers:
        with paddle.no_grad(), mixed_precision("bf16" if row.precision == "bf16" else "off"):
            return live(paddle.to_tensor(images))

    return run


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; 0 where the system does not tell.

    Not by `getrusage`, which counts what the process that started this one had.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM")), 0)
    except OSError:
        return 0
