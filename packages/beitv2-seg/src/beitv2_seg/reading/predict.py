# SPDX-License-Identifier: Apache-2.0
"""Label maps, overlays and a legend of images of any size."""

from __future__ import annotations

import contextlib
import csv
import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from beitv2_core.errors import ConfigError, DataError
from beitv2_core.evaluation.codes import list_images
from beitv2_core.files.atomic import write_atomically
from beitv2_core.files.durable import sync_folder
from beitv2_core.pixels.size import MAX_PIXELS
from beitv2_seg.config import TestConfig
from beitv2_seg.reading.inputs import ImageFileInputs, image_inputs
from beitv2_seg.reading.label_map import predict_label_map

log = logging.getLogger("beitv2_seg")


class Written(NamedTuple):
    """Files of one image, and the pixels of each class in it, int64 (classes,)."""

    path: str
    overlay: Path
    labels: Path
    pixels: np.ndarray


def class_colours(num_classes: int, custom: Sequence[int] | None = None) -> np.ndarray:
    """RGB uint8 (num_classes, 3): the colour map of PASCAL VOC, as PaddleSeg draws, its first entry as there black.

    custom: R G B R G B ... for the first classes.  Raises ConfigError for a number that is no colour.
    """
    colours = np.zeros((num_classes, 3), dtype=np.uint8)
    for number in range(num_classes):
        rest, shift = number, 7
        while rest:
            for channel in range(3):
                colours[number, channel] |= ((rest >> channel) & 1) << shift
            rest, shift = rest >> 3, shift - 1
    if custom:
        if len(custom) % 3 or min(custom) < 0 or max(custom) > 255 or len(custom) > 3 * num_classes:
            raise ConfigError(f"--custom_color: {len(custom)} numbers from {min(custom)} to {max(custom)}; expected "
                              f"three of 0 .. 255 for each class, at most {num_classes} classes.")
        colours[: len(custom) // 3] = np.asarray(custom, dtype=np.uint8).reshape(-1, 3)
    return colours


def predict_image(model: Any, pixels: np.ndarray, transforms: Sequence[Any], test: TestConfig, *,
                  window_batch: int = 4) -> np.ndarray:
    """Classes int32 (H, W) of one RGB image uint8 (H, W, 3), read as `test` says."""
    inputs = image_inputs(pixels, transforms, test.read_scales)
    return predict_label_map(model, inputs, test, window_batch=window_batch)


def predict_files(model: Any, paths: Sequence[str], transforms: Sequence[Any], test: TestConfig, folder: Path, *,
                  colours: np.ndarray, window_batch: int = 4, weight: float = 0.6,
                  max_pixels: int = MAX_PIXELS, num_workers: int = 0) -> Iterator[Written]:
    """Predict images and write, as PaddleSeg names them, `added_prediction/` (the image under the classes'
    colours) and `pseudo_color_prediction/` (the raw label map, a PNG whose palette holds the colours).

    Images whose names differ in the ending only keep both results, named with it (a.jpg.png, a.png.png).
    weight: the image's share of the overlay; num_workers: processes that read images.  Raises DataError naming a file
    that cannot be decoded, ConfigError for more than 256 classes.
    """
    if len(colours) > 256:
        raise ConfigError(f"{len(colours)} classes do not fit into a PNG with a palette; expected at most 256.")
    files = ImageFileInputs(paths, transforms, test.read_scales, max_pixels=max_pixels)
    folders: set[Path] = set()
    with contextlib.closing(files.in_order(range(len(files)), num_workers)) as read:
        for image, name in zip(read, result_names(paths)):
            labels = predict_label_map(model, image.inputs, test, window_batch=window_batch)
            overlay, raw = folder / "added_prediction" / name, folder / "pseudo_color_prediction" / name
            blend = weight * image.pixels.astype(np.float32) + (1 - weight) * colours[labels]
            _save(Image.fromarray(np.rint(blend).astype(np.uint8)), overlay)
            indexed = Image.fromarray(labels.astype(np.uint8), mode="P")
            indexed.putpalette(colours.reshape(-1).tolist())
            _save(indexed, raw)
            folders.update((overlay.parent, raw.parent))
            yield Written(image.path, overlay, raw, np.bincount(labels.reshape(-1), minlength=len(colours)))
    for one in folders:
        sync_folder(one)


def result_names(paths: Sequence[str]) -> list[Path]:
    """A PNG's name for every image, all different: its own below the folder they share, with .png for its ending.

    Where two would be the same, .png is added to the whole name; where that helps nobody, a number too.
    """
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]) if paths else ""
    below = [Path(os.path.relpath(os.path.abspath(path), root)) for path in paths]
    plain = Counter(path.with_suffix(".png") for path in below)
    found: list[Path] = []
    taken = {name for name, times in plain.items() if times == 1}
    for path in below:
        name = path.with_suffix(".png")
        if plain[name] > 1:
            whole, number = path.with_name(f"{path.name}.png"), 1
            name = whole
            while name in taken:
                number += 1
                name = whole.with_name(f"{path.name}.{number}.png")
            taken.add(name)
        found.append(name)
    return found


