"""Weights files made with pickle, read without executing anything in them.

PyTorch zip (.pth, .pt), PyTorch before 1.6, TorchScript archives (OpenAI's CLIP) and Paddle (.pdparams) become plain
dictionaries of numpy arrays.  A file can only name what stands in `_globals`; each entry is a frozen stand-in of ours, never
the object the file asks for.  Arrays are read-only views on the file's storages, checked against their bounds.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from beitv2_core.errors import CheckpointError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_SLACK = 64 * 2**20  # what a small archive may unpack to beyond four times its size
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


def load_torch_file(path: str | Path) -> dict[str, Any]:
    """The dictionary in a PyTorch or Paddle weights file, tensors as read-only numpy arrays; executes nothing.

    Nesting stays (`{"model": {...}}`); a TorchScript archive gives its flat state dict; `argparse.Namespace` becomes a
    dict; float16 stays float16, bfloat16 becomes float32 (numpy has no such type).
    Raises CheckpointError naming the path and what is wrong: no such file, truncated, a global outside the allow-list, a
    tensor larger than its storage, an archive that unpacks to far more than its size, another format.
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
            f"{path}: truncated, damaged or no weights file ({type(error).__name__}: {error}). Download or copy it again; "
            "expected a PyTorch (.pth, .pt) or Paddle (.pdparams) file."
        ) from error
    if isinstance(value, dict):
        return value
    raise CheckpointError(f"{path}: holds a {type(value).__name__}, expected a dictionary of tensors (a state dict).")


class _Frozen:
    """Base of the stand-ins: a file cannot change their attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError(f"{type(self).__name__[1:]} takes no state")


class _Global(_Frozen):
    """What one global of the file stands for: a value, or a function of ours it may call."""

    __slots__ = ("call", "value")

    def __init__(self, value: Any = None, call: Callable[..., Any] | None = None):
        self.value, self.call = value, call

    def __call__(self, *args: Any) -> Any:
        if self.call is None:
            raise pickle.UnpicklingError(f"{self.value} cannot be called")
        return self.call(*args)


class _Storage(_Frozen):
    __slots__ = ("dtype", "numel", "key", "read", "cached")

    def __init__(self, dtype: str, numel: int, key: str, read: Callable[[_Storage], bytes]):
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


class _Tensor(_Frozen):
    __slots__ = ("storage", "offset", "size", "stride", "dtype")

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: str | None = None):
        if not isinstance(storage, _Storage) or not isinstance(size, tuple) or not isinstance(stride, tuple):
            raise pickle.UnpicklingError("a tensor without storage, size or stride")
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride
        self.dtype = dtype or storage.dtype

    def array(self, where: str) -> np.ndarray:
        numbers = (self.offset, *self.size, *self.stride)
        if len(self.size) != len(self.stride) or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise CheckpointError(f"{where}: size {self.size} with stride {self.stride} is no tensor. The file is damaged.")
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


class _Dtype(_Frozen):
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


class _Array(_Frozen):
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
            raise CheckpointError(f"{where}: {values.size} elements for an array of shape {shape}. The file is damaged.")
        return values.reshape(shape, order="F" if fortran else "C")


class _Record:
    """An object of a class of the file, reduced to its attributes; its own class is never looked up."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Module(_Record):
    __slots__ = ()


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.numpy())[0]


def _encode(text: str, coding: str) -> bytes:
    if coding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode with {coding!r}")
    return text.encode("latin1")


def _paddle_eval(text: str, names: dict) -> Any:
    # Paddle's static-graph files wrap every array in eval("data", {"data": array}); only that one form is understood.
    if text != "data" or not isinstance(names, dict) or set(names) != {"data"}:
        raise CheckpointError(f"the file asks for eval({text!r}); it is unsafe and was refused. Do not trust its source.")
    return names["data"]


def _defaultdict(*args: Any) -> dict:
    return defaultdict(None, *args[1:])


