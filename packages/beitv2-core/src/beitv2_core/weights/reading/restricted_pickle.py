# SPDX-License-Identifier: Apache-2.0
"""The unpickler of weights files: it knows a list of names, and instructions that build plain data.

A file can only name what stands in `known_globals`; each entry is a value, or a function of ours.  Instructions that
make objects of classes, look things up elsewhere or read buffers are unknown to it.  What the instructions may build is
bounded by the size of the file, so that a small file cannot fill the memory.
"""

from __future__ import annotations

import io
import pickle
import reprlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, BinaryIO

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.reading.pickled_values import (
    Global,
    Module,
    PickledArray,
    PickledDtype,
    Record,
    Storage,
    StorageSource,
    TensorRef,
)

MOST_SETS = 10_000  # an empty one takes 216 bytes, for an instruction of one
MOST_INSTRUCTIONS = 500_000  # a checkpoint of the large model with its optimizer has about 100,000
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
_KEYS = (str, bytes, int, float, bool, type(None))


# -- what a file may name ----------------------------------------------------------------------------------------------


def _key(value: Any) -> Any:
    # Hashing a tuple nested deeply enough overflows the interpreter's stack, or takes forever.
    flat = type(value) is tuple and all(type(item) in _KEYS for item in value)
    if type(value) not in _KEYS and not flat:
        raise pickle.UnpicklingError(f"a {type(value).__name__} as the key of a dictionary or set")
    return value


def _dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    return {_key(key): value for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)}


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> TensorRef:
    if len(more) > 2 and more[2]:
        raise CheckpointError(
            f"a tensor carries the marks {reprlib.repr(more[2])} (a conjugate or negative view), which are not read. "
            "Save it again after .resolve_conj() or .resolve_neg()."
        )
    return TensorRef(storage, offset, size, stride)


def _rebuild_v3(storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any,
                *more: Any) -> TensorRef:
    ref = _rebuild(storage, offset, size, stride, grad, hooks, *more)
    return TensorRef(ref.storage, ref.offset, ref.size, ref.stride, dtype.value)


def _scalar(dtype: PickledDtype, data: bytes) -> Any:
    return PickledArray(None, (), dtype, False, data).array("a numpy scalar")[()]


def _encode(text: str, coding: str) -> bytes:
    if coding != "latin1":
        raise pickle.UnpicklingError(f"_codecs.encode with {reprlib.repr(coding)}")
    return text.encode("latin1")


def _paddle_eval(text: str, names: dict[str, Any]) -> Any:
    # Paddle's static-graph files wrap every array in eval("data", {"data": array}); only that one form is understood.
    if text != "data" or not isinstance(names, dict) or set(names) != {"data"}:
        raise CheckpointError(f"the file asks for eval({reprlib.repr(text)}); that is unsafe and was refused.")
    return names["data"]


def known_globals() -> dict[str, Global]:
    """The globals that a weights file may name; new for every file, so that none can change the next."""
    table = {
        "collections.OrderedDict": Global(call=lambda pairs=(): OrderedDict(_dict(pairs))),
        "collections.defaultdict": Global(call=lambda factory=None, pairs=(): _dict(pairs)),
        "builtins.tuple": Global(call=tuple), "builtins.list": Global(call=list), "builtins.dict": Global(call=_dict),
        "builtins.set": Global(call=lambda items=(): {_key(item) for item in items}),
        "builtins.eval": Global(call=_paddle_eval),
        "_codecs.encode": Global(call=_encode),
        "torch._utils._rebuild_tensor": Global(call=_rebuild),
        "torch._utils._rebuild_tensor_v2": Global(call=_rebuild),
        "torch._utils._rebuild_tensor_v3": Global(call=_rebuild_v3),
        "torch._utils._rebuild_parameter": Global(call=lambda data, *_: data),
        "torch._utils._rebuild_parameter_with_state": Global(call=lambda data, *_: data),
        "torch.Size": Global(call=tuple),
        "torch.device": Global(call=lambda *a: ":".join(str(part) for part in a if type(part) in (str, int))),
        "torch.storage.UntypedStorage": Global("u1"),
        "numpy.ndarray": Global(),
        "numpy.dtype": Global(call=PickledDtype),
    }
    for name, dtype in (*_STORAGES.items(), *_DTYPES.items()):
        table[f"torch.{name}"] = Global(dtype)
    table.update(numpy_globals())
    for name in ("build_intlist", "build_tensorlist", "build_doublelist", "build_boollist", "restore_type_tag"):
        table[f"torch.jit._pickle.{name}"] = Global(call=lambda data, *_: data)
    return table


def numpy_globals() -> dict[str, Global]:
    """The functions numpy pickles arrays and scalars with."""
    table = {}
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray._reconstruct"] = Global(call=lambda *_: PickledArray())
        table[f"{core}.multiarray.scalar"] = Global(call=_scalar)
        table[f"{core}.numeric._frombuffer"] = Global(
            call=lambda data, dtype, shape, order="C": PickledArray(None, shape, dtype, order == "F", data))
    return table


# -- the unpickler -----------------------------------------------------------------------------------------------------


