# SPDX-License-Identifier: Apache-2.0
"""What was found, as a table, as JSON, and as lists that a run can be given."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ..choosing.survey import PLAIN_LEVELS
from ..files.atomic import write_text_atomically
from .findings import Judged, copies, counted, steps_per_epoch
from .gather import Found
from .parts import Part, Use

#: what the JSON is written in; a key that is renamed or goes makes it another number
VERSION = 1
#: files of a finding in the JSON, and classes in the table
MOST_FILES, MOST_CLASSES = 20, 12


def as_json(judged: Judged, *, quick: bool) -> dict[str, Any]:
    """Everything that was found as plain values; docs/data.md explains the keys."""
    plan = judged.plan
    return {
        "version": VERSION, "data": plan.data, "quick": quick, "ready": judged.ready,
        "splits": {part.name: _split(judged, part, found, quick) for part, found in zip(plan.parts, judged.found)},
        "commands": [_command(judged, use) for use in plan.uses],
        "findings": [
            {"kind": one.kind, "fault": one.fault, "split": one.part, "count": one.number, "what": one.what,
             "do": one.do, "files": [_path(judged, name, number) for name, number in one.files[:MOST_FILES]]}
            for one in judged.findings],
    }


def lines(found: Mapping[str, Any]) -> list[str]:
    """The table, what each command would read, what is to be done, and "ready" or not, of `as_json`."""
    splits = found["splits"]
    rows = [("", list(splits)), *_rows(splits)]
    widths = [max(len(cells[column]) for _, cells in rows) for column in range(len(splits))]
    text = [f"{title:<22}" + "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths)).rstrip()
            for title, cells in rows]
    for name, split in splits.items():
        text += _class_lines(name, split)
    text += ["", "would be read by"]
    for command in found["commands"]:
        text += [f"  {command['command']}", f"    {_says(command)}"]
    for title, fault in (("to be done", True), ("good to know", False)):
        chosen = [one for one in found["findings"] if one["fault"] is fault]
        if chosen:
            text += ["", title]
            for number, one in enumerate(chosen, 1):
                text += [f"  {number}. {one['what']}.", f"     {one['do']}."]
    faults = sum(one["fault"] for one in found["findings"])
    looked = "headers only were read, no pixels, labels of pixels and copies; " if found["quick"] else ""
    text += ["", f"{looked}ready" if not faults else f"{looked}not ready: {faults} thing(s) to be done"]
    return text


def write_lists(judged: Judged, folder: Path) -> list[Path]:
    """findings.csv with every file of every finding, and for each split that has some not worth keeping, a list of the
    others; returns what was written."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("kind", "fault", "split", "file", "detail"))
    for one in judged.findings:
        writer.writerows((one.kind, int(one.fault), name, _path(judged, name, number), words)
                         for (name, number), words in zip(one.files, one.words))
    written = [folder / "findings.csv"]
    _write(written[0], text.getvalue())
    for part in judged.plan.parts:
        dropped = judged.leave_out[part.name]
        if dropped and part.list_setting and part.line is not None:
            kept = [part.line(number) for number in range(part.images) if number not in dropped]
            written.append(folder / f"{part.name}.txt")
            _write(written[-1], "".join(f"{line}\n" for line in kept))
    return written


def _write(path: Path, text: str) -> None:
    write_text_atomically(path, text, errors="surrogateescape")


def _path(judged: Judged, name: str, number: int) -> str:
    part = next(part for part in judged.plan.parts if part.name == name)
    return os.fspath(part.looks.path(number))


def _split(judged: Judged, part: Part, found: Found, quick: bool) -> dict[str, Any]:
    read = found.read if part.looks is not None else np.zeros(0, np.int64)
    width, height = found.width[read].astype(np.int64), found.height[read].astype(np.int64)
    split = {
        "role": part.role, "from": part.root, "images": part.images, "drawn": part.looks is None,
        "unreadable": len(found.broken), "left_out": len(part.left_out),
        "width": _spread(width), "height": _spread(height), "short_side": _spread(np.minimum(width, height)),
        "aspect": _spread(width / np.maximum(height, 1)), "modes": _ordered(found.modes),
        "formats": _ordered(found.kinds), "alpha": found.alpha, "turned": int((found.turn > 1).sum()),
        "one_colour": None if quick else int(((found.spread >= 0) & (found.spread <= PLAIN_LEVELS)).sum()),
        "copies": None if quick else {name.replace(" ", "_"): count for name, count in copies(judged, part).items()},
        "classes": _class_rows(part, found),
    }
    if found.counts is not None:
        split["pixels_without_class"] = int(found.counts[-1])
    return split


