"""What a pickled weights file may hold, and the unpickler that knows nothing else.

A file can only name what stands in `known_globals`; each entry is a stand-in of ours that the file cannot change, or
one of Python's plain containers.  Storages are read when a tensor needs them and checked against their bounds then.
"""

from __future__ import annotations

import math
import pickle
import re
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from beitv2_core.errors import CheckpointError

_STORAGES = {
    "DoubleStorage": "f8", "FloatStorage": "f4", "HalfStorage": "f2", "BFloat16Storage": "bfloat16",
    "LongStorage": "i8", "IntStorage": "i4", "ShortStorage": "i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "b1", "ComplexFloatStorage": "c8", "ComplexDoubleStorage": "c16", "UntypedStorage": "u1",
}
_DTYPES = {
    "float64": "f8", "float32": "f4", "float16": "f2", "bfloat16": "bfloat16", "int64": "i8", "int32": "i4",
    "int16": "i2", "int8": "i1", "uint8": "u1", "bool": "b1", "complex64": "c8", "complex128": "c16",
    "uint16": "u2", "uint32": "u4", "uint64": "u8",
}


class Frozen:
    """Base of the stand-ins: a file cannot change their attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{type(self).__name__} takes no state")


class Global(Frozen):
    """What one global of the file stands for: a value, or a function of ours it may call."""

    __slots__ = ("call", "value")

    def __init__(self, value: Any = None, call: Callable[..., Any] | None = None):
        self.value, self.call = value, call

    def __call__(self, *args: Any) -> Any:
        if self.call is None:
            raise pickle.UnpicklingError(f"{self.value} cannot be called")
        return self.call(*args)


class Storage(Frozen):
    __slots__ = ("dtype", "numel", "key", "read", "cached")

    def __init__(self, dtype: str, numel: int, key: str, read: Callable[[Storage], bytes]):
        self.dtype, self.numel, self.key, self.read = dtype, numel, key, read
        self.cached: dict[str, np.ndarray] = {}

    @property
    def nbytes(self) -> int:
        return self.numel * _item_size(self.dtype)

    def values(self, dtype: str, where: str) -> np.ndarray:
        if dtype not in self.cached:
            data = self.read(self)
            if len(data) < self.nbytes:
                raise CheckpointError(
                    f"{where}: its storage {self.key!r} has {len(data)} bytes, {self.nbytes} were declared. "
                    "The file is truncated or damaged."
                )
            self.cached[dtype] = _decode(memoryview(data)[: self.nbytes], dtype)
        return self.cached[dtype]


class TensorRef(Frozen):
    __slots__ = ("storage", "offset", "size", "stride", "dtype")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None = None):
        if not isinstance(storage, Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise pickle.UnpicklingError("a tensor without storage, size or stride")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        self.dtype = dtype or storage.dtype

    def array(self, where: str) -> np.ndarray:
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise CheckpointError(
                f"{where}: size {self.size} with stride {self.stride} is no tensor. The file is damaged."
            )
        count = math.prod(self.size)
        flat = self.storage.values(self.dtype, where)
        if count == 0:
            return np.zeros(self.size, flat.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride))
        if last >= len(flat) or count > len(flat):
            raise CheckpointError(
                f"{where}: a tensor of size {self.size} is larger than its storage {self.storage.key!r} of {len(flat)} "
                "elements. The file is damaged, or an expanded tensor was saved."
            )
        steps = tuple(step * flat.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(flat[self.offset:], self.size, steps, writeable=False)


class PickledDtype(Frozen):
    """A numpy dtype: numbers and booleans only."""

    __slots__ = ("spec", "order")

    def __init__(self, spec: Any, *_: Any):
        if not isinstance(spec, str) or not re.fullmatch(r"[<>|=]?[biufc]\d{1,2}", spec):
            raise pickle.UnpicklingError(f"numpy dtype {spec!r}: only numbers and booleans are read")
        self.spec, self.order = spec.lstrip("<>|="), spec[0] if spec[0] in "<>" else "<"

    def __setstate__(self, state: Any) -> None:
        self.order = ">" if state[1] == ">" else "<"

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.spec)


class PickledArray(Frozen):
    """A pickled numpy array; its state arrives after it was made."""

    __slots__ = ("state",)

    def __init__(self, *state: Any):
        self.state: tuple[Any, ...] = state

    def __setstate__(self, state: Any) -> None:
        self.state = tuple(state)[1:]

    def array(self, where: str) -> np.ndarray:
        shape, dtype, fortran, data = self.state
        values = np.frombuffer(data, dtype.numpy())
        if values.size != math.prod(shape):
            raise CheckpointError(
                f"{where}: {values.size} elements for an array of shape {shape}. The file is damaged."
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
    __slots__ = ()


def _scalar(dtype: PickledDtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.numpy())[0]


def _encode(text: str, coding: str) -> bytes:
    if coding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode with {coding!r}")
    return text.encode("latin1")


def _paddle_eval(text: str, names: dict) -> Any:
    # Paddle's static-graph files wrap every array in eval("data", {"data": array}); only that one form is understood.
    if text != "data" or not isinstance(names, dict) or set(names) != {"data"}:
        raise CheckpointError(f"the file asks for eval({text!r}); that is unsafe and was refused.")
    return names["data"]


def _defaultdict(*args: Any) -> dict:
    return defaultdict(None, *args[1:])


def known_globals() -> dict[str, Any]:
    table: dict[str, Any] = {
        "collections.OrderedDict": OrderedDict,
        "collections.defaultdict": Global(call=_defaultdict),
        "builtins.tuple": tuple, "builtins.set": set, "builtins.dict": dict, "builtins.list": list,
        "builtins.eval": Global(call=_paddle_eval),
        "_codecs.encode": Global(call=_encode),
        "torch._utils._rebuild_tensor": Global(call=lambda *a: TensorRef(*a[:4])),
        "torch._utils._rebuild_tensor_v2": Global(call=lambda *a: TensorRef(*a[:4])),
        "torch._utils._rebuild_tensor_v3": Global(call=lambda *a: TensorRef(a[0], a[1], a[2], a[3], a[6].value)),
        "torch._utils._rebuild_parameter": Global(call=lambda data, *_: data),
        "torch._utils._rebuild_parameter_with_state": Global(call=lambda data, *_: data),
        "torch.Size": Global(call=tuple),
        "torch.device": Global(call=lambda *a: ":".join(map(str, a))),
        "torch.storage.UntypedStorage": Global("u1"),
        "numpy.ndarray": Global(),
        "numpy.dtype": Global(call=PickledDtype),
    }
    for name, dtype in _STORAGES.items():
        table[f"torch.{name}"] = Global(dtype)
    for name, dtype in _DTYPES.items():
        table[f"torch.{name}"] = Global(dtype)
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = Global(call=lambda *_: PickledArray())
        table[f"{core}.multiarray.scalar"] = Global(call=_scalar)
        table[f"{core}.numeric._frombuffer"] = Global(
            call=lambda data, dtype, shape, order="C": PickledArray(shape, dtype, order == "F", data))
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"):
        table[f"torch.jit._pickle.{name}"] = Global(call=lambda data, *_: data)
    return table


class RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: Any, read_storage: Callable[[Storage], bytes]):
        super().__init__(file, encoding="utf-8")
        self.read_storage = read_storage
        self.storages: dict[str, Storage] = {}
        self.known = known_globals()  # fresh for every file, so that none can leave anything behind

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if full not in self.known and (module.split(".")[0] == "__torch__" or full == "argparse.Namespace"):
            base = Record if full == "argparse.Namespace" else Module
            self.known[full] = type(name, (base,), {"__slots__": ()})
        if full not in self.known:
            raise CheckpointError(
                f"the file asks for {full}, which no weights file needs; it was refused unread. "
                "If you trust its source, save a plain dictionary of tensors from it."
            )
        return self.known[full]

    def persistent_load(self, pid: Any) -> Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Global)
                and isinstance(pid[1].value, str) and isinstance(pid[4], int) and pid[4] >= 0):
            raise CheckpointError("the file refers to something that is no tensor's storage: it is damaged or unsafe.")
        if len(pid) > 5 and pid[5] is not None:
            raise CheckpointError("the file holds views of storages (PyTorch before 0.4). Save it again with a newer.")
        key = str(pid[2])
        if key not in self.storages:
            self.storages[key] = Storage(pid[1].value, pid[4], key, self.read_storage)
        storage = self.storages[key]
        if storage.dtype != pid[1].value or storage.numel != pid[4]:
            raise CheckpointError(f"storage {key!r} is described in two ways. The file is damaged.")
        return storage


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _decode(data: memoryview, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
