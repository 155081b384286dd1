# SPDX-License-Identifier: Apache-2.0
"""Small data sets as people bring them, and settings to train on them."""

from __future__ import annotations

import numpy as np
import yaml
from PIL import Image

from beitv2_seg.config import read_config_file

COLOURS = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], np.uint8)
SIZE = (40, 48)  # height, width
rng = np.random.default_rng(0)


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A grey image with a red and a green square, and its classes 0, 1, 2."""
    image, label = rng.integers(90, 140, (*SIZE, 3)).astype(np.uint8), np.zeros(SIZE, np.uint8)
    for number, (colour, left) in enumerate((((220, 30, 30), 4), ((30, 220, 30), 28)), 1):
        top = int(rng.integers(0, SIZE[0] - 14))
        image[top:top + 14, left:left + 14], label[top:top + 14, left:left + 14] = colour, number
    return image, label


def as_png(label, path):
    Image.fromarray(label).save(path)


def write_data(root, *, save_label=as_png, save_image=as_png, image="images/p{}.png", label="labels/p{}.png", count=4):
    """Images, label maps and train.txt below `root`; returns the lines of the list."""
    lines = []
    for kind in (image, label):
        (root / kind).parent.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels, classes = scene()
        save_image(pixels, root / image.format(i))
        save_label(classes, root / label.format(i))
        lines.append(f"{image.format(i)} {label.format(i)}")
    (root / "train.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return lines


def config_file(root, folder, **changes):
    """A small run on that data; `changes` are top-level keys, or dotted ones (with __)."""
    def data(mode, steps):
        return {"type": "Dataset", "mode": mode, "dataset_root": str(root), f"{mode}_path": str(root / "train.txt"),
                "transforms": steps}

    tree = {
        "batch_size": 2, "iters": 3,
        "model": {"type": "BEiTv2UPerNet", "num_classes": 3, "channels": 4, "aux_channels": 4, "pool_scales": [1, 2],
                  "dropout": 0.0, "backbone": {"type": "BEiTv2", "width": 12, "depth": 4, "num_heads": 2,
                                               "image_size": 32, "patch_size": 8}},
        "train_dataset": data("train", [
            {"type": "BEiTv2RatioRangeResize", "scale": [128, 32], "ratio_range": [0.5, 2.0]},
            {"type": "BEiTv2RandomCrop", "crop_size": [32, 32]}, {"type": "BEiTv2Normalize"},
            {"type": "BEiTv2Pad", "size": [32, 32]}]),
        "val_dataset": data("val", [{"type": "BEiTv2Resize", "scale": [128, 32]}, {"type": "BEiTv2Normalize"}]),
        "test_config": {"is_slide": True, "crop_size": [32, 32], "stride": [22, 22]},
        "optimizer": {"type": "BEiTv2AdamW"},
        "lr_scheduler": {"type": "BEiTv2WarmupPoly", "learning_rate": 1e-3, "total_iters": 3, "warmup": 1},
        "loss": {"types": [{"type": "BEiTv2CrossEntropyLoss"}, {"type": "BEiTv2CrossEntropyLoss"}], "coef": [1.0, 0.4]},
    }
    for key, value in changes.items():
        *sections, last = key.split("__")
        part = tree
        for section in sections:
            part = part[int(section)] if section.isdigit() else part[section]
        part[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own.yml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return path


def settings(root, folder, **changes):
    return read_config_file(str(config_file(root, folder, **changes)))


def palette(label, path):
    image = Image.fromarray(label).convert("P")
    image.putdata(label.reshape(-1).tolist())
    table = np.zeros((256, 3), np.uint8)
    table[:3] = COLOURS[::-1]
    image.putpalette(table.reshape(-1).tolist())
    image.save(path)