def named_images(names: Sequence[str], *, leave_out: Path) -> list[str]:
    """The image files that were given, those below folders, and those that lists name; DataError where there is none.

    leave_out: the folder that will be written to; what is found in it below a folder is no image to predict.
    """
    found: list[str] = []
    for name in names:
        if os.path.isdir(name):
            listed = list_images([name])
            kept = [path for path in listed if not _is_result(path, name, leave_out)]
            if len(kept) < len(listed):
                log.info("%s: %d files of %s are left out: results go there", name, len(listed) - len(kept), leave_out)
            if not kept:
                raise DataError(f"{name}: holds no image besides the results in {leave_out}. Give another folder.")
            found += kept
        else:
            found += list_images([name])
    return list(dict.fromkeys(found))


def _is_result(path: str, given: str, results: Path) -> bool:
    """Whether a file below the folder `given` is in the folder of results, or is one that we write there."""
    inside, folder = os.path.realpath(path), os.path.realpath(results)
    if not inside.startswith(os.path.join(folder, "")):
        return False
    nested = folder.startswith(os.path.join(os.path.realpath(given), ""))
    first = os.path.relpath(inside, folder).split(os.sep)[0]
    return nested or first in ("added_prediction", "pseudo_color_prediction", "legend.png", "figures")


def _save(image: Image.Image, path: Path) -> None:
    with write_atomically(path, of_many=True) as temporary:
        image.save(temporary, format="PNG")


def write_legend(written: Sequence[Written], names: Sequence[str], colours: np.ndarray, folder: Path) -> list[Path]:
    """legend.png and legend.csv: number, name, colour and share of the pixels of every class that was found."""
    from beitv2_core.viz.canvas import Canvas

    total = np.sum([item.pixels for item in written], axis=0)
    found = [int(i) for i in np.argsort(-total, kind="stable") if total[i]]
    table, image = folder / "legend.csv", folder / "legend.png"
    with write_atomically(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "name", "red", "green", "blue", "pixels", "share"])
        for i in found:
            writer.writerow([i, names[i], *colours[i].tolist(), int(total[i]), f"{total[i] / total.sum():.6f}"])
    with Canvas(image, 4.2, 0.7 + 0.24 * len(found), title=f"{len(found)} classes found") as figure:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_xlim(0, 10)
        axes.set_ylim(len(found), 0)
        for row, i in enumerate(found):
            axes.add_patch(_patch(row, colours[i]))
            axes.text(1.1, row + 0.5, f"{names[i]}", va="center")
            axes.text(9.9, row + 0.5, f"{100 * total[i] / total.sum():.1f} %", va="center", ha="right")
    return [table, image]


def _patch(row: int, colour: np.ndarray) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((0.1, row + 0.12), 0.8, 0.76, facecolor=tuple(colour / 255), edgecolor="#90a4ae", linewidth=0.5)
