# SPDX-License-Identifier: Apache-2.0
"""Element-wise work in several threads: oneDNN, which lies in Paddle's wheels.

Paddle's own element-wise and reducing CPU kernels run in one thread, and eager Paddle has no way to oneDNN.  Its C API
is called here through ctypes, on the memory of Paddle's tensors: no compiler, no other package.  (The headers in the
wheels only name the real ones, which are not there, so an operator written in C++ cannot be built against them.)

All tensors are on the CPU, float32 unless said otherwise.  The functions record no gradient.  Those whose names end in
an underscore work in the memory of their first argument and return it; of a strided view, which Paddle makes where
FLAGS_use_stride_kernel is on, they return a copy: use what they return.

Shape suffixes: `layers/__init__.py`.
Source: oneDNN 3.2 (Paddle 2.6) and 3.6 (Paddle 3.3), dnnl.h and dnnl_types.h; the numbers used are equal in both.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import paddle

_SAME_TYPE, _FLOAT32 = 0, 3  # dnnl_data_type_t; _SAME_TYPE: dnnl_data_type_undef
_TRAINING, _INFERENCE, _BACKWARD = 64, 96, 128  # dnnl_prop_kind_t
_GELU_ERF, _SOFTMAX, _CLIP, _LINEAR = 49, 0x30000, 0x2E, 0x26  # dnnl_alg_kind_t
_ADD, _MULTIPLY, _SUBTRACT = 0x1FFF0, 0x1FFF1, 0x1FFF5
_GAIN_AND_SHIFT = 2 | 4  # dnnl_normalization_flags_t
_IMPLEMENTATION = 8  # dnnl_query_impl_info_str
# Numbers of the arguments of a primitive: DNNL_ARG_*
_X, _OTHER, _Y, _WEIGHT, _MEAN, _VARIANCE, _GAIN, _SHIFT = 1, 2, 17, 33, 49, 50, 51, 52
_BIAS, _DX, _DY, _DGAIN, _DSHIFT = 41, 129, 145, 255, 256
_FOLLOWING = 32768  # DNNL_ARG_ATTR_MULTIPLE_POST_OP_BASE, times the place of the operation from 1 on
_PRIMITIVES = 512  # kept at most: models of a few image sizes
_MAX_AXES = 12

_Handle = ctypes.c_void_p


class _Argument(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("memory", _Handle)]


class _Library(NamedTuple):
    """The loaded library with its CPU engine and stream; one primitive runs at a time."""

    calls: Any
    engine: Any
    stream: Any
    lock: Any


class OneDnnError(RuntimeError):
    """oneDNN refused a call; nobody but a developer can cause it."""


def usable() -> bool:
    """True where Paddle's oneDNN was found; where it was not, one warning says what is lost."""
    return _library() is not None


@functools.cache
def _library() -> _Library | None:
    path = Path(paddle.__file__).parent / "libs" / "libdnnl.so.3"
    try:
        calls = ctypes.CDLL(str(path))
        engine, stream = _Handle(), _Handle()
        for code in (calls.dnnl_engine_create(ctypes.byref(engine), 1, ctypes.c_size_t(0)),
                     calls.dnnl_stream_create(ctypes.byref(stream), engine, 1)):
            if code:
                raise OSError(f"it answers {code}")
    except (OSError, AttributeError) as error:
        warnings.warn(f"oneDNN of Paddle {paddle.__version__} is not usable ({path}: {error}): on the CPU, blocks run "
                      "by Paddle's plain layers, which takes longer, and not in bfloat16.", stacklevel=2)
        return None
    return _Library(calls, engine, stream, threading.Lock())


def _loaded() -> _Library:
    library = _library()
    if library is None:
        raise OneDnnError("oneDNN is not usable here; ask `usable()` first.")
    return library


def _check(code: int, what: str) -> None:
    if code:
        raise OneDnnError(f"oneDNN refuses {what} (dnnl_status_t {code}).")


# -- primitives -------------------------------------------------------------------------------------------------------


