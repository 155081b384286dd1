# SPDX-License-Identifier: Apache-2.0
"""Small data sets without a fault, in which faults are planted."""

from __future__ import annotations

import inspect
import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from beitv2_core.cli import app

CLASSES = ("cat", "dog")
#: click before 8.2 mixes the two streams unless told not to, newer ones never do
APART = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner.__init__).parameters else {}


def picture(seed: int, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """A picture that no other seed resembles: few large patches of colour."""
    draws = np.random.RandomState(seed).randint(0, 256, (5, 6, 3)).astype(np.uint8)
    return Image.fromarray(draws).resize(size, Image.Resampling.BICUBIC)


def write_classes(root, *, train: int = 10, test: int = 3):
    """root/train/CLASS/N.png and root/test/CLASS/N.png, all different."""
    for part, count, start in (("train", train, 0), ("test", test, 1000)):
        for number, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                picture(start + 100 * number + i).save(folder / f"{i}.png")
    return root


def check(*arguments, status=None):
    """The JSON of `beitv2 check`, and its exit status compared."""
    done = CliRunner(**APART).invoke(app, ["check", *map(str, arguments), "--json", "--num-workers", "0"])
    assert done.exit_code in (0, 1), done.output
    found = json.loads(done.stdout)
    assert done.exit_code == (0 if found["ready"] else 1)
    if status is not None:
        assert done.exit_code == status, found["findings"]
    return found


def kinds(found) -> dict[str, tuple[bool, int]]:
    """{kind: (whether it is a fault, count)} of all findings; each comes once."""
    named = [(one["kind"], (one["fault"], one["count"])) for one in found["findings"]]
    assert len(dict(named)) == len(named), named
    return dict(named)
