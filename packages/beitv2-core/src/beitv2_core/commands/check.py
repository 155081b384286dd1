# SPDX-License-Identifier: Apache-2.0
"""`beitv2 check`: what a data set holds, and whether it is ready."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import typer

from . import options


def check(
    data: str = typer.Argument(..., metavar="DATA", show_default=False,
                               help="a folder of images (class folders or not; with train and test in it, both), a "
                                    "list (.txt, .csv), tar files, or a YAML file of settings: what its command "
                                    "reads"),
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    test: Optional[str] = typer.Option(None, "--test", help="images to measure on: folder, list or tar files"),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="folder for check.json, check.png, findings.csv "
                                                                      "and lists of the images without faults"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
    quick: bool = typer.Option(False, "--quick", help="read headers only: no pixels, labels of pixels, copies"),
    batch_size: Optional[int] = typer.Option(None, "--batch-size", "-b", min=1, show_default=False,
                                             help="images of one update, where DATA are no settings; default 64"),
    num_workers: Optional[int] = options.WORKERS,
) -> None:
    """Open every image of a data set: counts, sizes, broken files, copies, classes, and what is to be done.

    The exit status is 0 where the data are ready, 1 where something is to be done.
    """
    from ..checking.report import as_json as values
    from ..checking.report import lines, write_lists
    from ..checking.run import check_data

    judged = check_data(data, test=test, overrides=options.all_overrides(set_, more), batch=batch_size, quick=quick,
                        num_workers=options.workers(num_workers), folder=output)
    found = values(judged, quick=quick)
    text = json.dumps(found, indent=1, ensure_ascii=True)
    typer.echo(text if as_json else "\n".join(lines(found)))
    if output is not None:
        from ..checking.figure import draw
        from ..files.atomic import write_text_atomically

        write_text_atomically(output / "check.json", text + "\n")
        draw(judged, output / "check.png")
        for path in (output / "check.json", output / "check.png", *write_lists(judged, output)):
            typer.echo(f"written: {path}", err=True)
    if not judged.ready:
        raise typer.Exit(1)