class _Primitive:
    """A compiled operation.  Call it with the tensors of its arguments, in their order.

    bfloat16: places of the arguments that are bfloat16; the others are float32.  Raises OneDnnError for other tensors.
    """

    def __init__(self, description: Any, arguments: Sequence[tuple[int, Any]], what: str,
                 bfloat16: Sequence[int] = ()):
        library = _loaded()
        self._library, self._what, self._description, self._primitive = library, what, description, _Handle()
        _check(library.calls.dnnl_primitive_create(ctypes.byref(self._primitive), description), what)
        name = ctypes.c_char_p()
        library.calls.dnnl_primitive_desc_query(description, _IMPLEMENTATION, 0, ctypes.byref(name))
        #: oneDNN's name of the code that was chosen, e.g. jit:avx2 or brg_matmul:avx512_core_bf16
        self.implementation = (name.value or b"").decode()
        self._arguments = (_Argument * len(arguments))()
        self._memories = []
        self._dtypes = [paddle.bfloat16 if place in bfloat16 else paddle.float32 for place in range(len(arguments))]
        for place, (number, shape) in enumerate(arguments):
            memory = _Handle()
            _check(library.calls.dnnl_memory_create(ctypes.byref(memory), shape, library.engine, None), what)
            self._memories.append(memory)
            self._arguments[place] = _Argument(number, memory)

    @property
    def is_fast(self) -> bool:
        """False for oneDNN's reference code, which is there for completeness: up to a thousand times slower."""
        return not self.implementation.startswith(("ref", "simple"))

    def __call__(self, *tensors: paddle.Tensor) -> None:
        whole = self._checked(tensors)
        with self._library.lock:  # the memories are the primitive's, not the call's
            self._set(whole)
            code = self._execute()
        _check(code, self._what)

    def bind(self, *tensors: paddle.Tensor) -> None:
        """Fix the tensors of every `run` to come; for primitives that nobody calls with others."""
        self._bound = self._checked(tensors)  # kept
        self._set(self._bound)

    def run(self) -> None:
        """Compute with the tensors of `bind`."""
        with self._library.lock:
            code = self._execute()
        _check(code, self._what)

    def _checked(self, tensors: Sequence[paddle.Tensor]) -> list[paddle.Tensor]:
        if [tensor.dtype for tensor in tensors] != self._dtypes:  # their memory would be read as something else
            raise OneDnnError(f"{self._what} of tensors of {[str(tensor.dtype) for tensor in tensors]}; expected "
                              f"{[str(dtype) for dtype in self._dtypes]}.")
        return [tensor.contiguous() for tensor in tensors]  # itself, unless it is a strided view

    def _set(self, tensors: Sequence[paddle.Tensor]) -> None:
        for memory, tensor in zip(self._memories, tensors):
            self._library.calls.dnnl_memory_set_data_handle(memory, _Handle(tensor.data_ptr()))

    def _execute(self) -> Any:
        return self._library.calls.dnnl_primitive_execute(self._primitive, self._library.stream, len(self._memories),
                                                          self._arguments)

    def __del__(self) -> None:
        calls = self._library.calls
        for memory in self.__dict__.get("_memories", ()):
            calls.dnnl_memory_destroy(memory)
        if self._primitive:
            calls.dnnl_primitive_destroy(self._primitive)
        calls.dnnl_primitive_desc_destroy(self._description)


def _describe(function: str, *arguments: Any) -> Any:
    """The description that a `dnnl_..._primitive_desc_create` gives."""
    description, library = _Handle(), _loaded()
    create = getattr(library.calls, f"dnnl_{function}_primitive_desc_create")
    _check(create(ctypes.byref(description), *arguments), function)
    return description


@functools.cache
def _shape(sizes: tuple[int, ...], kind: int = _FLOAT32, strides: tuple[int, ...] | None = None) -> Any:
    """A memory description; without strides that of a contiguous tensor."""
    if strides is None:
        strides = tuple(math.prod(sizes[axis + 1 :]) for axis in range(len(sizes)))
    axes, description = ctypes.c_int64 * _MAX_AXES, _Handle()
    code = _loaded().calls.dnnl_memory_desc_create_with_strides(ctypes.byref(description), len(sizes), axes(*sizes),
                                                                kind, axes(*strides))
    _check(code, f"a tensor of shape {sizes}")
    return description


@functools.cache
def _part_of(whole: tuple[int, ...], sizes: tuple[int, ...], at: tuple[int, ...], kind: int = _FLOAT32) -> Any:
    """The description of a part, which begins at `at`, of a contiguous tensor of sizes `whole`."""
    axes, description = ctypes.c_int64 * _MAX_AXES, _Handle()
    _check(_loaded().calls.dnnl_memory_desc_create_submemory(ctypes.byref(description), _shape(whole, kind),
                                                             axes(*sizes), axes(*at)), f"the part {sizes} at {at}")
    return description