def _class_rows(part: Part, found: Found) -> Optional[list[dict[str, Any]]]:
    counts, names = counted(part, found)
    if counts is None or names is None:
        return None
    rows = [{"name": str(name), "images": int(count), "share": round(float(count) / max(part.images, 1), 6)}
            for name, count in zip(names, counts)]
    if found.counts is not None:
        pixels = found.counts[:-1]
        for row, count in zip(rows, pixels.tolist()):
            row.update(pixels=int(count), pixel_share=round(count / max(int(pixels.sum()), 1), 6))
    return rows


def _command(judged: Judged, use: Use) -> dict[str, Any]:
    steps = steps_per_epoch(judged.plan, use)
    mine = [one for one in judged.findings if one.fault and set(one.part.split(", ")) & set(use.reads)
            and (use.classes is not None or not one.of_classes)]
    total = use.total_steps if use.total_steps is not None else (
        None if use.epochs is None or steps is None else use.epochs * steps)
    return {"command": use.command, "reads": {part.name: part.images for part in judged.plan.parts
                                              if part.name in use.reads},
            "classes": use.classes, "batch": use.batch, "steps_per_epoch": steps, "steps": total, "ready": not mine}


def _spread(values: np.ndarray) -> Optional[dict[str, float]]:
    if not len(values):
        return None
    return {name: round(float(value), 4) for name, value in
            (("min", values.min()), ("median", np.median(values)), ("max", values.max()))}


def _ordered(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _rows(splits: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    def row(title: str, cell: Any) -> tuple[str, list[str]]:
        return title, [cell(split) for split in splits.values()]

    def three(values: Optional[Mapping[str, float]]) -> str:
        return "-" if values is None else " / ".join(f"{values[key]:g}" for key in ("min", "median", "max"))

    def counts(values: Mapping[str, int]) -> str:
        return ", ".join(f"{name} {count:,}" for name, count in values.items()) or "-"

    def maybe(value: Optional[int]) -> str:
        return "-" if value is None else f"{value:,}"

    return [
        row("from", lambda split: split["from"]),
        row("images", lambda split: f"{split['images']:,}" + (" (drawn)" if split["drawn"] else "")),
        row("unreadable", lambda split: f"{split['unreadable']:,}"),
        row("width", lambda split: three(split["width"])),
        row("height", lambda split: three(split["height"])),
        row("width / height", lambda split: three(split["aspect"])),
        row("formats", lambda split: counts(split["formats"])),
        row("modes", lambda split: counts(split["modes"])),
        row("with transparency", lambda split: f"{split['alpha']:,}"),
        row("turned by EXIF", lambda split: f"{split['turned']:,}"),
        row("of one colour", lambda split: maybe(split["one_colour"])),
        row("copies in the split", lambda split: "-" if split["copies"] is None else
            counts({name.replace("_", " "): count for name, count in split["copies"].items() if count}) if any(
                split["copies"].values()) else "0"),
        row("classes", lambda split: "-" if split["classes"] is None else str(len(split["classes"]))),
    ]


def _class_lines(name: str, split: Mapping[str, Any]) -> list[str]:
    classes = split["classes"]
    if not classes:
        return []
    key = "pixel_share" if "pixel_share" in classes[0] else "share"
    ordered = sorted(classes, key=lambda one: -one[key])
    shown = ordered if len(ordered) <= MOST_CLASSES else [*ordered[: MOST_CLASSES // 2], None,
                                                          *ordered[-(MOST_CLASSES // 2):]]
    what = "pixels (images)" if key == "pixel_share" else "images"
    cells = ["..." if one is None else f"{one['name']} {100 * one[key]:.2f} % ({one['images']:,})" for one in shown]
    text = [f"shares of {what} in {name}:"]
    for start in range(0, len(cells), 4):
        text.append("  " + ", ".join(cells[start : start + 4]))
    if split.get("pixels_without_class"):
        whole = split["pixels_without_class"] + sum(one["pixels"] for one in classes)
        text.append(f"  without a class: {100 * split['pixels_without_class'] / whole:.2f} % of all pixels")
    return text


def _says(command: Mapping[str, Any]) -> str:
    said = [", ".join(f"{name} {count:,} images" for name, count in command["reads"].items())]
    if command["classes"] is not None:
        said.append(f"{command['classes']} classes")
    if command["batch"] is not None:
        said.append(f"{command['steps_per_epoch']:,} steps per epoch of {command['batch']} images")
    if command["steps"] is not None:
        said.append(f"{command['steps']:,} steps in all")
    return "; ".join([*said, "ready" if command["ready"] else "not ready"])
