# SPDX-License-Identifier: Apache-2.0
"""Every released model at its full size: official to ours to official bit for bit, in time and memory.

The base models are converted by default; BEITV2_LARGE=1 adds the large ones (1.2 to 1.8 GB a file).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from full_size import random_state
from golden_io import golden_files, load_golden, parametrize
from model_files import assert_same_tensors

from beitv2_core.weights.reading.foreign import read_tensors
from beitv2_core.weights.writers import write_torch

pytestmark = [pytest.mark.slow,
              pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peak memory is read from Linux")]
SUBJECT = ("schemas_main", "schemas_seg")
CONVERT = """
import json, re, sys, time
from pathlib import Path
from beitv2_core.conversion.convert import convert_file
started = time.perf_counter()
done = convert_file(*sys.argv[1:])
# Not getrusage: a child process starts with its parent's peak there.
peak = int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(json.dumps([done.kind, time.perf_counter() - started, peak]))
"""


def pytest_generate_tests(metafunc):
    found = [(path, name) for path in golden_files(metafunc.config.getoption("--goldens"), SUBJECT)
             for name in load_golden(path)[1]["models"] if "large" not in name or os.environ.get("BEITV2_LARGE")]
    parametrize(metafunc, "path, name", found, [name for _, name in found], " or ".join(SUBJECT))


def convert(*arguments) -> list:
    """Kind, seconds and peak memory in bytes of a conversion in a process of its own."""
    done = subprocess.run([sys.executable, "-c", CONVERT, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_released_model_comes_back_bit_for_bit(path, name, tmp_path):
    state = random_state(load_golden(path)[1]["models"][name]["schema"])
    source, ours, back = (tmp_path / file for file in ("a.pth", "a.safetensors", "b.pth"))
    write_torch(source, state, "model")
    size = source.stat().st_size
    there, again = convert(source, ours, "ours"), convert(ours, back, "official")
    expected = {"vqkd": "tokenizer", "clip": "clip", "dino": "dino", "uper": "segmentation"}
    kind = expected.get(name[:4], "pretraining" if "vocab" in name else "classifier")
    assert there[0] == again[0] == kind
    assert_same_tensors(read_tensors(back)[0], state)
    seconds, memory = there[1] + again[1], max(there[2], again[2])
    print(f"{name}: {seconds:.1f} s, {memory / size:.2f} x {size / 1e6:.0f} MB")
    assert memory < 3 * size
    assert seconds < 60
    for file in (source, ours, back):
        file.unlink()
