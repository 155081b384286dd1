# SPDX-License-Identifier: Apache-2.0
"""Arguments that several functions share."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import yaml

from ..errors import ConfigError
from ..runtime import threads

#: one path, or several
Paths = Union[str, Path, Sequence[Union[str, Path]]]
#: changed settings: {"optim.lr": 1e-3}, or texts as after --set: ["optim.lr=1e-3"]
Changes = Union[Mapping[str, Any], Sequence[str]]


def paths_of(given: Paths) -> list[str]:
    """One path or several as a list of texts; a text with bytes that are no UTF-8 stays as it is."""
    return [os.fspath(one) for one in ([given] if isinstance(given, (str, Path)) else given)]


def overrides_of(changes: Changes, out: Union[str, Path, None] = None) -> list[str]:
    """Changed settings and the run folder as `key=value` texts, which `load_config` parses.

    Raises ConfigError for one text where several were expected.
    """
    if isinstance(changes, str):
        raise ConfigError(f"set is the text {changes!r}; expected a dictionary {{'optim.lr': 1e-3}} or a list of "
                          "'key=value' texts.")
    texts = [f"{key}={_yaml(value)}" for key, value in changes.items()] if isinstance(changes, Mapping) else [*changes]
    return texts if out is None else [*texts, f"output={str(out)!r}"]


def _yaml(value: Any) -> str:
    plain = os.fspath(value) if isinstance(value, os.PathLike) else list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


@contextlib.contextmanager
def live_model(run: Union[str, Path], *, runtime: Optional[str], precision: str) -> Iterator[None]:
    """The block in which a live model computes as `precision` asks for.

    Raises ConfigError for a runtime and int8, which are of exported models, and for bf16 where this device does not
    compute it.
    """
    from ..inference.loaded import check_live

    check_live(str(run), runtime=runtime, precision=precision)
    from ..layers.fast.products import mixed_precision

    with mixed_precision("bf16" if precision == "bf16" else "off"):
        yield


def workers(asked: Optional[int]) -> int:
    """The number of worker processes that was asked for, by default this process's share of the cores."""
    return threads() if asked is None else asked


def run_folder_of(run: Union[str, Path]) -> Path:
    """The run folder of a run folder (also of both stages) or of a checkpoint; the current folder otherwise."""
    from ..assembly.loaded_weights import stage_of

    path = Path(run)
    if stage_of(path) != path:
        return path
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "checkpoints").is_dir():
            return folder
    return Path(".")
