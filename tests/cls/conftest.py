# SPDX-License-Identifier: Apache-2.0
"""Tests start in an empty folder: settings name runs of the demonstrations, which may lie in the checkout."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def empty_folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
