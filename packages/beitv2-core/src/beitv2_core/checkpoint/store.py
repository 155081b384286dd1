"""Checkpoints that are either whole or absent.

A checkpoint is a folder `step_000123.pdckpt/` with weights.safetensors, optimizer.safetensors, arrays.safetensors
(arrays of the task's state), config.yml and state.json, which names every other file with its SHA-256 and holds one of
its own content.  It is written under a temporary name, synced to the disk and renamed; what a killed process left under
a temporary name is never read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from safetensors.numpy import save_file

from beitv2_core.checkpoint.foreign import read_safetensors
from beitv2_core.errors import CheckpointError

log = logging.getLogger("beitv2_core")
SCHEMA_VERSION = 1
_HEADER_KEYS = {"schema_version", "step", "sha256", "state", "state_sha256"}
_NAME = re.compile(r"step_(\d+)\.pdckpt")


class Checkpoint(NamedTuple):
    """What was saved at a step: arrays by structured name, `state` as given to `save`, the resolved settings."""

    step: int
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    state: dict[str, Any]
    config: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one run: the newest `keep_last` and every one whose step is a multiple of `keep_every`."""

    def __init__(self, folder: str | Path, *, keep_last: int = 3, keep_every: int | None = None):
        self.folder = Path(folder)
        self.keep_last, self.keep_every = keep_last, keep_every

    def save(self, step: int, weights: Mapping[str, np.ndarray], optimizer: Mapping[str, np.ndarray],
             state: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
        """Write a checkpoint and drop old ones; returns its folder.

        `state`: nested dicts and lists of numbers, strings and numpy arrays.  Raises CheckpointError when it cannot be
        written (full disk, no permission); earlier checkpoints are untouched then.
        """
        final = self.folder / f"step_{step:06d}.pdckpt"
        temporary = self.folder / f".tmp_{final.name}_{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            arrays: dict[str, np.ndarray] = {}
            plain = _take_arrays(state, "", arrays)
            for name, content in (("weights", weights), ("optimizer", optimizer), ("arrays", arrays)):
                save_file({key: np.array(value, order="C") for key, value in content.items()},
                          str(temporary / f"{name}.safetensors"))
            (temporary / "config.yml").write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
            digests = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
            header = {"schema_version": SCHEMA_VERSION, "step": step, "sha256": digests, "state": plain}
            header["state_sha256"] = _own_sha256(json.loads(json.dumps(header)))
            (temporary / "state.json").write_text(json.dumps(header, indent=1), encoding="utf-8")
            for path in temporary.iterdir():
                _sync(path)
            _sync(temporary)
            if final.exists():  # the same step again after a resume: the same content, or a damaged one
                shutil.rmtree(final)
            os.rename(temporary, final)
            _sync(self.folder)
        except Exception as error:  # safetensors raises types of its own
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"{final}: the checkpoint could not be written: {error}. Earlier checkpoints are intact; "
                "free some space or choose another output folder, then continue with --resume auto."
            ) from error
        self._drop_old(step)
        return final

    def steps(self) -> list[int]:
        """Steps of the checkpoints present, whole or damaged, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match.group(1)) for match in found if match)

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole; damaged ones are named in a warning and passed over."""
        for step in reversed(self.steps()):
            path = self.folder / f"step_{step:06d}.pdckpt"
            try:
                _read_header(path)
            except CheckpointError as error:
                log.warning("%s. An older checkpoint is used.", str(error).rstrip("."))
                continue
            return path
        return None

    def load(self, path: str | Path) -> Checkpoint:
        """Read a checkpoint after checking every file's hash; CheckpointError names what is missing or damaged."""
        path = Path(path)
        header = _read_header(path)
        weights, optimizer, arrays = (read_safetensors(path / f"{name}.safetensors")[0]
                                      for name in ("weights", "optimizer", "arrays"))
        config = yaml.safe_load((path / "config.yml").read_text(encoding="utf-8"))
        return Checkpoint(header["step"], weights, optimizer, _put_arrays(header["state"], arrays), config)

    def remove_leftovers(self) -> None:
        """Delete what killed processes left under temporary names; call it while holding the run's lock."""
        if self.folder.is_dir():
            for path in self.folder.glob(".tmp_step_*"):
                log.info("%s: left by a process that was killed while saving; removed", path)
                shutil.rmtree(path, ignore_errors=True)

    def _drop_old(self, newest: int) -> None:
        for step in self.steps()[:-self.keep_last]:
            if step != newest and not (self.keep_every and step % self.keep_every == 0):
                # Renamed first: a kill while deleting must not leave half a checkpoint under a valid name.
                path = self.folder / f"step_{step:06d}.pdckpt"
                doomed = self.folder / f".tmp_{path.name}_old"
                os.rename(path, doomed)
                shutil.rmtree(doomed, ignore_errors=True)


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / "state.json").read_text(encoding="utf-8"))
        version, digests = header["schema_version"], header["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: no readable checkpoint here (state.json: {error}).") from None
    # Early checkpoints have no such hash; but for the check of the keys, damage to its name would pass for one of them.
    own = header.get("state_sha256")
    if own is not None and own != _own_sha256(header) or set(header) - _HEADER_KEYS:
        raise CheckpointError(f"{path}: state.json is damaged (its SHA-256 differs from what it holds).")
    if version != SCHEMA_VERSION:
        raise CheckpointError(
            f"{path}: written in checkpoint schema {version}, this version reads {SCHEMA_VERSION}. "
            "Use the version of beitv2-core that wrote it."
        )
    for name in ("weights.safetensors", "optimizer.safetensors", "arrays.safetensors", "config.yml"):
        file = path / name
        if name not in digests or not file.is_file() or _sha256(file) != digests[name]:
            raise CheckpointError(f"{path}: {name} is missing or damaged (its SHA-256 differs from state.json).")
    return header


def _own_sha256(header: Mapping[str, Any]) -> str:
    """Of what state.json says besides, whatever its spaces and order."""
    said = {key: value for key, value in header.items() if key != "state_sha256"}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _take_arrays(value: Any, prefix: str, arrays: dict[str, np.ndarray]) -> Any:
    """A JSON-able copy of `value`, its arrays moved into `arrays` and replaced by {"__array__": key}."""
    if isinstance(value, np.ndarray):
        arrays[prefix] = value
        return {"__array__": prefix}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {key: _take_arrays(item, f"{prefix}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_take_arrays(item, f"{prefix}/{i}", arrays) for i, item in enumerate(value)]
    return value


def _put_arrays(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, dict):
        if set(value) == {"__array__"}:
            return arrays[value["__array__"]]
        return {key: _put_arrays(item, arrays) for key, item in value.items()}
    return [_put_arrays(item, arrays) for item in value] if isinstance(value, list) else value


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
