# SPDX-License-Identifier: Apache-2.0
"""Tensors of a weights file in any known format, under the names and in the layout of the file.

All weights of other programs are read here: nothing in a file is executed, and every fault of a file is a
CheckpointError that names the path.  The keymaps translate the names.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.reading.safe_pickle import LEGACY_START, is_torchscript, load_torch_file
from beitv2_core.weights.reading.torch_reader import load_with_torch, usable_torch

#: keys under which training scripts put the weights beside optimizer, epoch and arguments, the first found is opened
NESTS = ("model", "module", "state_dict", "teacher")
_NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
                "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}
_SPLIT_BY_PADDLE = "UnpackBigParamInfor@@"


def read_tensors(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The tensors of a weights file by the file's own names, and its other content (epoch, args, metadata).

    Formats, told apart by content: safetensors, PyTorch (zip, and before 1.6), TorchScript archives, Paddle
    `.pdparams`.  Tensors lie flat: where they are under `model`, `module`, `state_dict` or `teacher`, that is opened,
    and its neighbours go to the second value as they are.  Types and layouts stay, but bfloat16 becomes float32.
    The arrays may be read-only.
    Raises CheckpointError naming the path: missing, damaged, unsafe, of another format, or without any tensor.
    """
    path = Path(path)
    state, rest = read_state(path)
    while (nest := next((key for key in NESTS if isinstance(state.get(key), Mapping)), None)) is not None:
        rest.update({str(key): value for key, value in state.items() if key != nest})
        state = state[nest]
    if not any(isinstance(value, np.ndarray) for value in state.values()):
        raise CheckpointError(
            f"{path}: no tensors at its top level or under {', '.join(NESTS)}; it holds "
            f"{', '.join(sorted(map(str, state))[:8]) or 'nothing'}. Expected a state dict."
        )
    if _SPLIT_BY_PADDLE in state:
        raise CheckpointError(f"{path}: Paddle split its large tensors (protocol 2 or 3). Save it again with "
                              "paddle.save(..., protocol=4).")
    tensors = {str(key): value for key, value in state.items() if isinstance(value, np.ndarray)}
    rest.update({str(key): value for key, value in state.items() if not isinstance(value, np.ndarray)})
    return tensors, rest


def read_state(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """As `read_tensors`, with the nesting of the file left closed, and the metadata of safetensors as second value.

    Files of torch.save go through torch.load(weights_only=True) where torch is installed, 2.6 or newer (unless
    BEITV2_TORCH=0); what it refuses is refused.  All others, and those too without torch, through our own reader.
    """
    path = Path(path)
    if _is_safetensors(path):
        return read_safetensors(path)
    torch = usable_torch() if _is_of_torch_save(path) else None
    return (load_torch_file(path) if torch is None else load_with_torch(path, torch)), {}


def _is_of_torch_save(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(len(LEGACY_START))
    except OSError:
        return False  # the reader names the cause
    return head == LEGACY_START or head[:2] == b"PK" and not is_torchscript(path)


def _is_safetensors(path: Path) -> bool:
    """A header length of eight bytes, then JSON; a damaged file counts as one if its name ends so."""
    if path.suffix == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError:
        return False  # the reader names the cause


def read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors of a safetensors file, bfloat16 as float32, and its metadata; CheckpointError as `read_tensors`."""
    from safetensors import safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give the path of a .safetensors file.")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
            types = {name: file.get_slice(name).get_dtype() for name in file.keys()}
            wide = [name for name, kind in types.items() if kind == "BF16"]
        tensors = _mapped(path, [name for name in types if name not in wide])
        if wide:  # numpy has no such type, so that safetensors.numpy cannot give it
            tensors.update(_read_bfloat16(path, wide))
        return {name: tensors[name] for name in types}, metadata
    except Exception as error:  # the Rust reader raises its own types
        raise CheckpointError(
            f"{path}: truncated, damaged or no safetensors file ({type(error).__name__}: {error}). Copy it again."
        ) from None


def _mapped(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """Tensors of a safetensors file that its library found sound, as read-only views: nothing is in memory twice."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    data = np.asarray(np.memmap(path, np.uint8, mode="r"))[8 + length:]
    found = {}
    for name in names:
        begin, end = header[name]["data_offsets"]
        kind = header[name]["dtype"]
        if kind not in _NUMPY_TYPES:
            raise CheckpointError(f"{name} holds {kind}, which numpy does not have; {', '.join(_NUMPY_TYPES)} are read")
        found[name] = data[begin:end].view(_NUMPY_TYPES[kind]).reshape(header[name]["shape"])
    return found


def _read_bfloat16(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    import safetensors

    found = {}
    read: Any = safetensors.deserialize  # it declares no types
    for name, view in read(path.read_bytes()):
        if name in names:
            upper = np.frombuffer(view["data"], "<u2")
            if upper.size != math.prod(view["shape"]):
                raise CheckpointError(f"{path}: {name} has {upper.size} numbers for the shape {view['shape']}.")
            found[name] = (upper.astype("<u4") << 16).view("<f4").reshape(view["shape"])
    return found
