# SPDX-License-Identifier: Apache-2.0
"""The formulation of the layers that a GPU runs, on the CPU."""

from __future__ import annotations

from beitv2_core.layers.fast.linear import SWITCH


def use_plain_layers(monkeypatch) -> None:
    """Switch the hand-written CPU forms off, so that Paddle's own operations save what they need."""
    monkeypatch.setenv(SWITCH, "1")
