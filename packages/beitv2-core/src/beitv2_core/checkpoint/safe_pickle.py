"""Weights files made with pickle, read without executing anything in them.

PyTorch zip (.pth, .pt), PyTorch before 1.6, TorchScript archives (OpenAI's CLIP) and Paddle (.pdparams) become plain
dictionaries of read-only numpy arrays; `restricted_pickle` says what a file may hold.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from beitv2_core.checkpoint.restricted_pickle import (
    Global,
    Module,
    PickledArray,
    Record,
    RestrictedUnpickler,
    Storage,
    TensorRef,
)
from beitv2_core.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_SLACK = 64 * 2**20  # what a small archive may unpack to beyond four times its size

_Unpickled = tuple[Any, dict[str, Storage]]


def load_torch_file(path: str | Path) -> dict[str, Any]:
    """The dictionary in a PyTorch or Paddle weights file, tensors as read-only numpy arrays; executes nothing.

    Nesting stays (`{"model": {...}}`); a TorchScript archive gives its flat state dict; `argparse.Namespace` becomes a
    dict; float16 stays float16, bfloat16 becomes float32 (numpy has no such type).
    Raises CheckpointError naming the path and what is wrong: no such file, truncated, a global outside the allow-list,
    a tensor larger than its storage, an archive that unpacks to far more than its size, another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give the path of a .pth, .pt or .pdparams file.")
    try:
        with path.open("rb") as file:
            head = file.read(2)
            file.seek(0)
            value = _read_zip(file, path) if head == b"PK" else _read_stream(file, path)
    except CheckpointError:
        raise
    except (Exception, RecursionError) as error:  # a damaged pickle can fail in any way
        raise CheckpointError(
            f"{path}: truncated, damaged or no weights file ({type(error).__name__}: {error}). Copy it again; "
            "expected a PyTorch (.pth, .pt) or Paddle (.pdparams) file."
        ) from error
    if isinstance(value, dict):
        return value
    raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected a dictionary of tensors (a state dict).")


def _unpickle(file: BinaryIO, size: int, read_storage: Callable[[Storage], bytes]) -> _Unpickled:
    """One pickle from the file's position; the position ends behind it."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if "PUT" in opcode.name and int(argument or 0) > size:  # the memo would be allocated up to that index
            raise CheckpointError(f"instruction {opcode.name} {argument} in a file of {size} bytes; it was refused.")
    end = file.tell()
    file.seek(start)
    unpickler = RestrictedUnpickler(file, read_storage)
    value = unpickler.load()
    file.seek(end)
    return value, unpickler.storages


def _read_zip(file: BinaryIO, path: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        size = path.stat().st_size
        declared = sum(info.file_size for info in archive.infolist())
        if declared > 4 * size + _SLACK:
            raise CheckpointError(
                f"{path}: the archive unpacks to {declared:,} bytes from {size:,}; PyTorch writes no such files; "
                "it was refused unread (a zip bomb)."
            )
        names = sorted((name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"), key=len)
        if not names:
            raise CheckpointError(f"{path}: a zip file without data.pkl. Expected a .pth or .pt file of PyTorch.")
        prefix = names[0][: -len("data.pkl")]
        if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
            raise CheckpointError(f"{path}: written on a big-endian machine, which is not read. Save it on another.")

        def read_storage(storage: Storage) -> bytes:
            try:
                return archive.read(f"{prefix}data/{storage.key}")
            except KeyError:
                return b""

        data = archive.read(names[0])
        value, _ = _named(path, _unpickle, io.BytesIO(data), len(data), read_storage)
        return _resolve(value, path)


def _read_stream(file: BinaryIO, path: Path) -> Any:
    size = path.stat().st_size
    stored: dict[str, bytes] = {}

    def load() -> _Unpickled:
        return _named(path, _unpickle, file, size, lambda storage: stored.get(storage.key, b""))

    value, storages = load()
    if value != _LEGACY_MAGIC:
        if isinstance(value, dict):  # Paddle; tensors of the dynamic graph are pairs (name, array)
            value.pop("StructuredToParameterName@@", None)
        return _resolve(value, path)
    version, _ = load()
    if version != _PROTOCOL:
        raise CheckpointError(
            f"{path}: PyTorch protocol {version!r}, only {_PROTOCOL} is read. Save it again with torch >= 1.6."
        )
    if load()[0].get("little_endian") is not True:
        raise CheckpointError(f"{path}: written on a big-endian machine, which is not read. Save it on another.")
    value, storages = load()
    for key in load()[0]:
        count = file.read(8)
        if key not in storages or len(count) < 8:
            continue  # the tensor that needs it is named below
        numel = struct.unpack("<q", count)[0]
        if numel != storages[key].numel:
            raise CheckpointError(f"{path}: storage {key!r} has {numel} elements, {storages[key].numel} were declared.")
        stored[key] = file.read(min(storages[key].nbytes, size))
    return _resolve(value, path)


def _named(path: Path, function: Callable[..., _Unpickled], *args: Any) -> _Unpickled:
    try:
        return function(*args)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _resolve(root: Any, path: Path) -> Any:
    """Plain dictionaries, lists and arrays for the stand-ins; every object once, however often it is referred to."""
    done: dict[int, Any] = {}
    open_now: set[int] = set()

    def walk(value: Any, name: str) -> Any:
        if id(value) in done:
            return done[id(value)]
        if id(value) in open_now:
            raise CheckpointError(f"{path}: {name or 'the top level'} contains itself. The file is damaged or unsafe.")
        open_now.add(id(value))
        result = convert(value, name)
        open_now.discard(id(value))
        done[id(value)] = result
        return result

    def convert(value: Any, name: str) -> Any:
        if isinstance(value, (TensorRef, PickledArray)):
            return value.array(f"{path}: {name or 'tensor'}")
        if isinstance(value, Record):
            state = getattr(value, "state", None)
            value = state if isinstance(state, dict) else {}
        if isinstance(value, dict):
            return {key: walk(item, f"{name}.{key}" if name else str(key)) for key, item in dict.items(value)}
        if isinstance(value, (list, tuple)):
            items = [walk(item, f"{name}[{i}]") for i, item in enumerate(value)]
            if isinstance(value, tuple):
                named = len(items) == 2 and isinstance(items[0], str) and isinstance(items[1], np.ndarray)
                return items[1] if named else tuple(items)
            return items
        return value.value if isinstance(value, Global) else value

    result = walk(root, "")
    return _flatten(result) if isinstance(root, Module) else result


def _flatten(module: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """The state dict of nested modules: every array under its dotted name."""
    flat: dict[str, np.ndarray] = {}
    for name, value in module.items():
        if isinstance(value, np.ndarray):
            flat[prefix + name] = value
        elif isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
    return flat
