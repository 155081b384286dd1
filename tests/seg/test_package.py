# SPDX-License-Identifier: Apache-2.0
"""The package stands on its own."""

from __future__ import annotations

from importlib import metadata

import beitv2_seg


def test_version_is_the_installed_one():
    assert beitv2_seg.__version__ == metadata.version("beitv2-seg")
