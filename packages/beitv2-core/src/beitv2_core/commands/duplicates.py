# SPDX-License-Identifier: Apache-2.0
"""`beitv2 duplicates`: images that show the same."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional

import typer

from ..errors import ConfigError
from ..files.atomic import write_text_atomically
from . import options

if TYPE_CHECKING:
    from ..inference.duplicates import Pair
    from ..inference.embedding_file import Embeddings

COLUMNS = ("group", "first", "second", "mirrored", "similarity", "change", "cosine")


def duplicates(
    features: list[Path] = typer.Argument(..., help="files that `beitv2 embed` wrote", show_default=False),
    between: bool = typer.Option(False, "--between", help="only pairs of images of different files (training and test "
                                                          "images)"),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="table of the pairs (.csv or .json)"),
    figure: Optional[Path] = typer.Option(None, "--figure", help="picture of the first pairs (.png)"),
    pairs: int = typer.Option(20, "--pairs", min=1, help="pairs to print and to show; the table has all"),
    least: float = typer.Option(0.98, min=0.9, max=1.0, help="similarity that a pair must reach"),
    change: float = typer.Option(0.45, min=0.0, help="largest difference of a part of a pair, as a share of the "
                                                     "picture's contrast; smaller values leave out neighbouring frames "
                                                     "of a video"),
    neighbours: int = typer.Option(8, min=1, help="images that each one is compared with, each way round"),
    num_workers: Optional[int] = options.WORKERS,
) -> None:
    """Find near-duplicates: the same picture compressed again, resized, mirrored or cropped by a tenth."""
    from ..inference.duplicates import find_duplicates
    from ..inference.embedding_file import read_embeddings

    if output is not None and output.suffix not in (".csv", ".json"):
        raise ConfigError(f"--output {output}: expected a name ending in .csv or .json.")
    if between and len(features) < 2:
        raise ConfigError(f"--between: pairs of images of different files; only {features[0]} was given. Give two "
                          "files or more.")
    files = [read_embeddings(path) for path in features]
    found = find_duplicates(files, least=least, most=change, between=between, neighbours=neighbours,
                            num_workers=options.workers(num_workers), progress=lambda line: typer.echo(line, err=True))
    names = [path for file in files for path in file.paths]
    for pair in found[:pairs]:
        turned = "  mirrored" if pair.mirrored else ""
        typer.echo(f"{pair.similarity:.4f}  {names[pair.first]}  {names[pair.second]}{turned}")
    involved = {number for pair in found for number in (pair.first, pair.second)}
    typer.echo(f"{len(found)} pairs of {len(involved)} images, in {len({pair.group for pair in found})} groups, among "
               f"{len(names)}")
    if output is not None:
        write_text_atomically(output, _table(found, names, output.suffix))
        typer.echo(f"written: {output}")
    if figure is not None and found:
        _draw(files, found[:pairs], names, figure)
        typer.echo(f"written: {figure}")
    elif figure is not None:
        typer.echo(f"not written: {figure}, there is no pair to show")


def _table(found: Sequence[Pair], names: Sequence[str], suffix: str) -> str:
    rows = [{**pair._asdict(), "first": names[pair.first], "second": names[pair.second]} for pair in found]
    if suffix == ".json":
        return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([row[name] for name in COLUMNS] for row in rows)
    return text.getvalue()


def _draw(files: Sequence[Embeddings], found: Sequence[Pair], names: Sequence[str], figure: Path) -> None:
    from ..data import decode
    from ..viz.picture_rows import Shown, picture_rows

    places = [(file.place(number), bool(file.meta.get("upright"))) for file in files
              for number in range(len(file.paths))]

    def shown(number: int, words: str) -> Any:
        place, upright = places[number]
        return Shown(decode(place, upright=upright), f"{Path(names[number]).name}\n{words}")

    pictures = [(shown(pair.first, "mirrored" if pair.mirrored else ""), shown(pair.second, f"{pair.similarity:.3f}"))
                for pair in found]
    rows = [[one for pair in pictures[start : start + 3] for one in pair] for start in range(0, len(pictures), 3)]
    picture_rows(rows, figure, title="near-duplicates, in pairs")
