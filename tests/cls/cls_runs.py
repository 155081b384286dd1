# SPDX-License-Identifier: Apache-2.0
"""Commands run in the test's own process, and folders of images of one colour a class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from beitv2_core import cli

CONFIG = Path(__file__).resolve().parents[2] / "configs/cls/digit_scenes.yml"
COLOURS = {"cat": (220, 30, 30), "dog": (30, 200, 30), "fox": (30, 30, 220)}


def run(*arguments, code=0) -> str:
    """What `beitv2` with these arguments prints; its exit code must be `code`."""
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def paint(folder: Path, count: int, names=COLOURS, name="{}.png") -> None:
    """`count` images of 32 x 32 of each class, each in a shade of its own."""
    for word, colour in names.items():
        (folder / word).mkdir(parents=True)
        for i in range(count):
            shade = tuple(min(255, part + i) for part in colour)
            Image.new("RGB", (32, 32), shade).save(folder / word / name.format(i))
