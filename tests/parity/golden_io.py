# SPDX-License-Identifier: Apache-2.0
"""Reading golden fixtures and comparing with them, within the limits their README states for another framework."""

from __future__ import annotations

import ast
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
OURS = HERE.parent / "goldens"
# {(fixture, what was compared): largest error as a share of its limit}; printed when the tests are done.
WORST: dict[tuple[str, str], float] = {}


def note(kind: str, share: float) -> None:
    """Remember the largest error of the running test's fixture."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rsplit(" ", 1)[0]
    fixture = test[test.index("[") + 1:test.rindex("]")] if "[" in test else test.rsplit("::", 1)[-1]
    WORST[fixture, kind] = max(WORST.get((fixture, kind), 0.0), float(share))


def golden_files(folder: Path, subjects: str | tuple[str, ...]) -> list[Path]:
    """The JSON file of every fixture of `subjects` in a folder: `name.json` or `name_*.json`, whatever its sizes."""
    if isinstance(subjects, str):
        subjects = (subjects,)
    return sorted(path for path in folder.glob("*.json")
                  if any(path.stem == name or path.stem.startswith(name + "_") for name in subjects))


@lru_cache(maxsize=1)
def subjects() -> tuple[str, ...]:
    """The SUBJECT of every parity test."""
    found: dict[str, None] = {}
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SUBJECT":
                value = ast.literal_eval(node.value)
                found.update(dict.fromkeys([value] if isinstance(value, str) else value))
    return tuple(found)


def refuse_empty(folder: Path) -> None:
    """pytest.UsageError for a folder that is not there, or in which no parity test would find its fixture."""
    if not folder.is_dir():
        raise pytest.UsageError(f"--goldens {folder}: no such folder. Give one that holds NAME.json and NAME.npz.")
    if not golden_files(folder, subjects()):
        here = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise pytest.UsageError(f"--goldens {folder}: no fixture that a test knows, nothing would be compared; here: "
                                f"{here}. Expected one or more of {', '.join(f'{name}*.json' for name in subjects())}.")


def parametrize(metafunc: pytest.Metafunc, names: str, found: list[Any], ids: list[str], wanted: str) -> None:
    """One case for each of `found`; without any, one that is skipped and says which fixture is absent.

    Our own folder has every fixture: there nothing found is left to fail, as any empty parametrisation does.
    """
    folder = metafunc.config.getoption("--goldens")
    if not found and folder.resolve() != OURS:
        absent = pytest.mark.skip(reason=f"{folder} holds no {wanted}")
        found, ids = [pytest.param(*[None] * len(names.split(",")), marks=absent)], ["absent"]
    metafunc.parametrize(names, found, ids=ids)


def load_golden(path: Path) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays (empty for JSON-only fixtures) and description of one fixture."""
    meta = json.loads(path.read_text())
    arrays = path.with_suffix(".npz")
    if not arrays.exists():
        assert not meta.get("arrays"), f"{path} lists arrays, and {arrays.name} is not beside it"
        return {}, meta
    with np.load(arrays, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}, meta


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Arrays whose key starts with `prefix`/, keyed by the rest."""
    return {key[len(prefix) + 1:]: array for key, array in arrays.items() if key.startswith(prefix + "/")}


def as_array(value) -> np.ndarray:
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def assert_close_output(got, reference, name: str) -> None:
    """Outputs and losses: |difference| <= 1e-5 + 1e-5 * max|reference|."""
    got, reference = as_array(got), as_array(reference)
    assert got.shape == reference.shape, f"{name}: shape {got.shape}, the official code gives {reference.shape}"
    worst, limit = np.abs(got - reference).max(), 1e-5 + 1e-5 * np.abs(reference).max()
    note("output", worst / limit)
    assert worst <= limit, f"{name}: differs by {worst:.3g}, allowed {limit:.3g}"


def assert_close_grad(got, reference, name: str) -> None:
    """Gradients: relative L2 per tensor < 1e-4; gradients that are mathematically zero: below 1e-5 absolute."""
    got, reference = as_array(got).astype(np.float64), as_array(reference).astype(np.float64)
    assert got.shape == reference.shape, f"{name}: shape {got.shape}, the official code gives {reference.shape}"
    if np.abs(reference).max() < 1e-6:
        assert np.abs(got).max() < 1e-5, f"{name}: {np.abs(got).max():.3g} where the gradient is zero"
        return
    relative = np.linalg.norm(got - reference) / np.linalg.norm(reference)
    note("gradient", relative / 1e-4)
    assert relative < 1e-4, f"{name}: relative L2 {relative:.3g}, allowed 1e-4"


def assert_close_update(before, got, reference, name: str, max_abs: float = np.inf) -> None:
    """Parameter updates: relative L2 of the change < 5e-3, and `max_abs` (0.1 * lr * steps)."""
    before, got, reference = (as_array(a).astype(np.float64) for a in (before, got, reference))
    size = np.linalg.norm(reference - before)
    difference = np.linalg.norm(got - reference)
    note("update", difference / (5e-3 * size + 1e-12))
    assert difference <= 5e-3 * size + 1e-12, f"{name}: update off by {difference / max(size, 1e-30):.3g}, allowed 5e-3"
    worst = np.abs(got - reference).max(initial=0.0)
    assert worst < max_abs, f"{name}: parameter off by {worst:.3g}, allowed {max_abs:.3g}"


def official_usage(cluster_size: np.ndarray, codes: np.ndarray, decay: float) -> np.ndarray:
    """The official `cluster_size` after tokenizing, which the official code moves in eval mode too, and ours does not.

    Source: official norm_ema_quantizer.py, forward.
    """
    bins = np.bincount(codes.reshape(-1), minlength=len(cluster_size)).astype(np.float32)
    return (cluster_size * np.float32(decay) + bins * np.float32(1 - decay)).astype(np.float32)
