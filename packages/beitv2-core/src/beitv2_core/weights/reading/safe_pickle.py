# SPDX-License-Identifier: Apache-2.0
"""Weights files made with pickle, read without executing anything in them.

PyTorch zip (.pth, .pt), PyTorch before 1.6, TorchScript archives (OpenAI's CLIP) and Paddle (.pdparams) become plain
dictionaries of read-only numpy arrays; `restricted_pickle` says what a file may hold.
"""

from __future__ import annotations

import pickle
import reprlib
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.reading.pickled_values import Global, Module, PickledArray, Record, Storage, TensorRef
from beitv2_core.weights.reading.restricted_pickle import RestrictedUnpickler, unpickle_bytes

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = pickle.dumps(LEGACY_MAGIC, 2)
_PROTOCOL = 1001
_SLACK = 16 * 2**20  # what a small archive may unpack to beyond four times its size
_MOST_MODULES = 100_000

_TensorMaker = Callable[[TensorRef, str], Any]


def load_torch_file(path: str | Path) -> dict[str, Any]:
    """The dictionary in a PyTorch or Paddle weights file, tensors as read-only numpy arrays; executes nothing.

    Nesting stays (`{"model": {...}}`); a TorchScript archive gives its flat state dict; `argparse.Namespace` becomes a
    dict; float16 stays float16, bfloat16 becomes float32 (numpy has no such type).
    Raises CheckpointError naming the path and what is wrong: no such file, truncated, a global outside the allow-list,
    a tensor larger than its storage, an archive that unpacks to far more than its size, another format.
    """
    return _load(Path(path), TensorRef.array)


def inspect_torch_file(path: str | Path) -> dict[str, Any]:
    """As `load_torch_file` with every check it makes, but a `TensorRef` in each tensor's place; keeps no numbers.

    The checksums of a zip are compared too, by reading the file once.
    """
    def checked(tensor: TensorRef, where: str) -> TensorRef:
        tensor.check(where)
        return tensor

    return _load(Path(path), checked)


def is_torchscript(path: Path) -> bool:
    """True for an archive of torch.jit.save, by content."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/")[-1] == "constants.pkl" for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _load(path: Path, make: _TensorMaker) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give the path of a .pth, .pt or .pdparams file.")
    try:
        with path.open("rb") as file:
            head = file.read(2)
            file.seek(0)
            value = _read_zip(file, path, make) if head == b"PK" else _read_stream(file, path, make)
    except CheckpointError as error:
        if str(error).startswith(str(path)):
            raise
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{path}: truncated, damaged or no weights file ({type(error).__name__}: {error}). Copy it again; "
            "expected a PyTorch (.pth, .pt) or Paddle (.pdparams) file."
        ) from error
    if isinstance(value, dict):
        return value
    raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected a dictionary of tensors (a state dict).")


# -- zip: torch.save since 1.6, torch.jit.save -------------------------------------------------------------------------


class _ZipStorages:
    def __init__(self, archive: zipfile.ZipFile, prefix: str):
        self.archive, self.prefix = archive, prefix

    def size(self, storage: Storage) -> int:
        try:
            return self.archive.getinfo(f"{self.prefix}data/{storage.key}").file_size
        except KeyError:
            return 0

    def read(self, storage: Storage) -> bytes:
        return _read_entry(self.archive, f"{self.prefix}data/{storage.key}")


def _read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    # ZipFile.read unpacks all there is before it looks at the declared size.
    with archive.open(name) as entry:
        return entry.read(archive.getinfo(name).file_size)


def _read_zip(file: BinaryIO, path: Path, make: _TensorMaker) -> Any:
    with zipfile.ZipFile(file) as archive:
        size = path.stat().st_size
        declared = sum(info.file_size for info in archive.infolist())
        if declared > 4 * size + _SLACK:
            raise CheckpointError(
                f"{path}: the archive unpacks to {declared:,} bytes from {size:,}; PyTorch writes no such files; "
                "it was refused unread (a zip bomb)."
            )
        names = archive.namelist()
        pickles = sorted((name for name in names if name.split("/")[-1] == "data.pkl"), key=len)
        if not pickles:
            raise CheckpointError(f"{path}: a zip file without data.pkl. Expected a .pth or .pt file of PyTorch.")
        prefix = pickles[0][: -len("data.pkl")]
        if len(set(names)) < len(names) or any(not name.startswith(prefix) for name in names):
            raise CheckpointError(f"{path}: the archive has two entries of one name, or entries outside of {prefix!r}; "
                                  "PyTorch writes no such files.")
        if f"{prefix}byteorder" in names and _read_entry(archive, f"{prefix}byteorder") != b"little":
            raise CheckpointError(f"{path}: written on a big-endian machine, which is not read. Save it on another.")
        value = _resolve(unpickle_bytes(_read_entry(archive, pickles[0]), _ZipStorages(archive, prefix)), path, make)
        damaged = archive.testzip() if make is not TensorRef.array else None  # reading checks what it reads
        if damaged is not None:
            raise CheckpointError(f"{path}: {damaged} has another checksum (CRC-32) than it was written with. The file "
                                  "is damaged: copy it again.")
        return value


# -- one stream: torch.save before 1.6, paddle.save ------------------------------------------------------------------


class _StreamStorages:
    """Storages lie behind the pickles that name them: where each begins is known once all are read."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.places: dict[str, tuple[int, int]] = {}

    def size(self, storage: Storage) -> int:
        return self.places.get(storage.key, (0, 0))[1]

    def read(self, storage: Storage) -> bytes:
        start, length = self.places[storage.key]
        self.file.seek(start)
        return self.file.read(length)


