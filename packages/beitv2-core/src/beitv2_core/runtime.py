# SPDX-License-Identifier: Apache-2.0
"""What must be set before Paddle is loaded, so that nobody has to know it.

Imported by `beitv2_core/__init__.py`, so that `import beitv2_core` before `import paddle` is enough.
A variable the user has set is never touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.abc
import importlib.util
import os
import sys
import warnings
import zlib  # noqa: F401  Paddle 2.6 exports its own zlib symbols: whoever loads zlib first decides which one Pillow gets.
from collections.abc import Callable, Iterator
from typing import Any

from beitv2_core.errors import MissingDependencyError


def physical_cores() -> int:
    """Processor cores this process may use, hyper-threads counted once where the system tells; at least 1."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        path = f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        try:
            with open(path, encoding="ascii") as file:
                cores.add(file.read().strip())
        except OSError:
            cores.add(str(cpu))
    return max(1, len(cores))


def local_processes() -> int:
    """Processes of this host that `paddle.distributed.launch` started together with this one; 1 outside a launch."""
    counted = os.environ.get("PADDLE_LOCAL_SIZE", "")
    if counted.isdigit() and int(counted) > 0:
        return int(counted)
    # Launched with --backend gloo there are only the addresses of all processes.
    host = os.environ.get("PADDLE_CURRENT_ENDPOINT", "").rpartition(":")[0]
    others = [address.rpartition(":")[0] for address in os.environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")]
    return max(1, others.count(host)) if host else 1


def threads() -> int:
    """Threads for this process: its share of the cores."""
    return max(1, physical_cores() // local_processes())


def _launcher_set_threads() -> bool:
    """True where OMP_NUM_THREADS=1 is not the user's: the launcher's own `import paddle` sets it for its children."""
    if "PADDLE_TRAINER_ID" not in os.environ or os.environ.get("OMP_NUM_THREADS") != "1":
        return False
    try:
        with open(f"/proc/{os.getppid()}/environ", "rb") as file:  # what the launcher itself was started with
            return not any(entry.startswith(b"OMP_NUM_THREADS=") for entry in file.read().split(b"\0"))
    except OSError:
        return False


CPUINFO = "/proc/cpuinfo"
#: what MKL's AVX-512 kernels use; a processor that lacks one of them is stopped by an illegal instruction
AVX512 = frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512cd"})
#: either of them multiplies bfloat16 numbers
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})


@functools.cache
def _processor(cpuinfo: str) -> tuple[str, frozenset[str]]:
    """Vendor and flags of the first processor that `cpuinfo` describes; of ARM no vendor, elsewhere neither."""
    vendor = ""
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                if name.strip() == "vendor_id":
                    vendor = value.strip()
                elif name.strip() in ("flags", "Features"):
                    return vendor, frozenset(value.split())
    except OSError:
        pass
    return vendor, frozenset()


def cpu_flags() -> frozenset[str]:
    """What this processor can do, in Linux's words (avx2, avx512f, avx512_bf16, ...); empty where it does not tell."""
    return _processor(CPUINFO)[1]


def has_bfloat16() -> bool:
    """True on a processor that multiplies bfloat16 numbers itself."""
    return bool(cpu_flags() & BFLOAT16)


def fast_bfloat16() -> bool:
    """True on a processor whose bfloat16 units are faster than its float32 ones.

    Intel's cores since Sapphire Rapids, which have avx512_fp16, multiply bfloat16 numbers fast by AMX only, and
    virtual machines often hide that (measured on an Emerald Rapids without it, 2 threads, 2048^3: 332 GFLOP/s in
    float32, 166 in bfloat16).
    """
    vendor, flags = _processor(CPUINFO)
    slow = vendor == "GenuineIntel" and "avx512_fp16" in flags and "amx_bf16" not in flags
    return has_bfloat16() and not slow


