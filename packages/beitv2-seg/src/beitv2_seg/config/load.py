# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg's YAML files, `--opts` and flags as checked settings."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from beitv2_core.config import parse_config
from beitv2_core.config.load import merge_overrides, read_tree
from beitv2_core.errors import ConfigError
from beitv2_seg.config.schema import SegmentConfig


def _packaged_folder() -> Path:
    """The packaged YAML files: inside an installed package; in a checkout, configs/seg of the repository."""
    here = Path(__file__).resolve()
    installed = here.parents[1] / "configs"
    return installed if installed.is_dir() else Path(*here.parts[:-6], "configs", "seg")


PACKAGED = _packaged_folder()
#: keys of ours that PaddleSeg's own scripts ignore silently, and what to write for those
NOT_PADDLESEGS = {
    "ignore_index": "ignore_index of train_dataset, val_dataset, the losses, BEiTv2RandomCrop and BEiTv2Pad",
    "label_map": "label files that hold the numbers of the classes",
    "unlisted_labels": "label files that hold the numbers of the classes",
    "classes": "nothing: it has no names of classes",
    "held_out": "train_path and val_path: lists of both",
}
#: settings whose flag has another name than their key
FLAGS = {"output": "save_dir", "run.windows_at_once": "windows", "lr_scheduler.total_iters": "iters"}


def find_config(name: str) -> Path:
    """The YAML file of that path, or the packaged one of that name (without `.yml` too); ConfigError for neither."""
    path = Path(name)
    if path.is_file():
        return path
    packaged = {file.name: file for file in sorted(PACKAGED.glob("*.yml"))}
    found = packaged.get(name) or packaged.get(f"{name}.yml")
    if found is None:
        near = difflib.get_close_matches(path.name, packaged, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"--config {name}: no such file, and no packaged config has that name.{hint} "
                          f"Packaged: {', '.join(packaged)}.")
    return found


def read_config_file(name: str, *, opts: Sequence[str] = (), flags: Mapping[str, Any] | None = None) -> SegmentConfig:
    """The settings of a YAML file, of `--opts key=value` and of flags ({dotted key: value}); flags win.

    `iters` among the flags or opts also sets the schedule's length, and a `batch_size` flag means what it means in
    PaddleSeg: an update sees batch_size x processes images.
    """
    path, flags = find_config(name), dict(flags or {})
    keys = [text.partition("=")[0].strip() for text in opts]
    tree, sources = read_tree(path)
    merge_overrides(tree, opts, sources, option="--opts")
    follows = "iters" in flags or "iters" in keys
    if follows and "total_iters" in tree.get("lr_scheduler", {}) and "lr_scheduler.total_iters" not in keys:
        flags["lr_scheduler.total_iters"] = flags.get("iters", tree.get("iters"))
    if "batch_size" in flags and "total_batch" not in keys:
        flags["total_batch"] = None
    for key, value in flags.items():
        flag = FLAGS.get(key, key.rpartition(".")[2])
        merge_overrides(tree, [f"{key}={_yaml(value)}"], sources, option=f"--{flag}")
    return parse_config(tree, SegmentConfig, source=str(path), sources=sources)


def refuse_for_paddleseg(path: str) -> None:
    """ConfigError for a YAML file with a key that PaddleSeg's own scripts would ignore silently."""
    if not Path(path).is_file():
        return  # PaddleSeg's own error
    tree, _ = read_tree(Path(path))
    for key, instead in NOT_PADDLESEGS.items():
        if key in tree:
            raise ConfigError(f"{path}: {key}: a key of `beitv2 segment`; PaddleSeg's scripts would ignore it. For "
                              f"them write {instead}.")


def apply_opts(config: SegmentConfig, opts: Sequence[str], flags: Mapping[str, Any]) -> SegmentConfig:
    """Settings of a run with `--opts key=value` and flags ({dotted key: value}) laid over them."""
    tree = config.resolved()
    merge_overrides(tree, [*opts, *(f"{key}={_yaml(value)}" for key, value in flags.items())], option="--opts")
    return parse_config(tree, SegmentConfig, source="--opts")


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
