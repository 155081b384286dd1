"""What must be set before Paddle is loaded, so that nobody has to know it.

Imported by `beitv2_core/__init__.py`, so that `import beitv2_core` before `import paddle` is enough.
A variable the user has set is never touched.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
import warnings
import zlib  # noqa: F401  Paddle 2.6 exports its own zlib symbols: whoever loads zlib first decides which one Pillow gets.

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


def is_amd() -> bool:
    """True on an AMD processor, as far as /proc/cpuinfo tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return any("AMD" in line for line in file if line.startswith(("vendor_id", "model name")))
    except OSError:
        return False


def wanted_environment() -> dict[str, str]:
    """Variables Paddle reads while loading: all cores instead of one, no strided views, MKL's fast path on AMD.

    Strided views: `transpose` and `unbind` return views, and on the CPU every matrix product then copies its operands
    by a slow generic kernel (measured: (128, 3, 17, 32) operands 8.6 ms instead of 0.2).
    """
    wanted = {"OMP_NUM_THREADS": str(physical_cores()), "FLAGS_use_stride_kernel": "0"}
    if is_amd():
        wanted["MKL_DEBUG_CPU_TYPE"] = "5"
    return wanted


def keep_freed_memory() -> bool:
    """Let the C library keep the memory of freed tensors instead of giving it back; True where that was done.

    By default glibc maps every large tensor anew, and the kernel zeroes its pages at first touch: most of the time of
    Paddle's element-wise operations on the CPU (measured: scaling a 1576 x 3072 tensor 8.8 ms, afterwards 0.8).
    Works after Paddle was loaded too.  False where the user has set MALLOC_* variables, and without glibc.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    largest = ctypes.c_int(2**31 - 1)
    map_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
    return bool(mallopt(map_threshold, ctypes.c_int(2**30)) and mallopt(trim_threshold, largest))


def prepare() -> dict[str, str]:
    """Set the unset variables of `wanted_environment` and return them; warn once if Paddle was loaded first."""
    keep_freed_memory()
    missing = {name: value for name, value in wanted_environment().items() if name not in os.environ}
    # `import paddle` itself sets OMP_NUM_THREADS=1: after it the user's own choice can no longer be told apart.
    if "paddle" in sys.modules:
        if missing or os.environ.get("OMP_NUM_THREADS") == "1" and physical_cores() > 1:
            warnings.warn(
                "beitv2_core: paddle was imported first, so it keeps its own thread and MKL settings "
                f"(wanted {wanted_environment()}); matrix products may be several times slower. "
                "Write `import beitv2_core` before `import paddle`.",
                stacklevel=3,
            )
        return {}
    os.environ.update(missing)
    return missing


def require_paddle() -> None:
    """Raise MissingDependencyError with the command to type when no Paddle is installed."""
    if "paddle" not in sys.modules and importlib.util.find_spec("paddle") is None:
        raise MissingDependencyError(
            "beitv2_core: PaddlePaddle is not installed, and this feature needs it. "
            'Type: pip install "beitv2-core[cpu]"   (or "beitv2-core[gpu]" on a machine with CUDA).'
        )


prepare()
