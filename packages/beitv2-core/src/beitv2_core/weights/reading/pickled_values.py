# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for the objects of a pickled weights file: they hold sizes and bytes and execute nothing.

Storages are read when a tensor needs them, and checked against their bounds before that.
"""

from __future__ import annotations

import math
import pickle
import re
import reprlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError

_MOST_AXES, _MOST_NUMBERS = 32, 2**58  # what numpy's arrays can have, empty ones too


class StorageSource(Protocol):
    """Where the bytes of storages lie: how many there are of one, and the bytes themselves."""

    def size(self, storage: Storage) -> int: ...

    def read(self, storage: Storage) -> bytes: ...


class Frozen:
    """Base of the stand-ins: a file cannot change their attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{type(self).__name__} takes no state")


class Global(Frozen):
    """The replacement of one global of the file: a value, or a function of ours that it may call."""

    __slots__ = ("call", "value")

    def __init__(self, value: Any = None, call: Callable[..., Any] | None = None):
        self.value, self.call = value, call

    def __call__(self, *args: Any) -> Any:
        if self.call is None:
            raise pickle.UnpicklingError(f"{self.value} cannot be called")
        return self.call(*args)


class Storage(Frozen):
    """Numbers of one type somewhere in the file, shared by any number of tensors."""

    __slots__ = ("dtype", "numel", "key", "source", "cached")

    def __init__(self, dtype: str, numel: int, key: str, source: StorageSource):
        self.dtype, self.numel, self.key, self.source = dtype, numel, key, source
        self.cached: dict[str, NDArray[Any]] = {}

    @property
    def nbytes(self) -> int:
        return self.numel * item_size(self.dtype)

    def check(self, where: str) -> None:
        """Raise CheckpointError unless the file has as many bytes of it as it declares."""
        found = self.source.size(self)
        if found != self.nbytes:  # what is too long would be unpacked for nothing
            raise CheckpointError(
                f"{where}: its storage {self.key!r} has {found} bytes, {self.nbytes} were declared. "
                "The file is truncated or damaged."
            )

    def values(self, dtype: str) -> NDArray[Any]:
        """All numbers of the storage, read-only, after `check`."""
        if dtype not in self.cached:
            self.cached[dtype] = _decode(memoryview(self.source.read(self))[: self.nbytes], dtype)
        return self.cached[dtype]


class TensorRef(Frozen):
    """A tensor whose numbers were not read yet."""

    __slots__ = ("storage", "offset", "size", "stride", "dtype")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None = None):
        if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise pickle.UnpicklingError("a tensor without storage, size or stride")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        self.dtype = dtype or storage.dtype

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The type its array has; bfloat16 is read as float32."""
        return np.dtype("f4" if self.dtype == "bfloat16" else self.dtype)

    def check(self, where: str) -> None:
        """Raise CheckpointError unless size and stride are sound and lie inside the storage, and that in the file."""
        numbers = (self.offset, *self.size, *self.stride)
        sound = len(self.size) == len(self.stride) <= _MOST_AXES and all(type(n) is int and n >= 0 for n in numbers)
        if not sound or math.prod(n or 1 for n in self.size) > _MOST_NUMBERS:
            raise CheckpointError(
                f"{where}: size {reprlib.repr(self.size)} with stride {reprlib.repr(self.stride)} is no tensor. "
                "The file is damaged."
            )
        self.storage.check(where)
        count = math.prod(self.size)
        if not count:
            return
        held = self.storage.nbytes // item_size(self.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride))
        if last >= held or count > held:
            raise CheckpointError(
                f"{where}: a tensor of size {self.size} is larger than its storage {self.storage.key!r} of {held} "
                "elements. The file is damaged, or an expanded tensor was saved."
            )

    def array(self, where: str) -> NDArray[Any]:
        """The tensor, read-only, after `check`."""
        self.check(where)
        if not math.prod(self.size):
            return np.broadcast_to(np.zeros((), self.numpy_dtype), self.size)
        flat = self.storage.values(self.dtype)
        steps = tuple(step * flat.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(flat[self.offset:], self.size, steps, writeable=False)


class PickledDtype(Frozen):
    """A numpy dtype: numbers and booleans only."""

    __slots__ = ("spec", "order")

    def __init__(self, spec: Any, *_: Any):
        if not isinstance(spec, str) or not re.fullmatch(r"[<>|=]?[biufc]\d{1,2}", spec):
            raise pickle.UnpicklingError(f"numpy dtype {reprlib.repr(spec)}: only numbers and booleans are read")
        self.spec, self.order = spec.lstrip("<>|="), spec[0] if spec[0] in "<>" else "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.spec)


class PickledArray(Frozen):
    """A pickled numpy array; its state arrives after it was made."""

    __slots__ = ("state",)

    def __init__(self, *state: Any):
        self.state: tuple[Any, ...] = state  # version, shape, dtype, Fortran order, bytes

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self, where: str) -> NDArray[Any]:
        if type(self.state) is not tuple or len(self.state) != 5 or not isinstance(self.state[2], PickledDtype):
            raise CheckpointError(f"{where}: a numpy array without shape, type or numbers. The file is damaged.")
        _, shape, dtype, fortran, data = self.state
        values = np.frombuffer(data, dtype.numpy())
        if type(shape) is not tuple or values.size != math.prod(shape):
            raise CheckpointError(
                f"{where}: {values.size} elements for an array of shape {reprlib.repr(shape)}. The file is damaged."
            )
        return values.reshape(shape, order="F" if fortran else "C")


class Record:
    """An object of a class of the file, reduced to its attributes; its own class is never looked up."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Module(Record):
    """A module of a TorchScript archive."""

    __slots__ = ()


def item_size(dtype: str) -> int:
    """Bytes of one number of a numpy type, or of bfloat16."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _decode(data: memoryview, dtype: str) -> NDArray[Any]:
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
