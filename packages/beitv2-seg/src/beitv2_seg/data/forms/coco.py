# SPDX-License-Identifier: Apache-2.0
"""COCO's JSON as label maps: polygons, uncompressed and compressed run lengths, drawn by pycocotools."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from beitv2_core.data.sources.image_file import MAX_PIXELS
from beitv2_core.errors import DataError, MissingDependencyError
from beitv2_seg.data.forms.found import PARTS, Asked, FoundSamples, folders_in, part_of, some, words_of
from beitv2_seg.data.label_files import Unlisted, mapped_numbers

#: bytes at the start and the end of a file that are looked at to tell whether it is COCO's
HEAD = 65536
KEYS = ("images", "annotations", "categories")
BACKGROUND = "background"
UNLABELLED = (BACKGROUND, "ignore")
#: most pixels along the sides of a polygon, and from 0 to a corner
LONGEST_OUTLINE = 1_000_000


def coco_files(root: Path) -> dict[str, list[Path]]:
    """{part ("": of no part): COCO files}, looked for in the folder, its `annotations` and its parts' folders."""
    found: dict[str, list[Path]] = {}
    for folder in (root, root / "annotations", *(one for one in folders_in(root) if part_of(one.name))):
        for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if _looks_like_coco(file):
                named = [part_of(word) for word in (*words_of(file.stem), folder.name) if part_of(word)]
                found.setdefault(named[0] or "" if named else "", []).append(file)
    return found


def read_coco(root: Path, asked: Asked) -> FoundSamples:
    """The images of a JSON and label maps drawn from its annotations.

    Categories become the classes 0, 1, ... in order of their ids, after `background` where pixels without annotation
    are it (asked.unlabelled); where asked.classes names the classes, categories are the classes of their names.  Later
    annotations lie above earlier ones; crowds (iscrowd) lie below all others and are ignored, as their outlines are
    rough.
    Raises DataError naming file and annotation, MissingDependencyError without pycocotools.
    """
    file = Path(asked.list_file) if asked.list_file else _file_of(root, asked)
    tree = _read(file)
    if asked.unlabelled not in UNLABELLED:
        raise DataError(f"{file}: COCO does not say what pixels without an annotation are, and unlabelled is "
                        f"{asked.unlabelled!r}. Write unlabelled: background (a class of its own, number 0) or "
                        "unlabelled: ignore (neither learned nor measured).")
    background = asked.unlabelled == BACKGROUND
    categories = {int(one["id"]): str(one["name"]) for one in sorted(tree["categories"],
                                                                     key=lambda one: int(one["id"]))}
    if len(set(categories.values())) < len(categories):
        raise DataError(f"{file}: two categories have the same name; expected different ones.")
    used = {int(one["category_id"]) for one in tree["annotations"]}
    if used - set(categories):
        raise DataError(f"{file}: annotations have category {some(sorted(used - set(categories)))}; the file's "
                        f"categories are {some(f'{key} ({name})' for key, name in categories.items())}. Correct them.")
    if 0 in categories and 0 not in used:  # what some tools write as the parent of all others
        del categories[0]
    if background and 0 in categories:
        raise DataError(f"{file}: category 0 ({categories[0]}) has annotations, and 0 is the number of the background. "
                        "Number the categories from 1, or write unlabelled: ignore.")
    names = [*([BACKGROUND] if background else []), *(name for name in categories.values() if name != BACKGROUND)]
    numbers = _numbered(file, categories, names if asked.classes is None else asked.classes, background)
    images = {one["id"]: one for one in tree["images"]}
    place = _folder_of(root, file, [str(one["file_name"]) for one in tree["images"]], asked)
    drawn = DrawnCoco(file, images, tree["annotations"], place, background=background)
    files = sorted((image, str(file)) for image in drawn.shapes)
    return FoundSamples("coco", root, files, None if asked.list_file else _part(root, asked), names,
                        {str(key): number for key, number in numbers.items()}, "refuse", asked.ignored, drawn)


