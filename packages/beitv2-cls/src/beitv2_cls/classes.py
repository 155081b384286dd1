# SPDX-License-Identifier: Apache-2.0
"""The classes of a run: set once, by its training images, and stored with the run when it starts.

`classes.json` in the run folder and every checkpoint hold the names, in the order of the classifier's outputs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from beitv2_core.engine.run_folder import RunFolder
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_core.files.atomic import write_text_atomically
from beitv2_core.files.json_text import parse_json

log = logging.getLogger("beitv2_cls")
CLASSES_FILE = "classes.json"


def few(names: Sequence[str], most: int = 5) -> str:
    """The first names, and that there are more."""
    return ", ".join(map(str, names[:most])) + (f", ... ({len(names)} in all)" if len(names) > most else "")


def printable(name: str) -> str:
    r"""A class name that can be written anywhere: bytes of a folder's name that are no UTF-8 become \xb5 and so on."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_same(before: Sequence[str], now: Sequence[str], source: str) -> None:
    """ConfigError naming the difference where a run would continue with other classes than it was started with."""
    if list(before) == list(now):
        return
    gone = [name for name in before if name not in set(now)]
    new = [name for name in now if name not in set(before)]
    parts = [f"{word}: {few(names)}" for word, names in (("missing now", gone), ("new", new)) if names]
    raise ConfigError(
        f"{source}: the run was started with other classes ({'; '.join(parts) or 'the same names in another order'}). "
        f"It has {len(before)} ({few(before)}), the training images now have {len(now)} ({few(now)}). Give it the "
        "images it was started with, or start another run in another output folder."
    )


def keep_classes(run: RunFolder, classes: Sequence[str]) -> None:
    """Write the classes of a run that starts into its folder; ConfigError where it continues one with others."""
    path = run.path / CLASSES_FILE
    if path.is_file() and any(run.checkpoints.glob("step_*.pdckpt")):
        check_same(_read(path), classes, str(path))
    write_text_atomically(path, json.dumps(list(classes)) + "\n")


def class_names(stored: Sequence[str] | None, source: str, count: int) -> list[str]:
    """The names of a classifier's `count` classes, by number.

    stored: names of a checkpoint, its run or a file (`LoadedWeights.classes`).  Without names, classes are called by
    their numbers, with a warning.  Raises CheckpointError for another number of names than classes.
    """
    if stored is None:
        log.warning("%s: it has no class names: classes are called 0 .. %d. A file gets names by `beitv2 "
                    "convert FILE OUT.safetensors --classes NAMES.txt`.", source, count - 1)
        return [str(number) for number in range(count)]
    if len(stored) != count or len(set(stored)) != count:
        raise CheckpointError(f"{source}: {len(stored)} class names ({len(set(stored))} different ones) for a "
                              f"classifier of {count} classes. Expected one name for each.")
    return list(stored)


def has_names(names: Sequence[str]) -> bool:
    """Whether classes have names, not just their numbers."""
    return list(names) != [str(number) for number in range(len(names))]


def _read(path: Path) -> list[str]:
    try:
        names = parse_json(path.read_text(encoding="utf-8"))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("expected a list of names")
        return names
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: the classes of the run cannot be read: {error}. Remove the file: the "
                              "checkpoints hold them too.") from None
