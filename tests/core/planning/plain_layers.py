"""The formulation of the layers that a GPU runs, on the CPU."""

from __future__ import annotations

import importlib
import pkgutil

import beitv2_core.layers


def use_plain_layers(monkeypatch) -> None:
    """Switch the hand-written CPU gradients off, so that Paddle's own operations save what they need."""
    for found in pkgutil.iter_modules(beitv2_core.layers.__path__):
        module = importlib.import_module(f"beitv2_core.layers.{found.name}")
        for name in ("on_cpu", "uses_cpu_gradients"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, lambda x: False)