def _then(*, adds: bool = False, most: float | None = None, factor: float = 1.0, plus: Any = None) -> Any:
    """Attributes of a primitive whose result is added to what its output holds, or clipped to [0, `most`].

    Before that it is multiplied by `factor`, and a tensor that `plus` describes is added, an argument of the primitive.
    """
    calls, attributes, chain = _loaded().calls, _Handle(), _Handle()
    if adds and most is not None:
        raise OneDnnError("a result is clipped or added to another tensor, not both.")
    _check(calls.dnnl_primitive_attr_create(ctypes.byref(attributes)), "attributes")
    _check(calls.dnnl_post_ops_create(ctypes.byref(chain)), "operations that follow")
    if factor != 1:
        _check(calls.dnnl_post_ops_append_eltwise(chain, _LINEAR, ctypes.c_float(factor), ctypes.c_float(0)), "scaling")
    if plus is not None:
        _check(calls.dnnl_post_ops_append_binary(chain, _ADD, plus), "a tensor that is added")
    if adds:
        _check(calls.dnnl_post_ops_append_sum(chain, ctypes.c_float(1), 0, _SAME_TYPE), "an addition that follows")
    if most is not None:
        _check(calls.dnnl_post_ops_append_eltwise(chain, _CLIP, ctypes.c_float(0), ctypes.c_float(most)), "clipping")
    _check(calls.dnnl_primitive_attr_set_post_ops(attributes, chain), "operations that follow")
    _check(calls.dnnl_post_ops_destroy(chain), "the end of operations")
    return attributes


def _new(*sizes: int) -> paddle.Tensor:
    """A tensor to write to, whatever Paddle's default type is."""
    return paddle.empty(sizes, dtype="float32")


# -- layer normalisation ----------------------------------------------------------------------------------------------


class Normed(NamedTuple):
    """A normalised matrix y (R, D) with the mean (R,) and variance (R,) of every row of its input."""

    y_RD: paddle.Tensor
    mean_R: paddle.Tensor
    variance_R: paddle.Tensor


def layer_norm(x: paddle.Tensor, gain_D: paddle.Tensor, shift_D: paddle.Tensor, eps: float) -> Normed:
    """Layer normalisation over the last axis of x (..., D), as a matrix."""
    width = x.shape[-1]
    rows = math.prod(x.shape[:-1])  # `Tensor.size` takes longer
    made = Normed(_new(rows, width), _new(rows), _new(rows))
    _layer_norm(rows, width, eps)(x, gain_D, shift_D, *made)
    return made


@functools.lru_cache(maxsize=_PRIMITIVES)
def _layer_norm(rows: int, width: int, eps: float) -> _Primitive:
    matrix, row, column = _shape((rows, width)), _shape((rows,)), _shape((width,))
    return _Primitive(_layer_norm_description(rows, width, eps),
                      [(_X, matrix), (_GAIN, column), (_SHIFT, column), (_Y, matrix), (_MEAN, row), (_VARIANCE, row)],
                      "layer normalisation")


def _layer_norm_description(rows: int, width: int, eps: float) -> Any:
    matrix = _shape((rows, width))
    return _describe("layer_normalization_forward", _loaded().engine, _TRAINING, matrix, matrix, _shape((rows,)),
                     ctypes.c_float(eps), _GAIN_AND_SHIFT, None)


def layer_norm_gradient(x: paddle.Tensor, dy_RD: paddle.Tensor, mean_R: paddle.Tensor, variance_R: paddle.Tensor,
                        gain_D: paddle.Tensor, shift_D: paddle.Tensor,
                        eps: float) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
    """Gradients of `layer_norm` by x (R, D), gain (D,) and shift (D,), from what it gave."""
    rows, width = dy_RD.shape
    gradients = _new(rows, width), _new(width), _new(width)
    _layer_norm_gradient(rows, width, eps)(x, dy_RD, mean_R, variance_R, gain_D, shift_D, *gradients)
    return gradients


@functools.lru_cache(maxsize=_PRIMITIVES)
def _layer_norm_gradient(rows: int, width: int, eps: float) -> _Primitive:
    matrix, row, column = _shape((rows, width)), _shape((rows,)), _shape((width,))
    forward = _layer_norm_description(rows, width, eps)
    try:
        description = _describe("layer_normalization_backward", _loaded().engine, _BACKWARD, matrix, matrix, matrix,
                                row, ctypes.c_float(eps), _GAIN_AND_SHIFT, forward, None)
    finally:
        _loaded().calls.dnnl_primitive_desc_destroy(forward)
    return _Primitive(description, [(_X, matrix), (_DY, matrix), (_MEAN, row), (_VARIANCE, row), (_GAIN, column),
                                    (_SHIFT, column), (_DX, matrix), (_DGAIN, column), (_DSHIFT, column)],
                      "the gradient of layer normalisation")


