# SPDX-License-Identifier: Apache-2.0
"""What is set for Paddle: never over the user's own choice, said once when it comes too late, and nothing alarming."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from beitv2_core import runtime

NAMES = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel", "MALLOC_TRIM_THRESHOLD_")
TWO_CORES = pytest.mark.skipif(runtime.physical_cores() < 2, reason="one core: nothing to share")


def fresh(code: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items()
                   if key not in NAMES and not key.startswith("PADDLE_")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={**environment, **variables})


def test_importing_the_package_sets_threads_and_costs_no_paddle():
    code = "import beitv2_core, os, sys; print(os.environ['OMP_NUM_THREADS'], 'paddle' in sys.modules)"
    assert fresh(code).stdout.split() == [str(runtime.physical_cores()), "False"]


def test_the_users_own_variables_win():
    code = "import beitv2_core, os; print(os.environ['OMP_NUM_THREADS'], os.environ['FLAGS_use_stride_kernel'])"
    assert fresh(code, OMP_NUM_THREADS="7", FLAGS_use_stride_kernel="1").stdout.split() == ["7", "1"]


def test_paddle_keeps_the_number_of_threads_we_set():
    code = "import beitv2_core, paddle, os; print(os.environ['OMP_NUM_THREADS'])"
    assert fresh(code).stdout.split()[-1] == str(runtime.physical_cores())


@pytest.mark.skipif(runtime.physical_cores() == 1 and runtime.mkl_path() is None,
                    reason="nothing is lost on such a machine")
def test_paddle_first_is_told_once_what_is_lost():
    done = fresh("import paddle, beitv2_core, beitv2_core.runtime")
    assert done.stderr.count("paddle was imported first") == 1
    assert "import beitv2_core` before `import paddle" in done.stderr


def test_nothing_alarming_is_shown_when_paddle_starts():
    """Neither Paddle's remark on the threads we set nor the one on ccache; what else it says comes through."""
    done = fresh("import beitv2_core, sys, paddle, warnings; print('said', file=sys.stderr); warnings.warn('too')")
    assert "OMP_NUM_THREADS" not in done.stderr and "ccache" not in done.stderr
    assert "said\n" in done.stderr and "UserWarning: too" in done.stderr


def test_paddles_remark_on_the_users_own_threads_stays():
    assert "OMP_NUM_THREADS set to 3" in fresh("import beitv2_core, paddle", OMP_NUM_THREADS="3").stderr


def test_a_stream_without_alarms_passes_everything_else_on(capsys):
    stream = runtime._Without(sys.stderr)
    for text in ("WARNING: OMP_NUM_THREADS set to 8, not 1.", "\n", "one\ntw",
                 "o\nPLEASE USE OMP_NUM_THREADS WISELY.\nhalf"):
        print(text, end="", file=stream)
    stream.done()
    print(" a line", file=stream)
    assert capsys.readouterr().err == "one\ntwo\nhalf a line\n"


def test_looking_for_paddle_without_importing_it_keeps_its_start_quiet():
    code = "import importlib.util, beitv2_core; assert importlib.util.find_spec('paddle'); import paddle"
    assert "OMP_NUM_THREADS" not in fresh(code).stderr


MAPPED = """
import beitv2_core, paddle, ctypes
paddle.matmul(paddle.ones([64, 64]), paddle.ones([64, 64]))
paths = {line.split()[-1] for line in open('/proc/self/maps') if 'libiomp5' in line}
print(*[ctypes.CDLL(path).omp_get_max_threads() for path in paths])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="finds the OpenMP library in /proc")
@pytest.mark.parametrize("number", [None, "1", "3"])
def test_paddle_computes_in_as_many_threads_as_were_set(number):
    shown = fresh(MAPPED, **({} if number is None else {"OMP_NUM_THREADS": number})).stdout.split()
    assert shown == [number or str(runtime.threads())]


LAUNCHES = {
    "counted": {"PADDLE_LOCAL_SIZE": "2", "PADDLE_TRAINER_ID": "0"},
    "by addresses": {"PADDLE_TRAINER_ENDPOINTS": "10.0.0.1:1,10.0.0.1:2,10.0.0.2:1,10.0.0.2:2",
                     "PADDLE_CURRENT_ENDPOINT": "10.0.0.2:1", "PADDLE_TRAINER_ID": "2"},
}
SHOW = "import beitv2_core, os; print(os.environ['OMP_NUM_THREADS'])"


@TWO_CORES
@pytest.mark.parametrize("launch", LAUNCHES.values(), ids=LAUNCHES)
def test_the_processes_of_a_launch_share_the_cores_of_their_host(launch):
    assert fresh(SHOW, **launch).stdout.split() == [str(runtime.physical_cores() // 2)]
    assert fresh(SHOW, **launch, OMP_NUM_THREADS="5").stdout.split() == ["5"]


def test_more_processes_than_cores_have_a_thread_each():
    assert fresh(SHOW, PADDLE_LOCAL_SIZE="1000").stdout.split() == ["1"]


@TWO_CORES
@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("own", [None, "1"])
def test_under_the_launcher_the_threads_are_the_users_or_a_share_of_the_cores(tmp_path, processes, own):
    """The launcher's own `import paddle` exports OMP_NUM_THREADS=1 to its children, which is nobody's choice."""
    script = tmp_path / "show.py"
    script.write_text(f"{SHOW}\n")
    environment = {key: value for key, value in os.environ.items() if key not in NAMES}
    subprocess.run([sys.executable, "-m", "paddle.distributed.launch", "--nproc_per_node", str(processes), "--backend",
                    "gloo", "--log_dir", str(tmp_path / "log"), str(script)], check=True, timeout=120, cwd=tmp_path,
                   capture_output=True, env={**environment, **({} if own is None else {"OMP_NUM_THREADS": own})})
    shown = [path.read_text().split()[-1] for path in sorted((tmp_path / "log").glob("workerlog.*"))]
    assert shown == [own or str(runtime.physical_cores() // processes)] * processes


def test_data_workers_compute_in_one_thread_unless_the_user_says_otherwise(tmp_path):
    script = tmp_path / "load.py"
    script.write_text("""
