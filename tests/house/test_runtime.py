"""What is set before Paddle loads: never over the user's own choice, and said once when it comes too late."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from beitv2_core import runtime

NAMES = ("OMP_NUM_THREADS", "MKL_DEBUG_CPU_TYPE", "FLAGS_use_stride_kernel", "MALLOC_TRIM_THRESHOLD_")


def fresh(code: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key not in NAMES}
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


@pytest.mark.skipif(runtime.physical_cores() == 1 and not runtime.is_amd(), reason="nothing is lost on such a machine")
def test_paddle_first_is_told_once_what_is_lost():
    done = fresh("import paddle, beitv2_core, beitv2_core.runtime")
    assert done.stderr.count("paddle was imported first") == 1
    assert "import beitv2_core` before `import paddle" in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_kept_unless_the_user_has_set_the_allocator():
    code = "from beitv2_core import runtime; print(runtime.keep_freed_memory())"
    assert fresh(code).stdout.split() == ["True"]
    assert fresh(code, MALLOC_TRIM_THRESHOLD_="100000").stdout.split() == ["False"]
