# SPDX-License-Identifier: Apache-2.0
"""`beitv2 bench`: how fast, how large and how exact a model is in every runtime and precision, on this machine."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any, Optional, Union

import typer

from ..errors import BEiTError
from ..files.atomic import write_text_atomically
from ..runtime import threads as own_threads
from . import options


def bench(
    run: str = typer.Argument(..., help="run folder, .pdckpt checkpoint or file of weights (exported for this), or an "
                                        "exported folder", show_default=False),
    images: Optional[Path] = typer.Option(None, help="images, a folder of them or a list, for the agreement; default: "
                                                     "drawn ones"),
    count: int = typer.Option(32, "--count", "-n", min=1, help="images the agreement is measured on"),
    batch_size: int = typer.Option(8, "--batch-size", "-b", min=1, help="images per batch"),
    rounds: int = typer.Option(5, min=1, help="rounds, in each of which every row computes one batch; the best counts"),
    threads: Optional[int] = typer.Option(None, min=1, help="threads of every row; default: OMP_NUM_THREADS, or one "
                                                            "per processor core"),
    kind: Optional[str] = typer.Option(None, help="features: the backbone's features instead of the trained head"),
    name: Optional[str] = options.NAME,
    calibrate: Optional[Path] = options.CALIBRATE,
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="folder for bench.json and bench.png; default: "
                                                                       "nothing is written"),
) -> None:
    """Measure a model in every runtime and precision: images/s, peak memory, agreement with float32."""
    from ..bench.measure import measure
    from ..bench.rows import rows_of_export
    from ..bench.table import as_json, draw, lines
    from ..exported_model import is_exported, read_description

    used = threads or _threads()
    with tempfile.TemporaryDirectory(prefix="beitv2_bench_") as temporary:
        if is_exported(run):
            known = read_description(Path(run))
            facts = known.model_dump()
            rows = rows_of_export(run)
        else:
            facts, rows = _exported_rows(run, kind, name, calibrate, Path(temporary))
        tried = _images(facts, images, count)
        found = measure(rows, tried, batch_size=batch_size, rounds=rounds, threads=used)
    height, width = facts["image_size"]
    about = f"{run}: {facts['kind']}, {height} x {width}, batch {batch_size}, {used} thread(s), best of {rounds}"
    typer.echo(about)
    for line in lines(found):
        typer.echo(line)
    if output is not None:
        settings = {"model": str(run), "kind": facts["kind"], "image_size": [height, width], "batch_size": batch_size,
                    "threads": used, "rounds": rounds, "images": len(tried), "processor": platform.processor() or
                    platform.machine()}
        write_text_atomically(output / "bench.json", json.dumps(as_json(found, settings), indent=1) + "\n")
        draw(output / "bench.png", found, about.partition(": ")[2])
        typer.echo(f"written: {output / 'bench.json'}, {output / 'bench.png'}")


def _threads() -> int:
    said = os.environ.get("OMP_NUM_THREADS", "")
    return int(said) if said.isdigit() and int(said) > 0 else own_threads()


def _exported_rows(run: str, kind: Optional[str], name: Optional[str], calibrate: Optional[Path],
                   folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """Facts of a run's model and its rows, after it was exported below `folder` in every form that can be written."""
    from ..bench.rows import rows_of_run
    from ..exporting import Calibration, export_model, find_exportable

    model = find_exportable(run, kind=kind, name=name)
    exports: dict[str, Union[Path, BEiTError]] = {}
    for form in ("paddle", "onnx"):
        typer.echo(f"exporting as {form}", err=True)
        try:
            export_model(model, folder / form, form=form,
                         calibration=Calibration(calibrate) if calibrate and form == "onnx" else None)
            exports[form] = folder / form
        except BEiTError as error:
            exports[form] = error
    return model.facts, rows_of_run(run, kind, name, exports)


def _images(facts: dict[str, Any], named: Optional[Path], count: int) -> Any:
    """float32 (count, 3, H, W) after mean and std: the first that are named, or drawn ones."""
    import numpy as np

    from ..evaluation.codes import list_images
    from ..exporting.inputs import drawn_image, images_of_files

    if named is not None:
        return images_of_files(facts, list_images([named])[:count])
    return np.concatenate([drawn_image(facts, seed) for seed in range(count)])