def _globals() -> dict[str, Any]:
    table: dict[str, Any] = {
        "collections.OrderedDict": OrderedDict,
        "collections.defaultdict": _Global(call=_defaultdict),
        "builtins.tuple": tuple, "builtins.set": set, "builtins.dict": dict, "builtins.list": list,
        "builtins.eval": _Global(call=_paddle_eval),
        "_codecs.encode": _Global(call=_encode),
        "torch._utils._rebuild_tensor": _Global(call=lambda *a: _Tensor(*a[:4])),
        "torch._utils._rebuild_tensor_v2": _Global(call=lambda *a: _Tensor(*a[:4])),
        "torch._utils._rebuild_tensor_v3": _Global(call=lambda *a: _Tensor(*a[:4], dtype=a[6].value)),
        "torch._utils._rebuild_parameter": _Global(call=lambda data, *_: data),
        "torch._utils._rebuild_parameter_with_state": _Global(call=lambda data, *_: data),
        "torch.Size": _Global(call=tuple),
        "torch.device": _Global(call=lambda *a: ":".join(map(str, a))),
        "torch.storage.UntypedStorage": _Global("u1"),
        "numpy.ndarray": _Global(),
        "numpy.dtype": _Global(call=_Dtype),
    }
    for name, dtype in _STORAGES.items():
        table[f"torch.{name}"] = _Global(dtype)
    for name, dtype in _DTYPES.items():
        table[f"torch.{name}"] = _Global(dtype)
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = _Global(call=lambda *_: _Array())
        table[f"{core}.multiarray.scalar"] = _Global(call=_scalar)
        table[f"{core}.numeric._frombuffer"] = _Global(
            call=lambda data, dtype, shape, order="C": _Array(shape, dtype, order == "F", data))
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"):
        table[f"torch.jit._pickle.{name}"] = _Global(call=lambda data, *_: data)
    return table


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: Any, read_storage: Callable[[_Storage], bytes]):
        super().__init__(file, encoding="utf-8")
        self.read_storage = read_storage
        self.storages: dict[str, _Storage] = {}
        self.known = _globals()  # fresh for every file, so that none can leave anything behind

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if full not in self.known and (module.split(".")[0] == "__torch__" or full == "argparse.Namespace"):
            base = _Record if full == "argparse.Namespace" else _Module
            self.known[full] = type(name, (base,), {"__slots__": ()})
        if full not in self.known:
            raise CheckpointError(
                f"the file asks for {full}, which is not among the things a weights file may hold; it was refused unread. "
                "If you trust its source, save a plain dictionary of tensors from it."
            )
        return self.known[full]

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], _Global)
                and isinstance(pid[1].value, str) and isinstance(pid[4], int) and pid[4] >= 0):
            raise CheckpointError("the file refers to something other than a tensor's storage. It is damaged or unsafe.")
        if len(pid) > 5 and pid[5] is not None:
            raise CheckpointError("the file holds views of storages (PyTorch before 0.4). Save it again with a newer one.")
        key = str(pid[2])
        if key not in self.storages:
            self.storages[key] = _Storage(pid[1].value, pid[4], key, self.read_storage)
        storage = self.storages[key]
        if storage.dtype != pid[1].value or storage.numel != pid[4]:
            raise CheckpointError(f"storage {key!r} is described in two ways. The file is damaged.")
        return storage


def _unpickle(file: BinaryIO, size: int, read_storage: Callable[[_Storage], bytes]) -> _Unpickled:
    """One pickle from the file's position; the position ends behind it."""
    start = file.tell()
    for opcode, argument, _ in pickletools.genops(file):
        if "PUT" in opcode.name and int(argument) > size:  # the memo would be allocated up to that index
            raise CheckpointError(f"pickle instruction {opcode.name} {argument} in a file of {size} bytes; it was refused.")
    end = file.tell()
    file.seek(start)
    unpickler = _Unpickler(file, read_storage)
    value = unpickler.load()
    file.seek(end)
    return value, unpickler.storages


_Unpickled = tuple[Any, dict[str, _Storage]]


def _read_zip(file: BinaryIO, path: Path) -> Any:
    with zipfile.ZipFile(file) as archive:
        size = path.stat().st_size
        declared = sum(info.file_size for info in archive.infolist())
        if declared > 4 * size + _SLACK:
            raise CheckpointError(
                f"{path}: the archive unpacks to {declared:,} bytes from {size:,}; PyTorch does not write such files, and "
                "it was refused unread (a zip bomb)."
            )
        names = sorted((name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"), key=len)
        if not names:
            raise CheckpointError(f"{path}: a zip file without data.pkl, so not one of PyTorch. Expected a .pth or .pt file.")
        prefix = names[0][: -len("data.pkl")]
        if f"{prefix}byteorder" in archive.namelist() and archive.read(f"{prefix}byteorder") != b"little":
            raise CheckpointError(f"{path}: written on a big-endian machine, which is not read. Save it on another one.")

        def read_storage(storage: _Storage) -> bytes:
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
        raise CheckpointError(f"{path}: PyTorch protocol {version!r}, only {_PROTOCOL} is read. Save it again with torch >= 1.6.")
    if load()[0].get("little_endian") is not True:
        raise CheckpointError(f"{path}: written on a big-endian machine, which is not read. Save it on another one.")
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
    """Plain dictionaries, lists and arrays for the stand-ins; every object once, however often the file refers to it."""
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
        if isinstance(value, (_Tensor, _Array)):
            return value.array(f"{path}: {name or 'tensor'}")
        if isinstance(value, _Record):
            value = value.state if isinstance(value.state, dict) else {}
        if isinstance(value, dict):
            return {key: walk(item, f"{name}.{key}" if name else str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            items = [walk(item, f"{name}[{i}]") for i, item in enumerate(value)]
            if isinstance(value, tuple):
                named = len(items) == 2 and isinstance(items[0], str) and isinstance(items[1], np.ndarray)
                return items[1] if named else tuple(items)
            return items
        return value.value if isinstance(value, _Global) else value

    result = walk(root, "")
    return _flatten(result) if isinstance(root, _Module) else result


def _flatten(module: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """The state dict of nested modules: every array under its dotted name."""
    flat: dict[str, np.ndarray] = {}
    for name, value in module.items():
        if isinstance(value, np.ndarray):
            flat[prefix + name] = value
        elif isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{name}."))
    return flat


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _decode(data: memoryview, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<"))
