# SPDX-License-Identifier: Apache-2.0
"""What pretraining was worth for segmentation: equal trainings from a pretrained backbone and from scratch."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from beitv2_core.commands.trials import run_side_by_side, run_trial
from beitv2_core.config import parse_config
from beitv2_core.config.load import flatten, read_tree
from beitv2_core.errors import ConfigError
from beitv2_core.files.atomic import write_text_atomically
from beitv2_seg.assembly import FREE_SETTINGS, build_dataset, load_segmentor, with_pretrained_settings
from beitv2_seg.config import SegmentConfig, read_config_file
from beitv2_seg.reading.inputs import LabelledImages
from beitv2_seg.reading.label_map import predict_label_map
from beitv2_seg.reading.predict import class_colours

log = logging.getLogger("beitv2_seg")
STARTS = ("pretrained", "scratch")
COLUMNS = ("miou", "macc", "aacc")


def train_both(config: str, pretrained: str, folder: Path, *, iters: int | None = None,
               opts: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """{start: {"miou", "macc", "aacc", "classes_measured", "classes"}} of both trainings; finished ones are not
    repeated, broken ones continue.

    iters, opts: as `segment train` takes them.  Both run in parallel where there are two processor cores.  Raises
    ConfigError for a run that was made with other settings, BEiTError with the last lines of one that fails.
    """
    given = {} if iters is None else {"iters": iters}
    opts = [*opts, *_architecture(read_config_file(config, opts=[*opts, f"model.backbone.pretrained={pretrained}"],
                                                   flags=given))]
    return run_side_by_side({start: partial(_run, start, config, pretrained, folder / start, given, list(opts))
                             for start in STARTS}, folder)


def _architecture(settings: SegmentConfig) -> list[str]:
    """What the pretrained backbone decides, as options: the run from scratch must be of the same size."""
    before, after = flatten(settings.resolved()), flatten(with_pretrained_settings(settings).resolved())
    return [f"{key}={json.dumps(value)}" for key, value in after.items() if before.get(key, ...) != value]


def _run(start: str, config: str, pretrained: str, output: Path, given: dict[str, int],
         opts: list[str]) -> dict[str, Any]:
    weights = pretrained if start == "pretrained" else "null"
    opts = [*opts, f"model.backbone.pretrained={weights}"]
    if (output / "evaluation.json").is_file():
        _check_same(read_config_file(config, opts=opts, flags=given), output)
    else:
        more = [part for key, value in given.items() for part in (f"--{key}", str(value))]
        run_trial(["segment", "train", "--config", config, "--save_dir", str(output), "--resume_model", "auto",
                   "--log_iters", "50", "--save_interval", "200", "--keep_checkpoint_max", "1", *more, "--opts", *opts],
                  output)
        run_trial(["segment", "evaluate", "--model_path", str(output)], output)
    found = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    return {name: found.get(name) for name in (*COLUMNS, "classes_measured", "classes")}


def _check_same(config: SegmentConfig, output: Path) -> None:
    """ConfigError where a finished run was made with other settings than these."""
    made = parse_config(read_tree(output / "config.yml")[0], SegmentConfig, source=str(output / "config.yml"),
                        written_by="").resolved()
    before, now = flatten(made), flatten(config.resolved())
    changed = [key for key in sorted({*before, *now})
               if before.get(key) != now.get(key) and not key.startswith(FREE_SETTINGS)]
    if made.get("model", {}).get("backbone", {}).get("pretrained") != config.model.backbone.options().get("pretrained"):
        changed.append("model.backbone.pretrained")
    if changed:
        listed = ", ".join(f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
        raise ConfigError(f"{output}: the finished run there was made with other settings ({listed}). Give another "
                          "--output, or the same settings.")


def rows_of(table: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """The table as text: a heading, a row for each start, the difference in points.

    Its last column says over how many of the classes the means are.
    """
    rows: list[tuple[str, ...]] = [("start", "mIoU", "mAcc", "aAcc", "classes")]
    for start in STARTS:
        values = table[start]
        rows.append((start, *("not measured" if values[name] is None else f"{100 * values[name]:.1f} %"
                              for name in COLUMNS), f"{values['classes_measured']} of {values['classes']}"))
    pairs = [(table["pretrained"][name], table["scratch"][name]) for name in COLUMNS]
    return [*rows, ("difference", *("" if None in pair else f"{100 * (pair[0] - pair[1]):+.1f} points"
                                    for pair in pairs))]


def write_table(table: dict[str, dict[str, Any]], folder: Path) -> Path:
    """summary.json in `folder`."""
    path = folder / "summary.json"
    write_text_atomically(path, json.dumps(table, indent=1) + "\n")
    return path


def draw_examples(folder: Path, path: Path, *, most: int = 6) -> None:
    """`most` validation images spread over the set, their labels and both predictions, a column each, as a PNG."""
    from matplotlib.patches import Patch

    from beitv2_core.viz.canvas import Canvas, name_row, show

    segmentors = {start: load_segmentor(str(folder / start)) for start in STARTS}
    config, names = segmentors["pretrained"].config, segmentors["pretrained"].classes
    colours = class_colours(len(names))
    dataset = build_dataset(config, "val_dataset", folder / STARTS[0])
    images = LabelledImages(dataset, (1.0,), num_classes=len(names), ignored=config.ignored)
    numbers = np.linspace(0, len(dataset) - 1, min(most, len(dataset))).astype(int).tolist()  # neighbours look alike
    columns: list[list[np.ndarray]] = []
    seen: set[int] = set()
    for image in images.in_order(numbers):
        maps = [np.where(image.label == config.ignored, len(colours), image.label),
                *(predict_label_map(segmentors[start].model, image.inputs, config.test_config) for start in STARTS)]
        columns.append([_levels(image.inputs[0]["img"]), *(coloured(one, colours) for one in maps)])
        seen.update(*(np.unique(one[one < len(colours)]).tolist() for one in maps))
    width, tallest = 1.5 * len(numbers) + 1.0, max(column[0].shape[0] / column[0].shape[1] for column in columns)
    title = (f"{len(numbers)} of {len(dataset)} validation images, their labels (white: unlabelled), and both "
             "predictions")
    with Canvas(path, width, 4 * (1.5 * min(tallest, 3.0) + 0.1) + 0.9, title=title) as figure:
        grid = figure.subplots(4, len(numbers), squeeze=False)
        for axes, pixels in zip(grid.T.flat, itertools.chain.from_iterable(columns)):
            show(axes, pixels)
        for axes, name in zip(grid[:, 0], ("image", "truth", *STARTS)):
            name_row(axes, name)
        figure.legend(handles=[Patch(facecolor=colours[i] / 255, label=names[i]) for i in sorted(seen)][:22],
                      loc="outside lower center", ncols=max(2, min(11, int(width / 0.9))))


def coloured(label: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """A label map (H, W) in the colours (N, 3) of its classes, what is unlabelled (N) white: (H, W, 3)."""
    return np.concatenate([colours, np.full((1, 3), 255, colours.dtype)])[label]


def _levels(image: Any) -> np.ndarray:
    """A normalised image (3, H, W) as uint8 (H, W, 3)."""
    from beitv2_seg.data.transforms import BEiTv2Normalize

    normalise = BEiTv2Normalize()
    return np.clip(np.rint(image.transpose(1, 2, 0) / normalise.inverse + normalise.mean), 0, 255).astype(np.uint8)
