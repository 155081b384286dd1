"""The classes of a run: decided once, by its training images, and kept with the run from its first second.

`classes.json` in the run folder and every checkpoint hold the names, in the order of the classifier's outputs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beitv2_core.engine.run_folder import RunFolder, write_whole
from beitv2_core.errors import CheckpointError, ConfigError, DataError

log = logging.getLogger("beitv2_cls")
CLASSES_FILE = "classes.json"
#: beside a lone weights file: one name a line
NAMES_FILE = "classes.txt"


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
        check_same(_read_names(path), classes, str(path))
    write_whole(path, json.dumps(list(classes)) + "\n")


def class_names(stored: Sequence[str] | None, place: Path, count: int) -> list[str]:
    """The names of a classifier's `count` classes, by number.

    stored: what a checkpoint, its run or a file says (`Found.classes`).  place: where it came from; `classes.txt` (one
    name a line) or `classes.json` beside a file without names tell them.  Without any, classes are called by their
    numbers, and a warning says so.  Raises CheckpointError for another number of names than classes.
    """
    source, names = str(place), None if stored is None else list(stored)
    beside = [] if place.suffix == ".pdckpt" else [place.parent / NAMES_FILE, place.parent / CLASSES_FILE]
    for path in beside if names is None and not place.is_dir() else []:
        if path.is_file():
            names, source = _read_names(path), str(path)
            break
    if names is None:
        log.warning("%s: no class names are stored with it: classes are called 0 .. %d. Put %s (one name a line) "
                    "beside it to name them.", place, count - 1, NAMES_FILE)
        return [str(number) for number in range(count)]
    if len(names) != count or len(set(names)) != count:
        raise CheckpointError(f"{source}: {len(names)} class names ({len(set(names))} different ones) for a classifier "
                              f"of {count} classes. Expected one name for each.")
    return names


def has_names(names: Sequence[str]) -> bool:
    """Whether classes have names, not just their numbers."""
    return list(names) != [str(number) for number in range(len(names))]


def number_by(dataset: Any, classes: Sequence[str], *, where: str, numbers: bool = False) -> Any:
    """Give the images of a labelled data set the numbers that `classes` have; the data set is changed and returned.

    numbers: labels may also be numbers of classes, where none of them is a name (list files, shards).
    Raises DataError for images of a class that is not among `classes`.
    """
    dataset.classes = [printable(name) for name in dataset.classes]
    number_of: dict[str, int] = {name: number for number, name in enumerate(classes)}
    used = [dataset.classes[label] for label in np.unique(dataset.labels)]
    unknown = [name for name in used if name not in number_of]
    if numbers and len(unknown) == len(used) and all(name.isdigit() for name in used):
        number_of = {name: int(name) for name in used}
        unknown = [name for name in used if int(name) >= len(classes)]
    if unknown:
        raise DataError(
            f"{where}: {len(unknown)} class(es) that are not known ({few(unknown)}). Known are {len(classes)} "
            f"({few(classes)}). Use these names{', or their numbers from 0' if numbers else ''}; leave images of other "
            "classes out."
        )
    table = np.asarray([number_of.get(name, -1) for name in dataset.classes], dtype=np.int64)
    dataset.labels, dataset.classes = table[dataset.labels], list(classes)
    return dataset


def _read_names(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        if path.suffix == ".json":
            names = json.loads(text)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("expected a list of names")
            return names
        return [printable(line.strip()) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: class names cannot be read from it: {error}. Write one name a line into "
                              f"{NAMES_FILE}, or a JSON list of names into {CLASSES_FILE}.") from None
