# SPDX-License-Identifier: Apache-2.0
"""`paddle.hub` lists, describes and loads what hubconf.py of this checkout offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

import beitv2_core

ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture(autouse=True)
def own_path(monkeypatch):
    """hubconf.py puts packages of the checkout on the path that are not installed: other tests must not find them."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_paddles_hub_lists_and_describes_the_entry_points():
    assert paddle.hub.list(ROOT, source="local") == ["beitv2", "beitv2_backbone"]
    assert "eval mode" in paddle.hub.help(ROOT, "beitv2", source="local")


def test_paddles_hub_loads_what_load_loads(tmp_path):
    made = paddle.hub.load(ROOT, "beitv2_backbone", source="local", size="tiny", image_size=32, depth=1)
    assert made(paddle.zeros([1, 3, 32, 32])).shape == [1, 192]
    paddle.save(made.state_dict(), str(tmp_path / "made.pdparams"))
    image = Image.new("RGB", (50, 40), (200, 30, 30))
    found = paddle.hub.load(ROOT, "beitv2", source="local", weights=str(tmp_path / "made.pdparams"))
    np.testing.assert_array_equal(found(image), beitv2_core.load(tmp_path / "made.pdparams")(image))


def test_a_checkout_without_installed_packages_is_enough():
    code = f"import sys; sys.path.insert(0, {ROOT!r}); import hubconf, beitv2_core, beitv2_seg; print(hubconf.beitv2)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={}, timeout=120)
    assert done.returncode == 0 and "beitv2" in done.stdout, done.stderr