# -- GELU and softmax -------------------------------------------------------------------------------------------------


def gelu(x: paddle.Tensor) -> paddle.Tensor:
    """GELU (erf) of a tensor."""
    y = paddle.empty_like(x)
    _gelu(math.prod(x.shape))(x, y)
    return y


@functools.lru_cache(maxsize=_PRIMITIVES)
def _gelu(size: int) -> _Primitive:
    return _Primitive(_gelu_description(size), [(_X, _shape((size,))), (_Y, _shape((size,)))], "GELU")


def _gelu_description(size: int) -> Any:
    return _describe("eltwise_forward", _loaded().engine, _TRAINING, _GELU_ERF, _shape((size,)), _shape((size,)),
                     ctypes.c_float(0), ctypes.c_float(0), None)


def gelu_gradient_(dy: paddle.Tensor, x: paddle.Tensor) -> paddle.Tensor:
    """The gradient of GELU by x, in the memory of `dy`."""
    dy = dy.contiguous()
    _gelu_gradient(math.prod(x.shape))(x, dy, dy)
    return dy


@functools.lru_cache(maxsize=_PRIMITIVES)
def _gelu_gradient(size: int) -> _Primitive:
    line, forward = _shape((size,)), _gelu_description(size)
    try:
        description = _describe("eltwise_backward", _loaded().engine, _GELU_ERF, line, line, line, ctypes.c_float(0),
                                ctypes.c_float(0), forward, None)
    finally:
        _loaded().calls.dnnl_primitive_desc_destroy(forward)
    return _Primitive(description, [(_X, line), (_DY, line), (_DX, line)], "the gradient of GELU")


def softmax_(x: paddle.Tensor) -> paddle.Tensor:
    """The softmax of x over the last axis, in its memory."""
    x = x.contiguous()
    width = x.shape[-1]
    _softmax(math.prod(x.shape[:-1]), width)(x, x)
    return x


@functools.lru_cache(maxsize=_PRIMITIVES)
def _softmax(rows: int, width: int) -> _Primitive:
    matrix = _shape((rows, width))
    return _Primitive(_describe("softmax_forward", _loaded().engine, _INFERENCE, _SOFTMAX, matrix, matrix, 1, None),
                      [(_X, matrix), (_Y, matrix)], "softmax")


# -- sums and products of tensors, element by element -----------------------------------------------------------------


def add_(x: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    """x + other, in the memory of x.

    other: of the shape of x, or with ones for all of x's first axes, or with ones for all of its last.
    """
    return _combine_(_ADD, x, other)


def subtract_(x: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    """x - other, in the memory of x; shapes as for `add_`."""
    return _combine_(_SUBTRACT, x, other)


def multiply_(x: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    """x * other, in the memory of x; shapes as for `add_`."""
    return _combine_(_MULTIPLY, x, other)


def multiply(x: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    """x * other; shapes as for `add_`."""
    return _combine(_MULTIPLY, x, other, paddle.empty_like(x))


def _combine_(operation: int, x: paddle.Tensor, other: paddle.Tensor) -> paddle.Tensor:
    x = x.contiguous()
    return _combine(operation, x, other, x)


def _combine(operation: int, x: paddle.Tensor, other: paddle.Tensor, y: paddle.Tensor) -> paddle.Tensor:
    _binary(operation, *_as_matrices(tuple(x.shape), tuple(other.shape)))(x, other, y)
    return y


@functools.cache
def _as_matrices(sizes: tuple[int, ...], other: tuple[int, ...]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes (R, D) of a tensor and (1, D) or (R, 1) of the other: the broadcasts that oneDNN has fast code for.

    Raises ValueError for shapes that do not fit `add_`.
    """
    other = (1,) * (len(sizes) - len(other)) + other
    for axis in range(len(sizes) + 1):
        head, tail = math.prod(sizes[:axis]), math.prod(sizes[axis:])
        if other == (1,) * axis + sizes[axis:]:
            return (head, tail), (1, tail)
        if other == sizes[:axis] + (1,) * (len(sizes) - axis):
            return (head, tail), (head, 1)
    raise ValueError(f"a tensor of shape {other} is neither a row nor a column of one of shape {sizes}.")


@functools.lru_cache(maxsize=_PRIMITIVES)
def _binary(operation: int, sizes: tuple[int, int], other: tuple[int, int]) -> _Primitive:
    x, y = _shape(sizes), _shape(other)
    return _Primitive(_describe("binary", _loaded().engine, operation, x, y, x, None), [(_X, x), (_OTHER, y), (_Y, x)],
                      "element-wise arithmetic")