class DrawnCoco:
    """Label maps from annotations: numbers of categories, 0 where there is none (background) or ignored there."""

    def __init__(self, file: Path, images: Mapping[Any, Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]],
                 place: Path, *, background: bool):
        self.file, self.background = file, background
        paths = {key: str(place / str(image["file_name"])) for key, image in images.items()}
        self.shapes = {paths[key]: (int(image["height"]), int(image["width"])) for key, image in images.items()}
        self.annotations: dict[str, list[tuple[Any, int, bool, Any]]] = {path: [] for path in self.shapes}
        for one in annotations:
            if one["image_id"] not in paths:
                raise DataError(f"{file}: annotation {one.get('id')} is of image {one['image_id']}, which the file's "
                                "images do not have. Add the image, or take the annotation out.")
            self.annotations[paths[one["image_id"]]].append(
                (one.get("id"), int(one["category_id"]), bool(one.get("iscrowd", 0)), one.get("segmentation")))

    def content(self, image: str) -> bytes:
        """What tells these annotations of an image from others."""
        return json.dumps(self.annotations[image], sort_keys=True).encode()

    def label(self, image: str, label_map: Mapping[str, int], *, ignored: int, unlisted: Unlisted,
              max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Classes (H, W) of an image file; DataError for more than `max_pixels`, for which there is no memory."""
        shape = self.shapes[image]
        if shape[0] * shape[1] > max_pixels:
            raise DataError(f"{self.file}: {image} has {shape[1]} x {shape[0]} pixels there, run.max_pixels allows "
                            f"{max_pixels:,}. Set run.max_pixels={shape[0] * shape[1]}, or correct the file.")
        found = np.zeros(shape, np.int64)
        passed = np.full(shape, not self.background)
        here = self.annotations[image]
        for number, category, crowd, outline in sorted(here, key=lambda one: not one[2]):  # crowds first
            inside = _drawn(outline, shape, f"{self.file}: annotation {number} of {image}")
            found[inside], passed[inside] = category, crowd
        label = np.full(shape, ignored, np.int64)
        label[~passed] = mapped_numbers(found[~passed], label_map, ignored=ignored, unlisted=unlisted,
                                        path=f"{self.file}: {image}")
        small = 0 <= ignored <= 255 and (not label.size or (label.min() >= 0 and label.max() <= 255))
        return label.astype(np.uint8 if small else np.int32)


def _drawn(outline: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    """bool (H, W) of one segmentation: polygons [[x, y, x, y, ...], ...] or run lengths {"size", "counts"}."""
    codec = _mask_codec()
    try:
        if isinstance(outline, Mapping) and _are_runs(outline.get("counts")) and isinstance(outline.get("size"), list):
            if tuple(outline["size"]) != shape:
                raise DataError(f"{where}: its run lengths are of {outline['size']!s:.80} pixels (height, width), the "
                                f"image of {list(shape)}. Export the annotations anew.")
            runs = outline["counts"]
            if isinstance(runs, list) and sum(runs) != shape[0] * shape[1]:
                raise DataError(f"{where}: its run lengths count {sum(runs)} pixels, the image has "
                                f"{shape[0] * shape[1]}. Export the annotations anew.")
            encoded = codec.frPyObjects(dict(outline), *shape) if isinstance(runs, list) else dict(outline)
        elif isinstance(outline, list) and outline and all(map(_is_polygon, outline)):
            encoded = codec.merge(codec.frPyObjects(outline, *shape))
        else:
            raise DataError(f"{where}: its segmentation is {_shortened(outline)!r}; expected polygons [[x, y, x, y, x, "
                            f"y, ...], ...] with sides of together at most {LONGEST_OUTLINE:,} pixels, or run lengths "
                            "{size, counts}. Export outlines, or take the annotation out.")
        return np.asarray(codec.decode(encoded)).astype(bool)
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{where}: its segmentation cannot be drawn ({type(error).__name__}: {error}). Export the "
                        "annotations anew.") from error


def _are_runs(counts: Any) -> bool:
    """Whether these are run lengths as numbers or in COCO's letters; pycocotools trusts what it is given."""
    if isinstance(counts, list):
        return all(isinstance(one, int) and 0 <= one < 2**32 for one in counts)
    return isinstance(counts, str) and re.fullmatch("[0-o]*", counts) is not None


def _is_polygon(corners: Any) -> bool:
    """Whether these are corners [x, y, x, y, x, y, ...]; pycocotools takes memory for every pixel of the sides."""
    if not isinstance(corners, list) or len(corners) < 6 or len(corners) % 2 \
            or not all(isinstance(one, (int, float)) and abs(one) <= LONGEST_OUTLINE for one in corners):
        return False
    places = np.asarray(corners, np.float64).reshape(-1, 2)
    return float(np.abs(places - np.roll(places, 1, axis=0)).max(axis=1).sum()) <= LONGEST_OUTLINE


def _shortened(outline: Any) -> str:
    return f"{str(outline)[:80]} ..." if len(str(outline)) > 80 else str(outline)


def _mask_codec() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise MissingDependencyError(f"form: coco: outlines are drawn by pycocotools, which cannot be imported "
                                     f"({error}). Type: pip install 'beitv2-seg[coco]'") from error
    return mask


def _numbered(file: Path, categories: Mapping[int, str], names: Sequence[str], background: bool) -> dict[int, int]:
    """category -> class by their names, and 0 -> background."""
    wanted = {**({0: BACKGROUND} if background else {}), **categories}
    unknown = [name for name in wanted.values() if name not in names]
    if unknown:
        raise DataError(f"{file}: its categories {some(unknown)} are none of the classes {some(names)}. Name them in "
                        "classes, leave classes out, or say what each number becomes: classes: {NAME: NUMBER, ...}.")
    return {number: list(names).index(name) for number, name in wanted.items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = json.loads(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: cannot be read as JSON ({error}); expected COCO's annotations.") from error
    missing = [key for key in KEYS if not isinstance(tree, dict) or not isinstance(tree.get(key), list)]
    if missing:
        raise DataError(f"{file}: has no list {' and '.join(repr(key) for key in missing)}; expected COCO's "
                        f"{', '.join(KEYS)}. Export it as COCO instances.")
    for key, needed in (("images", ("id", "file_name", "height", "width")), ("categories", ("id", "name")),
                        ("annotations", ("image_id", "category_id"))):
        for place, one in enumerate(tree[key]):
            lacking = [name for name in needed if not isinstance(one, dict) or name not in one]
            if lacking:
                raise DataError(f"{file}: {key}[{place}] has no {' and no '.join(lacking)}; COCO asks for "
                                f"{', '.join(needed)}. Export the file anew.")
            wrong = [name for name in needed if not _fits(key, name, one[name])]
            if wrong:
                raise DataError(f"{file}: {key}[{place}]: " + " and ".join(
                    f"{name} is {_shortened(one[name])}" for name in wrong) + "; COCO asks for numbers from 0 on, and "
                    "text for names. Export the file anew.")
    if not tree["images"]:
        raise DataError(f"{file}: names no image.")
    return dict(tree)


def _fits(key: str, name: str, value: Any) -> bool:
    """Whether a value can be what that key holds."""
    if name in ("file_name", "name"):
        return isinstance(value, (str, int)) and "\0" not in str(value)
    if (key, name) in (("images", "id"), ("annotations", "image_id")) and isinstance(value, str):  # some tools do
        return True
    try:
        whole = int(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return (1 if name in ("height", "width") else 0) <= whole < 2**31


def _file_of(root: Path, asked: Asked) -> Path:
    found = coco_files(root)
    files = found.get(asked.part) or found.get("", [])
    if not files:
        parts = some(file for several in found.values() for file in several)
        raise DataError(f"{root}: there is no COCO file for mode {asked.part} (a name or folder with "
                        f"{' or '.join(PARTS[asked.part])}); found {parts or 'none'}, in {root}, its annotations and "
                        f"its parts. Name it: {asked.part}_path: FILE.json")
    if len(files) > 1:
        raise DataError(f"{root}: {some(files)} could all be the COCO file of {asked.part}; expected one. Name it: "
                        f"{asked.part}_path: {files[0]}")
    return files[0]


def _part(root: Path, asked: Asked) -> Optional[str]:
    return asked.part if asked.part in coco_files(root) else None


def _folder_of(root: Path, file: Path, names: Sequence[str], asked: Asked) -> Path:
    """The folder in which all these images lie."""
    folders = [root / asked.images] if asked.images else [
        root, root / "images", *(folder for base in (root, root / "images") if base.is_dir()
                                 for folder in folders_in(base) if asked.part in map(part_of, words_of(folder.name))),
        file.parent, file.parent / "images", root / "JPEGImages"]
    first = names[0]
    for folder in folders:
        if os.path.isfile(folder / first):  # False also for names that no file can have
            missing = [name for name in names if not os.path.isfile(folder / name)]
            if missing:
                raise DataError(f"{file}: {len(missing)} of its {len(names)} images are not in {folder}: "
                                f"{some(missing)}. Complete the images, or take them out of the file.")
            return folder
    raise DataError(f"{file}: its image {first!r} is in none of {some(dict.fromkeys(folders))}. Name the folder of the "
                    "images below dataset_root: images: FOLDER.")


def _looks_like_coco(file: Path) -> bool:
    """Whether two of COCO's three lists are named at the start or the end of a file, which may have gigabytes."""
    with open(file, "rb") as opened:
        text = opened.read(HEAD)
        size = opened.seek(0, 2)
        opened.seek(max(size - HEAD, 0))
        text += opened.read(HEAD)
    return sum(f'"{key}"'.encode() in text for key in KEYS) > 1