import os
from beitv2_core.data import Loader, ResumableSampler
class Numbers:
    def __len__(self): return 8
    def load(self, index): return index
def transform(index, rng): return {"threads": int(os.environ["OMP_NUM_THREADS"])}
if __name__ == "__main__":
    with Loader(Numbers(), transform, ResumableSampler(8, batch_size=4), num_workers=2) as loader:
        print(*next(iter(loader))["threads"], os.environ["OMP_NUM_THREADS"])
""")
    for own, expected in ((None, "1"), ("3", "3")):
        environment = {key: value for key, value in os.environ.items() if key not in NAMES}
        shown = subprocess.run([sys.executable, str(script)], text=True, capture_output=True, timeout=60,
                               env={**environment, **({} if own is None else {"OMP_NUM_THREADS": own})})
        assert shown.stdout.split() == [expected] * 4 + [own or str(runtime.threads())], shown.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_importing_the_package_leaves_the_allocator_alone_and_commands_do_not():
    """mallopt is called by the command line and by training, in their own process."""
    code = ("import ctypes; opened, real = [], ctypes.CDLL\n"
            "ctypes.CDLL = lambda name, *rest, **more: (opened.append(name), real(name, *rest, **more))[1]\n"
            "import beitv2_core.data, beitv2_core.config; print('libc.so.6' in opened)\n"
            "from typer.testing import CliRunner; from beitv2_core import cli\n"
            "CliRunner().invoke(cli.app, ['models']); print('libc.so.6' in opened)")
    assert fresh(code).stdout.split() == ["False", "True"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept_unless_the_user_has_set_the_allocator():
    code = "from beitv2_core import runtime; print(runtime.keep_freed_memory())"
    assert fresh(code).stdout.split() == ["True"]
    assert fresh(code, MALLOC_TRIM_THRESHOLD_="100000").stdout.split() == ["False"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_small_objects_do_not_take_the_room_of_freed_tensors():
    """The address of a tensor, and of one of the same size after the first was freed and 4,000 small objects made."""
    code = ("import ctypes; from beitv2_core import runtime; runtime.keep_freed_memory(); import paddle\n"
            "library = ctypes.CDLL('libc.so.6')\n"
            "library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]\n"
            "library.free.argtypes = [ctypes.c_void_p]\n"
            "tensors = [library.malloc(size << 20) for size in (20, 1, 20, 1)]\n"  # the second: apart from what is free
            "library.free(tensors[0])\n"
            "small = [library.malloc(600) for _ in range(4000)]\n"
            "print(tensors[0], library.malloc(20 << 20))")
    before, after = fresh(code).stdout.split()
    assert before == after


AVX2 = "fpu sse4_2 fma avx f16c avx2 bmi2"
AVX512 = f"{AVX2} avx512f avx512dq avx512cd avx512bw avx512vl"
PROCESSORS = {  # vendor, flags -> MKL_DEBUG_CPU_TYPE, multiplies bfloat16
    "Zen 2": ("AuthenticAMD", AVX2, "5", False),
    "Zen 4": ("AuthenticAMD", f"{AVX512} avx512_bf16 avx512_vnni", "7", True),
    "Zen 5": ("AuthenticAMD", f"{AVX512} avx512_bf16 avx512_vnni avx_vnni", "7", True),
    "an AMD host that hides avx512vl": ("AuthenticAMD", AVX512.replace(" avx512vl", ""), "5", False),
    "an AMD host that hides avx512cd": ("AuthenticAMD", AVX512.replace(" avx512cd", ""), "5", False),
    "AMD before AVX2": ("AuthenticAMD", "fpu sse4_2 avx", None, False),
    "Intel Skylake": ("GenuineIntel", AVX512, None, False),
    "Intel Cooper Lake": ("GenuineIntel", f"{AVX512} avx512_bf16", None, True),
    "Intel Sapphire Rapids": ("GenuineIntel", f"{AVX512} avx512_bf16 avx512_fp16 amx_bf16 amx_tile", None, True),
    "Intel Sapphire Rapids, a host that hides AMX": ("GenuineIntel", f"{AVX512} avx512_bf16 avx512_fp16", None, True),
}
SLOWER_IN_BFLOAT16 = "Intel Sapphire Rapids, a host that hides AMX"


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Pretend to run on a processor that this text describes."""
    def pretend(text: str) -> None:
        (tmp_path / "cpuinfo").write_text(text)
        runtime._processor.cache_clear()
        monkeypatch.setattr(runtime, "CPUINFO", str(tmp_path / "cpuinfo"))

    yield pretend
    runtime._processor.cache_clear()