class _Reader:
    """A stream that never hands out, or allocates, more than it has."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        left = self.size - self.file.tell()
        if count > left:
            raise pickle.UnpicklingError(f"{count} bytes are announced where {left} are left")
        return self.file.read(count)

    def readline(self) -> bytes:
        return self.file.readline()


class _Instructions(dict[int, Callable[..., None]]):
    """The known instructions; looking one up counts it."""

    def __init__(self, handlers: dict[int, Callable[..., None]], most: int):
        super().__init__(handlers)
        self.left = most

    def __getitem__(self, opcode: int) -> Callable[..., None]:
        self.left -= 1
        if self.left < 0:
            raise CheckpointError("more pickle instructions than any weights file has; it was refused (a bomb).")
        if opcode not in self:
            raise pickle.UnpicklingError(f"pickle instruction {bytes([opcode])!r}, which no weights file needs")
        return super().__getitem__(opcode)


class RestrictedUnpickler(pickle._Unpickler):
    """Reads one pickle from the position of `file`, which ends right behind it; `size`: bytes the file has."""

    stack: list[Any]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: BinaryIO, size: int, source: StorageSource):
        super().__init__(_Reader(file, size), encoding="utf-8")
        self.source = source
        self.storages: dict[str, Storage] = {}
        self.known: dict[str, Any] = dict(known_globals())
        self.sets = 0
        self.budget = size + 1024  # items and characters that calls may be given: each stands in the file
        self.dispatch = _Instructions(_HANDLERS, MOST_INSTRUCTIONS)  # type: ignore[misc]

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}".replace("__builtin__.", "builtins.", 1)
        if full == "argparse.Namespace" or module.split(".")[0] == "__torch__":
            return Record if full == "argparse.Namespace" else Module  # one class for all: names cost no memory
        if full not in self.known:
            raise CheckpointError(
                f"the file asks for {full[:200]}, which no weights file needs; it was refused unread. "
                "If you trust its source, save a plain dictionary of tensors from it."
            )
        return self.known[full]

    def persistent_load(self, pid: Any) -> Storage:
        if not (type(pid) is tuple and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], Global)
                and isinstance(pid[1].value, str) and type(pid[2]) in (str, int) and type(pid[4]) is int
                and pid[4] >= 0):
            raise CheckpointError("the file refers to something that is no tensor's storage: it is damaged or unsafe.")
        if len(pid) > 5 and pid[5] is not None:
            raise CheckpointError("the file holds views of storages (PyTorch before 0.4). Save it again with a newer.")
        key = str(pid[2])
        if key not in self.storages:
            self.storages[key] = Storage(pid[1].value, pid[4], key, self.source)
        storage = self.storages[key]
        if storage.dtype != pid[1].value or storage.numel != pid[4]:
            raise CheckpointError(f"storage {key!r} is described in two ways. The file is damaged.")
        return storage

    def spend(self, arguments: Sequence[Any]) -> None:
        self.budget -= sum(len(item) for item in arguments if isinstance(item, (str, bytes, tuple, list, dict, set)))
        if self.budget < 0:
            raise CheckpointError("the file makes more of its content than it holds; it was refused (a bomb).")

    def on_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise pickle.UnpicklingError(f"a {type(function).__name__} cannot be called")
        self.spend(arguments)
        self.stack.append(function(*arguments))

    def on_newobj(self) -> None:
        arguments, made = self.stack.pop(), self.stack.pop()
        if arguments != () or not (isinstance(made, type) and issubclass(made, Record)):
            raise pickle.UnpicklingError("an object of a class that no weights file needs")
        self.stack.append(made())

    def on_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, (Record, PickledArray, PickledDtype)):
            target.__setstate__(state)
        elif type(target) is not OrderedDict:  # its attributes (torch's `_metadata`) are not needed
            raise pickle.UnpicklingError(f"attributes for a {type(target).__name__}")

    def on_items(self, items: Sequence[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(items) % 2:
            raise pickle.UnpicklingError(f"keys and values for a {type(target).__name__}")
        target.update((_key(key), value) for key, value in zip(items[::2], items[1::2]))

    def on_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.on_items((key, value))

    def on_setitems(self) -> None:
        self.on_items(self.pop_mark())

    def on_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.on_items(items)

    def on_empty_set(self) -> None:
        self.sets += 1
        if self.sets > MOST_SETS:
            raise CheckpointError("more sets than any weights file has; it was refused (a bomb).")
        self.stack.append(set())

    def on_append(self) -> None:
        self.on_elements([self.stack.pop()])

    def on_appends(self) -> None:
        self.on_elements(self.pop_mark())

    def on_elements(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise pickle.UnpicklingError(f"elements for a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def on_additems(self) -> None:
        items = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise pickle.UnpicklingError(f"elements for a {type(self.stack[-1]).__name__}")
        self.stack[-1].update(_key(item) for item in items)

    def on_bytearray(self) -> None:
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))


def _handlers() -> dict[int, Callable[..., None]]:
    """Python's own handlers of instructions that push plain data, and ours of those that do more."""
    plain = ("PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 "
             "FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES "
             "SHORT_BINBYTES BINBYTES8 TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE LIST EMPTY_LIST EMPTY_DICT GET "
             "BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL BINPERSID")
    handlers = {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]]
                for name in plain.split()}
    ours = RestrictedUnpickler
    return {**handlers, pickle.REDUCE[0]: ours.on_reduce, pickle.NEWOBJ[0]: ours.on_newobj,
            pickle.BUILD[0]: ours.on_build, pickle.SETITEM[0]: ours.on_setitem, pickle.SETITEMS[0]: ours.on_setitems,
            pickle.DICT[0]: ours.on_dict, pickle.APPEND[0]: ours.on_append, pickle.APPENDS[0]: ours.on_appends,
            pickle.EMPTY_SET[0]: ours.on_empty_set, pickle.ADDITEMS[0]: ours.on_additems,
            pickle.BYTEARRAY8[0]: ours.on_bytearray}


_HANDLERS = _handlers()


def unpickle_bytes(data: bytes, source: StorageSource) -> Any:
    """The value of one pickle in memory."""
    return RestrictedUnpickler(io.BytesIO(data), len(data), source).load()
