# SPDX-License-Identifier: Apache-2.0
"""`beitv2 convert` and `beitv2 verify`: convert weights between formats, and compare a model with its source."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Optional

import typer

from ..errors import ConfigError
from ..files.json_text import parse_json

_SOURCE_SIZE = typer.Option(None, help="HEIGHT,WIDTH in pixels (or one number) the weights were made for, if the file "
                                       "does not tell: grids that are not square, no position terms")
_SET = typer.Option(None, "--set", metavar="NAME=VALUE", help="a value of the model that its weights do not tell, for "
                                                              "example num_heads=12; repeatable; see docs/weights.md")
#: 0.2.0's own options for two of these values
_HEADS = typer.Option(None, min=1, hidden=True)
_EARLY = typer.Option(None, min=1, hidden=True)
_EMA = typer.Option(None, "--ema/--no-ema", help="take the averaged weights (model_ema, state_dict_ema, a teacher) or "
                                                 "the trained ones (default: trained before averaged, teacher "
                                                 "before student)")


def convert(
    src: Path = typer.Argument(..., help="run folder, .pdckpt, weights file, or folder of transformers",
                               show_default=False),
    dst: Path = typer.Argument(..., help="file to write; a folder for huggingface", show_default=False),
    to: str = typer.Option("ours", help="ours (.safetensors), official (.pth), huggingface (folder), timm "
                                        "(.safetensors, or a folder) or paddleclas (.pdparams)"),
    image_size: Optional[str] = typer.Option(None, help="HEIGHT,WIDTH in pixels (or one number) that the position "
                                                        "terms are fitted to"),
    backbone: bool = typer.Option(False, "--backbone", help="write the backbone alone, without heads and mask token"),
    force: bool = typer.Option(False, "--force", help="overwrite DST"),
    source_size: Optional[str] = _SOURCE_SIZE,
    set_: Optional[list[str]] = _SET,
    num_heads: Optional[int] = _HEADS,
    early_layers: Optional[int] = _EARLY,
    ema: Optional[bool] = _EMA,
    classes: Optional[Path] = typer.Option(None, help="text file of class names, one a line in the order of the "
                                                      "logits, or a run's classes.json (default: the source's)"),
) -> None:
    """Convert weights between formats; official to ours and back is the same bit for bit."""
    from ..conversion.convert import convert_file

    done = convert_file(src, dst, to, force=force, image_size=size_of(image_size, "--image-size"), backbone=backbone,
                        hints=_hints(source_size, set_, num_heads, early_layers, ema),
                        classes=None if classes is None else _read_classes(classes))
    typer.echo(f"{src}: {done.taken}")
    more = f", and {done.unmapped} that our models do not have" if done.unmapped else ""
    more += f"; {done.left_out} that this format does not have were left out" if done.left_out else ""
    more += (f"; {done.classes_left_out} class names, for which this format has no place, were left out"
             if done.classes_left_out else "")
    names = f", {done.classes} class names" if done.classes else ""
    typer.echo(f"{done.path}: {done.tensors} tensors{names}{more}")


def verify(
    ours: Path = typer.Argument(..., help="file that `beitv2 convert` wrote, or a run", show_default=False),
    against: Path = typer.Option(..., help="what it was converted from",
                                 show_default=False),
    tolerance: float = typer.Option(1e-4, min=0.0, help="largest absolute difference of outputs allowed against timm "
                                                        "and transformers"),
    source_size: Optional[str] = _SOURCE_SIZE,
    set_: Optional[list[str]] = _SET,
    num_heads: Optional[int] = _HEADS,
    early_layers: Optional[int] = _EARLY,
    ema: Optional[bool] = _EMA,
) -> None:
    """Compare a converted model with its source: tensors, and outputs on fixed images; exit code 1 if they differ."""
    from ..conversion.verify import verify_file

    verdict = verify_file(ours, against, tolerance=tolerance,
                          hints=_hints(source_size, set_, num_heads, early_layers, ema))
    typer.echo(f"{verdict.kind}; compared with: {verdict.reference}")
    for difference in verdict.differences:
        mark = "ok  " if difference.holds else "FAIL"
        typer.echo(f"{mark} {difference.largest:<10.3g} allowed {difference.limit:<10.3g} {difference.name}")
    if not verdict.holds:
        raise typer.Exit(1)


def size_of(text: Optional[str], option: str) -> Optional[tuple[int, int]]:
    """(height, width) of `224` or `224,448`; ConfigError for anything else."""
    if text is None:
        return None
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or min(numbers, default=0) < 1:
        raise ConfigError(f"{option} {text}: expected a number of pixels, or HEIGHT,WIDTH.")
    return numbers[0], numbers[-1]


def _hints(source_size: Optional[str], settings: Optional[list[str]], num_heads: Optional[int],
           early_layers: Optional[int], ema: Optional[bool]) -> Any:
    """The options as `Hints`; values stay text, the kind of model parses them.

    Raises ConfigError for `--set` without `=`, and for a value that is given twice.
    """
    from ..assembly.loaded_weights import Hints

    own = {"num_heads": num_heads, "early_layers": early_layers}
    values: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise ConfigError(f"--set {setting}: expected NAME=VALUE, for example num_heads=12.")
        if name in values:
            raise ConfigError(f"--set {setting}: {name} is given twice, the other time as {values[name]}.")
        values[name] = value
    return Hints(size_of(source_size, "--source-size"), values, ema)


def _read_classes(path: Path) -> list[str]:
    """Class names of a text file, one a line, or of a JSON list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = parse_json(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--classes {path}: cannot be read: {error}. Give a UTF-8 text file with one name a line, or "
                          "a run's classes.json.") from None
    if not isinstance(names, list):
        raise ConfigError(f"--classes {path}: holds a {type(names).__name__}; a list of names was expected.")
    names = [str(name) for name in names]
    while names and not names[-1]:
        names.pop()
    return names