@pytest.mark.parametrize(("vendor", "flags", "path", "bfloat16"), PROCESSORS.values(), ids=PROCESSORS)
def test_mkl_gets_the_widest_kernels_that_cannot_stop_the_process(processor, vendor, flags, path, bfloat16):
    processor(f"processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: AMD or Intel\nflags\t\t: {flags}\n\n")
    assert runtime.mkl_path() == path and runtime.has_bfloat16() is bfloat16
    assert runtime.wanted_environment().get("MKL_DEBUG_CPU_TYPE") == path


@pytest.mark.parametrize("name", PROCESSORS)
def test_bfloat16_units_are_fast_except_intels_without_amx(processor, name):
    vendor, flags, _, bfloat16 = PROCESSORS[name]
    processor(f"vendor_id\t: {vendor}\nflags\t\t: {flags}\n\n")
    assert runtime.fast_bfloat16() is (bfloat16 and name != SLOWER_IN_BFLOAT16)


def test_arm_and_systems_without_cpuinfo_leave_mkl_alone(processor, monkeypatch):
    processor("processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd bf16 sve\nCPU implementer\t: 0x41\n")
    assert runtime.mkl_path() is None and not runtime.has_bfloat16() and "sve" in runtime.cpu_flags()
    monkeypatch.setattr(runtime, "CPUINFO", "/nowhere/cpuinfo")
    assert runtime.mkl_path() is None and runtime.cpu_flags() == frozenset()


def test_the_chosen_path_computes_on_this_machine_and_the_users_own_wins():
    code = ("import beitv2_core, paddle, os; print(os.environ.get('MKL_DEBUG_CPU_TYPE'), "
            "float(paddle.matmul(paddle.ones([64, 64]), paddle.ones([64, 64])).sum()))")
    assert fresh(code).stdout.split() == [str(runtime.mkl_path()), "262144.0"]
    assert fresh(code, MKL_DEBUG_CPU_TYPE="5").stdout.split()[0] == "5"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Intel's OpenMP is found by its Linux name")
def test_waiting_threads_leave_the_cores_to_the_workers_of_a_reader_unless_the_user_decided(tmp_path):
    script = tmp_path / "blocktime.py"
    script.write_text("""
import ctypes, os
from beitv2_core.data import BatchReader
class Numbers:
    def __len__(self): return 8
    def load(self, index): return index
def transform(index, rng): return {"index": index}
if __name__ == "__main__":
    import paddle
    try:
        openmp = ctypes.CDLL("libiomp5.so", mode=os.RTLD_NOLOAD)
    except OSError:
        print("none", "none", "none")
        raise SystemExit
    times = [openmp.kmp_get_blocktime()]
    for workers in (0, 2):
        with BatchReader(Numbers(), transform, num_workers=workers) as reader:
            list(reader.in_order(range(8), 2))
        times.append(openmp.kmp_get_blocktime())
    print(*times)
""")
    environment = {key: value for key, value in os.environ.items()
                   if key not in {*NAMES, "KMP_BLOCKTIME", "OMP_WAIT_POLICY"}}

    def milliseconds(**more: str) -> list[str]:
        return subprocess.run([sys.executable, str(script)], text=True, capture_output=True, timeout=120, check=True,
                              env={**environment, **more}).stdout.split()

    before, alone, with_workers = milliseconds()
    if before == "none":
        pytest.skip("this Paddle brings no OpenMP of Intel")
    assert before == alone != "0" and with_workers == "0"
    assert milliseconds(KMP_BLOCKTIME="50") == ["50"] * 3
