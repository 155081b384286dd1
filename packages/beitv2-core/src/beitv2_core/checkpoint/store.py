# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that are either whole or absent.

A checkpoint is a folder `step_000123.pdckpt/` with weights.safetensors, optimizer.safetensors, arrays.safetensors
(arrays of the task's state), config.yml and state.json, which names every other file with its SHA-256 and holds one of
its own content.  It is written under a temporary name, synced to the disk and renamed; what a killed process left under
a temporary name is never read.  One that is written again steps aside under a name of its own, where it is found, and
from which it comes back, where a process was killed or the power went in between.  Those of a branch that a resume from
an older one abandoned are moved aside.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from beitv2_core.errors import CheckpointError
from beitv2_core.files.atomic import write_folder_atomically
from beitv2_core.files.durable import make_folder, remove_folder, rename
from beitv2_core.files.hashing import sha256_of
from beitv2_core.files.json_text import parse_json
from beitv2_core.weights.reading.foreign import read_safetensors
from beitv2_core.weights.writers import save_tensors
from beitv2_core.yaml_text import parse_yaml

log = logging.getLogger("beitv2_core")
SCHEMA_VERSION = 1
_HEADER_KEYS = {"schema_version", "step", "sha256", "state", "state_sha256"}
_NAME = re.compile(r"step_(\d+)\.pdckpt")
_REPLACED = ".replaced_"  # before the name of a checkpoint whose step is being saved again
_FILES = ("weights.safetensors", "optimizer.safetensors", "arrays.safetensors", "config.yml")


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
        # What `latest` checked, for the `load` that follows.
        self._found: tuple[Path, Any, dict[str, Any]] | None = None

    def save(self, step: int, weights: Mapping[str, np.ndarray], optimizer: Mapping[str, np.ndarray],
             state: Mapping[str, Any], config: Mapping[str, Any]) -> Path:
        """Write a checkpoint and drop old ones; returns its folder.

        Steps only grow in a run: newer checkpoints are of an abandoned branch, and are moved aside (`abandon_after`).
        `state`: nested dicts and lists of numbers, strings and numpy arrays.  Raises CheckpointError when it cannot be
        written (full disk, no permission); earlier checkpoints are untouched then.
        """
        final = self.folder / f"step_{step:06d}.pdckpt"
        # The same step may be there after a resume: with the same content, or damaged.
        replaced = self.folder / f"{_REPLACED}{final.name}"
        try:
            with write_folder_atomically(final, aside=replaced) as temporary:
                arrays: dict[str, np.ndarray] = {}
                plain = _take_arrays(state, "", arrays)
                text = yaml.safe_dump(dict(config), sort_keys=False).encode()
                (temporary / "config.yml").write_bytes(text)
                digests = {"config.yml": hashlib.sha256(text).hexdigest()}
                for name, content in (("weights", weights), ("optimizer", optimizer), ("arrays", arrays)):
                    digests[f"{name}.safetensors"] = save_tensors(temporary / f"{name}.safetensors", content)
                header = {"schema_version": SCHEMA_VERSION, "step": step, "sha256": digests, "state": plain}
                header["state_sha256"] = _own_sha256(json.loads(json.dumps(header)))
                (temporary / "state.json").write_text(json.dumps(header, indent=1), encoding="utf-8")
        except Exception as error:  # whatever a state held that no file can
            with suppress(OSError):  # the next start brings it back
                self._bring_back()
            raise CheckpointError(
                f"{final}: the checkpoint could not be written: {error}. Earlier checkpoints are intact; "
                "free some space or choose another output folder, then continue with --resume auto."
            ) from error
        self.abandon_after(step)
        self._drop_old(step)
        return final

    def abandon_after(self, step: int) -> None:
        """Move the checkpoints behind a step into a folder beside them: the run goes on from that step another way.

        They can be read from there, and are never deleted.
        """
        newer = [path for found, path in self._places().items() if found > step]
        if not newer:
            return
        stem, count = self.folder / f"abandoned_after_step_{step:06d}", 1
        aside = stem
        while aside.exists():
            count += 1
            aside = stem.with_name(f"{stem.name}_{count}")
        try:
            make_folder(aside)
            for path in newer:
                rename(path, aside / path.name.removeprefix(_REPLACED))
        except OSError as error:
            raise CheckpointError(f"{aside}: newer checkpoints could not be moved there: {error}. Move them away by "
                                  "hand: the run goes on from an older one, and --resume auto would go back to "
                                  "them.") from error
        log.warning("%s: the run continues from step %d; %d newer checkpoint(s) were moved there. Delete them when "
                    "they are not needed.", aside, step, len(newer))

    def steps(self) -> list[int]:
        """Steps of the checkpoints present, whole or damaged, oldest first."""
        return list(self._places())

    def _places(self) -> dict[int, Path]:
        """Folders of the checkpoints by step, oldest first; one that stepped aside where no other took its name."""
        found: dict[int, Path] = {}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            match = _NAME.fullmatch(path.name.removeprefix(_REPLACED))
            if match and (path.name == match.group() or int(match.group(1)) not in found):
                found[int(match.group(1))] = path
        return dict(sorted(found.items()))

    def latest(self) -> Path | None:
        """The newest checkpoint that is whole; damaged ones are named in a warning and skipped."""
        for step in reversed(self.steps()):
            path = self.path_of(step)
            try:
                self._found = (path, _stamp(path), _read_header(path))
            except CheckpointError as error:
                log.warning("%s. An older checkpoint is used.", str(error).rstrip("."))
                continue
            return path
        return None

    def path_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self._places().get(step, self.folder / f"step_{step:06d}.pdckpt")

    def load(self, path: str | Path, *, checked: bool = False) -> Checkpoint:
        """Read a checkpoint after checking every file's hash; CheckpointError names what is missing or damaged.

        What `latest` has just found whole is not hashed a second time, unless a file changed since; nor is what another
        process has just checked (`checked`).
        """
        path = Path(path)
        found, self._found = self._found, None
        known = found is not None and found[:2] == (path, _stamp(path))
        header = found[2] if found is not None and known else _read_header(path, hashes=not checked)
        weights, optimizer, arrays = (read_safetensors(path / f"{name}.safetensors")[0]
                                      for name in ("weights", "optimizer", "arrays"))
        try:  # hashes that fit can be written by anybody
            config = parse_yaml((path / "config.yml").read_text(encoding="utf-8"))
            state = _put_arrays(header["state"], arrays)
            if not isinstance(state, dict) or not isinstance(config, dict) or not isinstance(header["step"], int):
                raise TypeError("state and settings are names with values, the step is a number")
            return Checkpoint(header["step"], weights, optimizer, state, config)
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise CheckpointError(f"{path}: its files have the hashes of state.json but are no checkpoint "
                                  f"({type(error).__name__}: {error}). Take an older one, or copy it again.") from None

    def remove_leftovers(self) -> None:
        """Clear up what killed processes left under temporary names; call it while holding the run's lock.

        A checkpoint that was being written again, and whose new copy got no name yet, gets its name back.
        """
        if self.folder.is_dir():
            self._bring_back()
            for path in self.folder.glob(".tmp_step_*"):
                log.info("%s: left by a process that was killed while saving; removed", path)
                shutil.rmtree(path, ignore_errors=True)

    def _bring_back(self) -> None:
        for path in self.folder.glob(f"{_REPLACED}step_*.pdckpt"):
            final = self.folder / path.name[len(_REPLACED):]
            if final.exists():
                shutil.rmtree(path, ignore_errors=True)
            else:
                rename(path, final)
                log.info("%s: its process was killed while saving this step again; the earlier one is back", final)

    def _drop_old(self, newest: int) -> None:
        for step, path in list(self._places().items())[:-self.keep_last]:
            if step != newest and not (self.keep_every and step % self.keep_every == 0):
                remove_folder(path)


def _read_header(path: Path, hashes: bool = True) -> dict[str, Any]:
    try:
        header = parse_json((path / "state.json").read_text(encoding="utf-8"))
        version, digests = header["schema_version"], dict(header["sha256"])
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
    for name in _FILES:
        file = path / name
        if name not in digests or not file.is_file() or hashes and sha256_of(file) != digests[name]:
            raise CheckpointError(f"{path}: {name} is missing or damaged (its SHA-256 differs from state.json).")
    return header


def _stamp(path: Path) -> Any:
    """Sizes, times and inodes of a checkpoint's files, which change with the files; None where one is missing."""
    try:
        found = [(path / name).stat() for name in (*_FILES, "state.json")]
    except OSError:
        return None
    return [(file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in found]


def _own_sha256(header: Mapping[str, Any]) -> str:
    """SHA-256 of the rest of state.json, independent of spaces and order."""
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
