# SPDX-License-Identifier: Apache-2.0
"""`paddle.hub` lists, describes and loads what hubconf.py of this checkout offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
#: hubconf.py makes packages of the checkout importable that are not installed: no other test may find them
PROGRAM = """
import sys

import beitv2_core
import numpy as np
import paddle
from PIL import Image

root, weights = sys.argv[1:]
assert paddle.hub.list(root, source="local") == ["beitv2", "beitv2_backbone"]
assert "eval mode" in paddle.hub.help(root, "beitv2", source="local")
made = paddle.hub.load(root, "beitv2_backbone", source="local", size="tiny", image_size=32, depth=1)
assert made(paddle.zeros([1, 3, 32, 32])).shape == [1, 192]
paddle.save(made.state_dict(), weights)
image = Image.new("RGB", (50, 40), (200, 30, 30))
found = paddle.hub.load(root, "beitv2", source="local", weights=weights)
np.testing.assert_array_equal(found(image), beitv2_core.load(weights)(image))
"""


def test_paddles_hub_lists_describes_and_loads_what_load_loads(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, ROOT, str(tmp_path / "made.pdparams")], capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_checkout_without_installed_packages_is_enough():
    code = f"import sys; sys.path.insert(0, {ROOT!r}); import hubconf, beitv2_core, beitv2_seg; print(hubconf.beitv2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={}, timeout=120)
    assert done.returncode == 0 and "beitv2" in done.stdout, done.stderr
