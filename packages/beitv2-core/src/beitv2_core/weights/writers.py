# SPDX-License-Identifier: Apache-2.0
"""Files of weights for others and for us, written one tensor at a time and either whole or not at all.

The libraries' own writers hold every tensor once more (safetensors), or are Torch itself; a tensor turned from
(out, in) to (in, out) is a view until its turn comes here.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError
from beitv2_core.files.atomic import write_atomically
from beitv2_core.files.large import LargeFile

_SAFETENSORS = {"u8": "U64", "i8": "I64", "f8": "F64", "f4": "F32", "u4": "U32", "i4": "I32", "f2": "F16", "u2": "U16",
                "i2": "I16", "i1": "I8", "u1": "U8", "b1": "BOOL"}
_SAFETENSORS_ORDER = list(_SAFETENSORS.values())  # of a file's tensors, then by name, as the library has it
_TORCH = {"f8": "DoubleStorage", "f4": "FloatStorage", "f2": "HalfStorage", "i8": "LongStorage", "i4": "IntStorage",
          "i2": "ShortStorage", "i1": "CharStorage", "u1": "ByteStorage", "b1": "BoolStorage"}
_ALIGNMENT = 64  # of a storage inside a .pth file, as Torch writes it
_ROOT = "archive"


def write_safetensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write tensors and text in the safetensors format, the bytes that its library writes.

    Raises CheckpointError naming the path where a type has no such format or the disk refuses.
    """
    with whole_or_absent(path) as file:
        for piece in _safetensors(path, tensors, metadata):
            file.write(piece)


def save_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> str:
    """Write tensors as `write_safetensors` does, to a temporary `path` of a block of `files.atomic` and beside a
    training: past the system's memory.  Returns the file's SHA-256.

    Raises CheckpointError naming the path where a type has no such format, OSError where the disk refuses.
    """
    with LargeFile(path) as file:
        for piece in _safetensors(path, tensors, {}):
            file.write(piece)
    return file.sha256()


def _safetensors(path: Path, tensors: Mapping[str, NDArray[Any]],
                 metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The file's bytes in pieces: the length of its header, the header, and each tensor."""
    kinds = {name: _type(_SAFETENSORS, path, name, array) for name, array in tensors.items()}
    # Wide numbers first, so that each lies at a multiple of its size.
    order = sorted(tensors, key=lambda name: (_SAFETENSORS_ORDER.index(kinds[name]), name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for name in order:
        array = tensors[name]
        header[name] = {"dtype": kinds[name], "shape": list(array.shape), "data_offsets": [place, place + array.nbytes]}
        place += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in order:
        yield _plain(tensors[name])


def write_torch(path: Path, tensors: Mapping[str, NDArray[Any]], nest: str | None = None) -> None:
    """Write tensors as Torch's `.pth` (zip), an ordered dictionary alone or under the key `nest`; needs no Torch.

    `torch.load(weights_only=True)` reads it.  Raises CheckpointError naming the path where a type has no storage class
    in Torch or the disk refuses.  Source of the format: torch/serialization.py, _save.
    """
    program = _pickle_program(path, tensors, nest)
    with whole_or_absent(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        _entry(archive, file, f"{_ROOT}/data.pkl", program)
        _entry(archive, file, f"{_ROOT}/byteorder", b"little")
        for i, name in enumerate(tensors):
            _entry(archive, file, f"{_ROOT}/data/{i}", _plain(tensors[name]))
        _entry(archive, file, f"{_ROOT}/version", b"3\n")


def write_paddle(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write tensors as a `.pdparams` that `paddle.load` reads: a pickled dictionary of arrays.

    Raises CheckpointError naming the path where the disk refuses.  `paddle.save` writes the same from four copies.
    """
    with whole_or_absent(path) as file:
        pickler = pickle.Pickler(file, protocol=4)
        pickler.fast = True  # remembers nothing, so that every array is let go once written
        pickler.dump(dict(tensors))


@contextmanager
def whole_or_absent(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when all went well; CheckpointError names the path where it did not."""
    try:
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            yield file
    except OSError as error:
        raise CheckpointError(f"{path}: could not be written: {error}. Free some space, or choose another "
                              "place.") from None


def _plain(array: NDArray[Any]) -> memoryview:
    """The bytes of an array in row-major, little-endian order."""
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return array.reshape(-1).view(np.uint8).data


def _type(table: Mapping[str, str], path: Path, name: str, array: NDArray[Any]) -> str:
    kind = array.dtype.str[1:]
    if kind not in table:
        raise CheckpointError(f"{path}: {name} holds {array.dtype}, which this format has not. Known: "
                              f"{', '.join(str(np.dtype(known)) for known in table)}.")
    return table[kind]


def _entry(archive: zipfile.ZipFile, file: BinaryIO, name: str, data: bytes | memoryview) -> None:
    info = zipfile.ZipInfo(name)  # a fixed date: the same tensors give the same file
    header = file.tell() + 30 + len(name.encode()) + 4
    padding = -header % _ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, data)


def _pickle_program(path: Path, tensors: Mapping[str, NDArray[Any]], nest: str | None) -> bytes:
    """The pickle of the dictionary: every tensor as `_rebuild_tensor_v2` of a storage that lies in the archive."""
    out = bytearray(b"\x80\x02")  # protocol 2
    if nest is not None:
        out += b"}" + _value(nest)  # {nest: ...
    out += _global("collections", "OrderedDict") + b")R("  # OrderedDict(), then the mark of its items
    for i, (name, array) in enumerate(tensors.items()):
        storage = _type(_TORCH, path, name, array)
        steps = np.cumprod([1, *array.shape[:0:-1]])[::-1] if array.ndim else ()
        out += _value(name) + _global("torch._utils", "_rebuild_tensor_v2") + b"(("
        out += _value("storage") + _global("torch", storage) + _value(str(i)) + _value("cpu") + _value(array.size)
        out += b"tQ"  # the storage by its persistent name
        # offset, size, steps, and that there is no gradient
        out += _value(0) + _value(tuple(array.shape)) + _value(tuple(map(int, steps))) + b"\x89"
        out += _global("collections", "OrderedDict") + b")RtR"
    out += b"u"
    return bytes(out + (b"s." if nest is not None else b"."))


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _value(value: Any) -> bytes:
    """The instructions that make a number, a text or a tuple of numbers; they name no place in the memo."""
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_value, value)) + b"t"
    if isinstance(value, str):
        text = value.encode()
        return b"X" + struct.pack("<I", len(text)) + text
    return pickle.dumps(value, protocol=2)[2:-1]
