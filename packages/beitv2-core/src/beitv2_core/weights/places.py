# SPDX-License-Identifier: Apache-2.0
"""Where the models of a weights file lie: the containers they were saved in, the wrappers before their names.

A file's dictionaries are read as one list of dotted names, so that a container (`{"model": {...}}`) and a wrapper of
the names (`module.blocks.0...`) are the same thing: a beginning that all names of a model share.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError

#: parts of names that wrappers put inside: data parallel, torch.compile, FSDP, activation checkpointing
_INSIDE = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
#: ends of names that tell where a trunk lies, in any format
_ANCHORS = re.compile(r"(?:^|.*\.)(?=(?:cls_token|patch_embed\.proj\.weight|blocks\.0\.attn\.qkv\.weight|"
                      r"class_embedding|embeddings\.cls_token|embeddings\.patch_embeddings\.projection\.weight)$)")
#: dictionaries that hold numbers of the training in the shapes, and often the names, of weights
_TRAINING = re.compile(r"(^|_)(opt|optim|optimizers?|lr|sched|schedulers?|scaler|amp|rng|exp_avg\w*|moments?\d*)(_|$)",
                       re.IGNORECASE)
#: a part of a beginning that marks a running average of the weights
_AVERAGED = re.compile(r"(^|_)(ema|swa|averaged?|shadow|teacher|momentum|moving)(_|\d|$)", re.IGNORECASE)
_STUDENT, _TEACHER = (re.compile(rf"(^|_){word}(_|$)", re.IGNORECASE) for word in ("student", "teacher"))
_DEEPEST, _MOST_PLACES = 8, 64


class Tensors(NamedTuple):
    """Every tensor of a file by its dotted name, and the dotted name of the dictionary it stood in ("": the top)."""

    arrays: dict[str, NDArray[Any]]
    container: dict[str, str]


class Place(NamedTuple):
    """A beginning of names, and the tensors behind it: name without wrappers -> name in the file."""

    start: str
    names: dict[str, str]

    @property
    def averaged(self) -> bool:
        """The beginning marks averaged weights (EMA, a teacher)."""
        return any(_AVERAGED.search(part) for part in self.start.split("."))

    def says(self, word: re.Pattern[str]) -> bool:
        """Whether a part of the beginning is that word."""
        return any(word.search(part) for part in self.start.split("."))


def flat(state: Mapping[Any, Any]) -> Tensors:
    """All tensors of nested dictionaries; a dictionary that is referred to twice counts once, the optimizer's never."""
    arrays: dict[str, NDArray[Any]] = {}
    container: dict[str, str] = {}
    waiting, seen = [("", state, 0)], {id(state)}
    while waiting:
        path, mapping, depth = waiting.pop(0)
        start = f"{path}." if path else ""
        for key, value in mapping.items():
            name = f"{start}{key}"
            if isinstance(value, np.ndarray):
                if name not in arrays:
                    arrays[name], container[name] = value, path
            elif isinstance(value, Mapping) and id(value) not in seen and depth < _DEEPEST:
                seen.add(id(value))
                if not _TRAINING.search(str(key)):
                    waiting.append((name, value, depth + 1))
    return Tensors(arrays, container)


def places(names: Iterable[str]) -> list[Place]:
    """Every beginning of names that a model may have, the longest first; CheckpointError for more than 64."""
    return _places(names, (found[0] for found in map(_ANCHORS.match, names) if found))


def places_for(names: Iterable[str], wanted: Iterable[str]) -> list[Place]:
    """As `places`, for a model of which all names are known."""
    known = set(wanted)
    ends = ((name, name.split(".")) for name in names)
    return _places(names, (name[: len(name) - len(end)] for name, parts in ends for end in
                           (".".join(parts[count:]) for count in range(len(parts))) if end in known))


def _places(names: Iterable[str], beginnings: Iterable[str]) -> list[Place]:
    names, starts = list(names), {""}
    for beginning in beginnings:
        parts = beginning.split(".")[:-1]
        starts.update(".".join([*parts[:count], ""]) for count in range(1, len(parts) + 1))
        if len(starts) > _MOST_PLACES:
            raise CheckpointError(f"it holds more than {_MOST_PLACES} models or beginnings of names. Save the model "
                                  "that is meant alone.")
    return [_place(names, start) for start in sorted(starts, key=lambda start: (-len(start), start))]


def _place(names: Iterable[str], start: str) -> Place:
    inside = {name: name[len(start):].split(".") for name in names if name.startswith(start)}
    wrapped = {name for name, parts in inside.items() if not _INSIDE.isdisjoint(parts)}
    plain = {name[len(start):]: name for name in inside if name not in wrapped}
    for name in inside:
        if name in wrapped:
            bare = ".".join(part for part in inside[name] if part not in _INSIDE)
            plain[name[len(start):] if bare in plain else bare] = name
    return Place(start, plain)


def preferred(found: list[Any], ema: Optional[bool]) -> list[Any]:
    """Of things with a `place`: the averaged weights (True), the others (False), or the default (None).

    Default: the trained weights, not their average; of a student and its teacher the teacher, as their authors
    publish and evaluate it.  Empty where there are no such weights.
    """
    if ema is not None:
        return [one for one in found if one.place.averaged == ema]
    if any(one.place.says(_STUDENT) for one in found):
        teachers = [one for one in found if one.place.says(_TEACHER)]
        if teachers:
            return teachers
    return [one for one in found if not one.place.averaged] or found
