"""What pretraining was worth for segmentation: equal trainings from a pretrained backbone and from scratch."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from beitv2_core import runtime
from beitv2_core.commands.trials import run_trial
from beitv2_seg.build import build_dataset, load_segmentor
from beitv2_seg.predict import class_colours
from beitv2_seg.reading import labels_of

log = logging.getLogger("beitv2_seg")
STARTS = ("pretrained", "scratch")
COLUMNS = ("miou", "macc", "aacc")


def train_both(config: str, pretrained: str, folder: Path) -> dict[str, dict[str, float]]:
    """{start: {"miou", "macc", "aacc"}} of both trainings; finished ones are not repeated, broken ones continue.

    Both run at once where there are two processor cores.  Raises BEiTError with the last lines of a run that fails.
    """
    with ThreadPoolExecutor(min(len(STARTS), runtime.physical_cores())) as pool:
        found = list(pool.map(lambda start: _run(start, config, pretrained, folder / start), STARTS))
    return dict(zip(STARTS, found))


def _run(start: str, config: str, pretrained: str, output: Path) -> dict[str, float]:
    if not (output / "evaluation.json").is_file():
        weights = pretrained if start == "pretrained" else "null"
        run_trial(["segment", "train", "--config", config, "--save_dir", str(output), "--resume_model", "auto",
                   "--log_iters", "50", "--save_interval", "200", "--keep_checkpoint_max", "1", "--opts",
                   f"model.backbone.pretrained={weights}"], output)
        run_trial(["segment", "evaluate", "--model_path", str(output)], output)
    found = json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    log.info("%s: mIoU %.4f", output, found["miou"])
    return {name: found[name] for name in COLUMNS}


def rows_of(table: dict[str, dict[str, float]]) -> list[tuple[str, ...]]:
    """The table as text: a heading, a row for each start, the difference in points."""
    rows: list[tuple[str, ...]] = [("test pictures", "mIoU", "mAcc", "aAcc")]
    rows += [(start, *(f"{100 * table[start][name]:.1f} %" for name in COLUMNS)) for start in STARTS]
    gains = [100 * (table["pretrained"][name] - table["scratch"][name]) for name in COLUMNS]
    return [*rows, ("difference", *(f"{gain:+.1f} points" for gain in gains))]


def write_table(table: dict[str, dict[str, float]], folder: Path) -> Path:
    """summary.json in `folder`."""
    path = folder / "summary.json"
    path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return path


def draw_examples(folder: Path, path: Path, *, most: int = 6) -> None:
    """The first `most` validation pictures, their labels and both predictions, a column each, as a PNG."""
    from matplotlib.patches import Patch

    from beitv2_core.viz.canvas import Canvas, name_row, show

    segmentors = {start: load_segmentor(str(folder / start)) for start in STARTS}
    config, names = segmentors["pretrained"].config, segmentors["pretrained"].classes
    colours = class_colours(len(names))
    dataset = build_dataset(config.val_dataset, "val_dataset", len(names))
    numbers = range(min(most, len(dataset)))
    with Canvas(path, 1.5 * len(numbers) + 1.0, 6.9, title=f"IoU is measured on all {len(dataset)} pictures") as figure:
        grid = figure.subplots(4, len(numbers), squeeze=False)
        seen: set[int] = set()
        for column, number in enumerate(numbers):
            data = dataset[number]
            label = np.asarray(data["label"]).reshape(data["label"].shape[-2:])
            kept = np.where(label == getattr(dataset, "ignore_index", 255), 0, label)
            maps = [kept, *(labels_of(segmentors[start].model, [data], config.test_config) for start in STARTS)]
            show(grid[0, column], _levels(data["img"]))
            for axes, classes in zip(grid[1:, column], maps):
                show(axes, colours[classes])
                seen.update(np.unique(classes).tolist())
        for axes, name in zip(grid[:, 0], ("picture", "truth", *STARTS)):
            name_row(axes, name)
        figure.legend(handles=[Patch(facecolor=colours[i] / 255, label=names[i]) for i in sorted(seen)][:22],
                      loc="outside lower center", ncols=11)


def _levels(image: Any) -> np.ndarray:
    """A normalised picture (3, H, W) as uint8 (H, W, 3)."""
    from beitv2_seg.transforms import BEiTv2Normalize

    normalise = BEiTv2Normalize()
    return np.clip(np.rint(image.transpose(1, 2, 0) / normalise.inverse + normalise.mean), 0, 255).astype(np.uint8)