def mkl_path() -> str | None:
    """Value of MKL_DEBUG_CPU_TYPE for this processor; None: MKL chooses best by itself.

    The MKL of Paddle's wheels takes its slowest kernels on AMD.  5 are its AVX2 kernels, 7 its AVX-512 kernels
    (measured on a Zen 5 with 2 threads, 2048^3 float32: 90 GFLOP/s unset, 247 with 5, 495 with 7; 8 stops the process).
    """
    vendor, flags = _processor(CPUINFO)
    if vendor != "AuthenticAMD" or "avx2" not in flags or "fma" not in flags:
        return None
    return "7" if AVX512 <= flags else "5"


def wanted_environment() -> dict[str, str]:
    """Variables Paddle reads while loading: this process's share of the cores instead of one, no strided views, MKL's
    fast kernels on AMD.

    Strided views: `transpose` and `unbind` return views, and on the CPU every matrix product then copies its operands
    by a slow generic kernel (measured: (128, 3, 17, 32) operands 8.6 ms instead of 0.2).
    """
    wanted = {"OMP_NUM_THREADS": str(threads()), "FLAGS_use_stride_kernel": "0"}
    path = mkl_path()
    if path is not None:
        wanted["MKL_DEBUG_CPU_TYPE"] = path
    return wanted


def keep_freed_memory() -> bool:
    """Let the C library keep the memory of freed tensors instead of giving it back; True where that was done.

    By default glibc maps every large tensor anew, and the kernel zeroes its pages at first touch: most of the time of
    Paddle's element-wise operations on the CPU (measured: scaling a 1576 x 3072 tensor 8.8 ms, afterwards 0.8).
    Small objects get room of their own (`_make_room_for_small_objects`).
    It changes the whole process, so the commands call it, and no function of the library: a program that trains calls
    it once.  Works after Paddle was loaded too.  False where the user has set MALLOC_* variables, and without glibc.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    largest = ctypes.c_int(2**31 - 1)
    map_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    if not mallopt(map_threshold, ctypes.c_int(2**30)) or not mallopt(trim_threshold, largest):
        return False
    if "paddle" in sys.modules:
        _make_room_for_small_objects()
    else:  # loading Paddle would fill it
        _once_paddle_is_loaded.append(_make_room_for_small_objects)
    return True


@functools.cache
def _make_room_for_small_objects() -> None:
    """Leave 56 MB of small holes in the heap, which glibc fills before larger ones.

    Otherwise it puts small objects that live long into the holes of freed tensors, and the next tensor of the same size
    no longer fits (measured: peak memory of a pretraining step of base size, 2.82 to 2.87 GB, afterwards 2.65 to 2.70).
    """
    library = ctypes.CDLL("libc.so.6")
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.free.restype, library.free.argtypes = None, [ctypes.c_void_p]
    for size, count in ((2**10, 16000), (2**13, 1000), (2**16, 500)):
        holes = []
        for _ in range(count):
            holes.append(library.malloc(size))
            library.malloc(1)  # kept, so that the holes beside it stay apart
        for hole in holes:
            library.free(hole)


def give_back_memory() -> bool:
    """Give freed memory back to the system, also what `keep_freed_memory` kept; False without glibc.

    For a process that has done large work and now waits: the next work maps its memory anew.
    """
    try:
        return bool(ctypes.CDLL("libc.so.6").malloc_trim(0))
    except (OSError, AttributeError):
        return False


def let_waiting_threads_sleep() -> bool:
    """Let Paddle's threads sleep as soon as they have nothing to compute; True where that was done.

    By default those of Intel's OpenMP, which Paddle brings for the CPU, spin for 200 ms first, on cores that the worker
    processes of a reader need (measured: evaluating 1,000 images on two cores with two workers, 14.5 s of processor
    time, afterwards 11.9).  It holds for the thread that calls.  The number of threads, and so every result, stays.
    False where the user has set OMP_WAIT_POLICY or KMP_BLOCKTIME, and without this OpenMP.
    """
    if not {"OMP_WAIT_POLICY", "KMP_BLOCKTIME"}.isdisjoint(os.environ) or not sys.platform.startswith("linux"):
        return False
    try:
        openmp = ctypes.CDLL("libiomp5.so", mode=os.RTLD_NOLOAD)  # the one that is loaded, or none
        openmp.kmp_set_blocktime(0)
    except (OSError, AttributeError):
        return False
    return True


#: variables set by `prepare`, not by the user
_ours: dict[str, str] = {}
#: called as soon as Paddle was loaded
_once_paddle_is_loaded: list[Callable[[], None]] = []


def prepare() -> dict[str, str]:
    """Set the unset variables of `wanted_environment` and return them; warn once if Paddle was loaded first."""
    wanted = wanted_environment()
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    # `import paddle` itself sets OMP_NUM_THREADS=1: after it the user's own choice can no longer be told apart.
    if "paddle" in sys.modules:
        if missing or os.environ.get("OMP_NUM_THREADS") == "1" and threads() > 1:
            warnings.warn(
                "beitv2_core: paddle was imported first, so it keeps its own thread and MKL settings "
                f"(wanted {wanted}); matrix products may be several times slower. "
                "Write `import beitv2_core` before `import paddle`.",
                stacklevel=3,
            )
        return {}
    if _launcher_set_threads():
        missing["OMP_NUM_THREADS"] = wanted["OMP_NUM_THREADS"]
    os.environ.update(missing)
    _ours.update(missing)
    sys.meta_path.insert(0, _QuietStart())
    return missing


def users_environment() -> dict[str, str]:
    """The environment without what `prepare` has set: processes started with it choose for themselves."""
    return {name: value for name, value in os.environ.items() if name not in _ours}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Processes started inside compute in one thread each, unless the user has set OMP_NUM_THREADS."""
    if "OMP_NUM_THREADS" not in _ours:
        yield
        return
    before, os.environ["OMP_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"], "1"
    try:
        yield
    finally:
        os.environ["OMP_NUM_THREADS"] = before