def _read_stream(file: BinaryIO, path: Path, make: _TensorMaker) -> Any:
    size = path.stat().st_size
    stored = _StreamStorages(file)

    def unpickle() -> tuple[Any, dict[str, Storage]]:
        unpickler = RestrictedUnpickler(file, size, stored)
        return unpickler.load(), unpickler.storages

    value, _ = unpickle()
    if value != LEGACY_MAGIC:
        if isinstance(value, dict):  # Paddle; tensors of the dynamic graph are pairs (name, array)
            value.pop("StructuredToParameterName@@", None)
        return _resolve(value, path, make)
    version, _ = unpickle()
    if version != _PROTOCOL:
        raise CheckpointError(f"{path}: PyTorch protocol {reprlib.repr(version)}, only {_PROTOCOL} is read. "
                              "Save it again with torch >= 1.6.")
    if unpickle()[0].get("little_endian") is not True:
        raise CheckpointError(f"{path}: written on a big-endian machine, which is not read. Save it on another.")
    value, storages = unpickle()
    for key in unpickle()[0]:
        count = file.read(8)
        if type(key) is not str or key not in storages or len(count) < 8:
            raise CheckpointError(f"{path}: the list of storages behind the tensors is truncated or damaged.")
        storage, numel = storages[key], struct.unpack("<q", count)[0]
        if numel != storage.numel:
            raise CheckpointError(f"{path}: storage {key!r} has {numel} elements, {storage.numel} were declared.")
        start = file.tell()
        stored.places[key] = (start, min(storage.nbytes, max(0, size - start)))
        file.seek(start + storage.nbytes)
    return _resolve(value, path, make)


# -- plain data ------------------------------------------------------------------------------------------------------

_Trail = tuple[Any, ...]  # (trail of the container, key or index) or ()


def _resolve(root: Any, path: Path, make: _TensorMaker) -> Any:
    """Plain dictionaries, lists and arrays for the stand-ins; every object once, however often it is referred to."""
    done: dict[int, Any] = {}
    open_now: set[int] = set()

    def walk(value: Any, trail: _Trail) -> Any:
        if id(value) in done:
            return done[id(value)]
        if id(value) in open_now:
            name = _dotted(trail) or "the top level"
            raise CheckpointError(f"{path}: {name} contains itself. The file is damaged or unsafe.")
        open_now.add(id(value))
        result = convert(value, trail)
        open_now.discard(id(value))
        done[id(value)] = result
        return result

    def convert(value: Any, trail: _Trail) -> Any:
        if isinstance(value, TensorRef):
            return make(value, f"{path}: {_dotted(trail) or 'tensor'}")
        if isinstance(value, PickledArray):
            return value.array(f"{path}: {_dotted(trail) or 'array'}")
        if isinstance(value, Record):
            value = value.state if isinstance(value.state, dict) else {}
        if isinstance(value, dict):
            return {key: walk(item, (trail, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [walk(item, (trail, i)) for i, item in enumerate(value)]
        if isinstance(value, tuple):
            if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], PickledArray):  # Paddle's tensors
                return walk(value[1], trail)
            return tuple(walk(item, (trail, i)) for i, item in enumerate(value))
        return value.value if isinstance(value, Global) else value

    result = walk(root, ())
    return _flatten(result, path) if isinstance(root, Module) else result


def _dotted(trail: _Trail) -> str:
    """Where a value lies: "model.blocks.0.weight", or "list[2]" inside lists."""
    parts: list[str] = []
    while trail:
        trail, key = trail
        parts.append(f"[{key}]" if type(key) is int else f".{str(key)[:200]}")
    return "".join(reversed(parts)).lstrip(".")


def _flatten(module: dict[Any, Any], path: Path) -> dict[str, Any]:
    """The state dict of nested modules: every tensor under its dotted name."""
    flat: dict[str, Any] = {}
    waiting, seen = [("", module)], 0
    while waiting:
        prefix, module = waiting.pop()
        seen += 1
        if seen > _MOST_MODULES:  # modules that hold one another can stand for any number
            raise CheckpointError(f"{path}: more than {_MOST_MODULES:,} modules. The file is damaged or unsafe.")
        for name, value in module.items():
            if isinstance(value, (np.ndarray, TensorRef)):
                flat[f"{prefix}{name}"] = value
            elif isinstance(value, dict):
                waiting.append((f"{prefix}{name}.", value))
    return flat