class _QuietStart(importlib.abc.MetaPathFinder):
    """Leaves out, of what Paddle says while it is imported, what our own setting of the threads makes it say.

    And that it found no ccache, which only who compiles operators needs.  Everything else is shown.  Then it calls
    `_once_paddle_is_loaded`.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The specification of Paddle, whose execution is made quiet; None for everything else."""
        if name != "paddle":
            return None
        others = (finder for finder in sys.meta_path if finder is not self)  # whoever finds it, or says it is not there
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def quietly(module: Any) -> None:
            warnings.filterwarnings("ignore", message="No ccache found")
            shown = sys.stderr
            sys.stderr = _Without(shown) if "OMP_NUM_THREADS" in _ours else shown
            try:
                execute(module)
            finally:
                if isinstance(sys.stderr, _Without):
                    sys.stderr.done()
                    sys.stderr = shown
            while _once_paddle_is_loaded:
                _once_paddle_is_loaded.pop()()

        spec.loader.exec_module = quietly  # type: ignore[method-assign]
        return spec


class _Without:
    """A text stream that keeps Paddle's two lines on OMP_NUM_THREADS to itself, until `done`."""

    ALARMS = ("WARNING: OMP_NUM_THREADS set to ", "PLEASE USE OMP_NUM_THREADS WISELY.")

    def __init__(self, stream: Any):
        self._stream, self._line, self._done = stream, "", False

    def write(self, text: str) -> int:
        """Pass whole lines on."""
        if self._done:  # a logger made meanwhile keeps this stream
            return self._stream.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if not line.startswith(self.ALARMS):
                self._stream.write(line + "\n")
        return len(text)

    def done(self) -> None:
        """Pass everything on from now on."""
        self._done = True
        if self._line:
            self._stream.write(self._line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def require_paddle() -> None:
    """Raise MissingDependencyError with the command to type when no Paddle is installed."""
    if "paddle" not in sys.modules and importlib.util.find_spec("paddle") is None:
        raise MissingDependencyError(
            "beitv2_core: PaddlePaddle is not installed, and this feature needs it. "
            'Type: pip install "beitv2-core[cpu]"   (or "beitv2-core[gpu]" on a machine with CUDA).'
        )


prepare()
