# SPDX-License-Identifier: Apache-2.0
"""Identify the model in a file of weights and the names it uses, and translate it to our names without loss.

Kinds are given (`weights.kind.Kind`): core's own and those of installed packages.  Formats: ours, official,
huggingface, timm, paddleclas; not every kind exists in every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError
from beitv2_core.rel_pos_index import window_of
from beitv2_core.weights.architecture import ShapeReader
from beitv2_core.weights.formats import KEYMAPS, Arrays, translate
from beitv2_core.weights.keymaps.official import INDEX, TABLE
from beitv2_core.weights.kind import Kind, Shapes
from beitv2_core.weights.places import Place, Tensors, flat, places, preferred

Kinds = Mapping[str, Kind]
#: name and shape of every tensor a model of a kind and architecture holds, in order
ShapesOf = Callable[[Kind, Mapping[str, Any]], Shapes]
_LINEARS = ("attn.qkv.weight", "mlp.fc1.weight", "mlp.fc2.weight", "attn.in_proj_weight", "mlp.c_fc.weight")


class IdentifiedWeights(NamedTuple):
    """Weights under our names, and what is needed to write the original file again.

    container: dotted name of the dictionary the model was taken from, "" for the top of the file.  prefix: before every
    name of the model in there.  unmapped: tensors of that container that our names cannot give back, under the file's
    names.  missing_in_source: names the format has and the file had not.  extra: tensors between the model's that it
    does not know, under our names; a loader refuses them.  others: other models of the file, which were not taken.
    assumed: values that weights do not tell, taken from the published models.  classes: names of the classes,
    where the file has them.  converted: the file is one that `beitv2 convert` wrote, `origin` what it was converted
    from.  trained: it is a run of ours, whose settings hold what weights do not tell.
    """

    kind: str
    origin: str
    weights: dict[str, NDArray[Any]]
    architecture: dict[str, Any]
    prefix: str = ""
    unmapped: Mapping[str, NDArray[Any]] = {}
    missing_in_source: tuple[str, ...] = ()
    container: str = ""
    extra: Mapping[str, NDArray[Any]] = {}
    others: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    classes: Optional[tuple[str, ...]] = None
    converted: bool = False
    trained: bool = False

    def taken(self) -> str:
        """One line: the model, its container and prefix, and the other models of the file."""
        if self.converted:
            return f"{self.kind}, converted from {self.origin}"
        text = f"{self.kind}, {self.origin} names"
        text += f"; taken from {self.container!r}" if self.container else ""
        text += f"; stripped {self.prefix!r} before every name" if self.prefix else ""
        text += f"; not taken: {', '.join(self.others)} (averaged weights: ema)" if self.others else ""
        return text + "".join(f"; assumed {line}" for line in self.assumed)


class _Candidate(NamedTuple):
    """A model that was found in a file: where, whose names, and the kinds that fit."""

    place: Place
    origin: str
    kinds: list[str]
    ours: dict[str, NDArray[Any]]
    owned: frozenset[str]

    def __str__(self) -> str:
        return f"{self.place.start.rstrip('.') or 'the top of the file'!r} ({' or '.join(self.kinds)})"


def identify(state: Mapping[Any, Any], kinds: Kinds, shapes_of: ShapesOf, *, origin: Optional[str] = None,
             ema: Optional[bool] = None, grid: Optional[tuple[int, int]] = None, hints: Mapping[str, Any] = {},
             settings: Optional[Mapping[str, Any]] = None) -> IdentifiedWeights:
    """The model in a file, of any kind, origin, container and prefix.

    state: tensors by name, or dictionaries of them in any nesting, as the file has them.  kinds: by name, those that
    are looked for.  origin: "ours" where it is known; otherwise it is found out.  ema: True for averaged weights
    (`model_ema`, `state_dict_ema`, a teacher), False for the others, None for the trained ones where there are both (of
    student and teacher the teacher).  grid, hints and settings: values that weights do not tell (`ShapeReader`).
    Raises CheckpointError where no model or more than one fits, with what was looked for; where tensors of the
    kind are missing or of another shape, and names them.
    """
    tensors = flat(state)
    found = _chosen(tensors, kinds, origin, ema)
    if len(found[0].kinds) > 1:
        raise CheckpointError(f"it could be {' or '.join(found[0].kinds)}. {_looked_for(kinds)} "
                              f"{_names(tensors.arrays)}")
    (place, origin, (name,), ours, _), others = found
    kind = kinds[name]
    origin = "official" if origin in ("clip", "dino") else origin
    inner = {plain: tensors.arrays[name] for plain, name in place.names.items()}
    reader = ShapeReader(ours, origin=origin, grid=grid or _stored_grid(inner), hints=kind.given(hints),
                         settings=settings)
    architecture = kind.read(reader)
    shapes = shapes_of(kind, architecture)
    check_shapes(ours, shapes)
    weights = {name: ours[name] for name in shapes}
    there = translate(origin, kind, weights, architecture)
    container, prefix = _split(place.start, tensors)
    behind = len(container) + 1 if container else 0
    boxes = {container, *(tensors.container[place.names[name]] for name in there if name in place.names)}
    beside = {name[behind:]: array for name, array in tensors.arrays.items() if tensors.container[name] in boxes}
    unmapped = {name: array for name, array in beside.items()
                if not name.startswith(prefix) or not identical(there.get(name[len(prefix):]), array)}
    missing = tuple(sorted(name for name in there if prefix + name not in beside))
    starts = tuple(other.place.start for other in others)
    extra = {name: array for name, array in ours.items()
             if name not in shapes and not name.startswith(_beside(kinds)) and array.ndim
             and (name not in place.names or tensors.container[place.names[name]] in boxes
                  and not (starts and place.names[name].startswith(starts)))}
    return IdentifiedWeights(kind.name, origin, weights, architecture, prefix, unmapped, missing, container, extra,
                             tuple(map(str, others)), tuple(reader.assumed))


def tensors_of(kind: Kind, state: Mapping[Any, Any]) -> dict[str, NDArray[Any]]:
    """The tensors of a model of a kind, under the file's names without their common prefix.

    All tensors where no such model was found: a strict load then names what is missing.
    """
    tensors = flat(state)
    found = preferred(_candidates(tensors, {kind.name: kind}, None)[0], None)
    names = found[0].place.names if found else {name: name for name in tensors.arrays}
    return {plain: tensors.arrays[name] for plain, name in names.items()}


def _candidates(tensors: Tensors, kinds: Kinds,
                origin: Optional[str]) -> tuple[list[_Candidate], list[CheckpointError]]:
    """Every model of a file that is no part of another, and why some beginnings could not be read."""
    found, reasons = [], []
    parts_known = frozenset().union(*(kind.parts for kind in kinds.values()))
    known = parts_known - {part.rstrip(".") for part in _beside(kinds)}
    for place in places(tensors.arrays):
        inner = {plain: tensors.arrays[name] for plain, name in place.names.items()}
        try:
            names = origin or _origin_of({name: array for name, array in inner.items() if name.split(".")[0] in known})
        except CheckpointError as error:
            reasons.append(error)
            continue
        ours = KEYMAPS[names][0](inner) if names else {}
        fitting = [kind for kind in kinds.values() if all(name in ours for name in kind.marks)
                   and not any(name in ours for name in kind.unlike)]
        if fitting and (names != "dino" or "pos_embed" in inner):  # that keymap strips prefixes of its own
            parts = frozenset().union(*(kind.parts for kind in fitting))
            owned = frozenset(name for plain, name in place.names.items() if plain.split(".")[0] in parts)
            found.append(_Candidate(place, names, [kind.name for kind in fitting], ours, owned))
    # A trunk inside a larger model is no model of its own; of two beginnings of one model the longer is its prefix,
    # but for `visual.`, which belongs to the names of the format.
    found.sort(key=lambda one: one.place.start.endswith("visual."))
    found = [one for i, one in enumerate(found)
             if not any(one.owned < other.owned or one.owned == other.owned and j < i for j, other in enumerate(found))]
    return found, reasons


def _chosen(tensors: Tensors, kinds: Kinds, origin: Optional[str],
            ema: Optional[bool]) -> tuple[_Candidate, list[_Candidate]]:
    """The model that is meant, and the others of the file."""
    found, reasons = _candidates(tensors, kinds, origin)
    if not found:
        raise reasons[-1] if reasons else CheckpointError(
            f"no kind of model was recognised. {_looked_for(kinds)} {_names(tensors.arrays)}")
    left = preferred(found, ema)
    if not left:
        asked, flag = ("averaged weights (ema)", "ema") if ema else ("weights that are not averaged", "no ema")
        raise CheckpointError(f"it has no {asked}; it has {', '.join(map(str, found))}. Leave out {flag}.")
    if len(left) > 1 and not all(_same(left[0], other) for other in left[1:]):
        raise CheckpointError(f"it holds {len(left)} models: {', '.join(map(str, left))}. Save the one that is meant "
                              "alone.")
    return left[0], [one for one in found if one is not left[0]]


def _same(one: _Candidate, other: _Candidate) -> bool:
    return one.origin == other.origin and set(one.ours) == set(other.ours) and all(
        identical(array, other.ours[name]) for name, array in one.ours.items())


def _split(start: str, tensors: Tensors) -> tuple[str, str]:
    """A beginning of names as the dictionary that holds the model, and the prefix of the names in it."""
    boxes = set(tensors.container.values())
    parts = start.split(".")[:-1]
    for count in range(len(parts), 0, -1):
        box = ".".join(parts[:count])
        if box in boxes:
            return box, start[len(box) + 1:]
    return "", start


def check_shapes(ours: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """CheckpointError naming the tensors that are missing or have another shape."""
    missing = [name for name in shapes if name not in ours]
    wrong = [f"{name} {tuple(ours[name].shape)} instead of {shape}" for name, shape in shapes.items()
             if name in ours and tuple(ours[name].shape) != tuple(shape)]
    for names, what in ((missing, "missing"), (wrong, "of another shape")):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise CheckpointError(f"{what}: {', '.join(names[:4])}{more}. The file is incomplete or damaged.")


def _origin_of(state: Arrays) -> str:
    """The format of the names; empty where no linear layer tells it."""
    names = set(state)
    if any(name.endswith("class_embedding") for name in names) and any(n.endswith("conv1.weight") for n in names):
        return "clip" if _torch_layout(state) else "ours"
    if any(name.endswith("embeddings.patch_embeddings.projection.weight") for name in names):
        return "huggingface"
    torch = _torch_layout(state)
    if torch is None:
        return ""
    if not torch:
        fused = any(name.endswith("attn.qkv.bias") for name in names)
        tables = any(name.endswith(TABLE) for name in names) or "head.fc_head.weight" in names
        return "paddleclas" if fused and tables else "ours"
    if any(name.endswith("attn.qkv.bias") for name in names):
        return "dino"
    indexed = any(name.endswith(INDEX) for name in names)
    trunk_only = not any(name.startswith(("encoder.", "backbone.", "lm_head.")) for name in names)
    return "timm" if trunk_only and not indexed and any(name.endswith(TABLE) for name in names) else "official"


def _torch_layout(state: Arrays) -> bool | None:
    """True where linear weights are (out, in), False where (in, out); None without one that tells."""
    answers = set()
    for name, array in state.items():
        ending = next((end for end in _LINEARS if name.endswith(end)), None)
        if ending is None or array.ndim != 2 or array.shape[0] == array.shape[1]:
            continue
        norm = state.get(name[: -len(ending)] + ("ln_1.weight" if ".resblocks." in name else "norm1.weight"))
        if norm is not None:
            width = norm.shape[0]
            grows = not ending.startswith("mlp.fc2")
            answers.add(array.shape[1 if grows else 0] == width)
    if len(answers) > 1:
        raise CheckpointError("some linear weights are (out, in) and some (in, out). The file mixes two formats, or "
                              "its shapes are damaged.")
    return answers.pop() if answers else None


def _stored_grid(state: Arrays) -> tuple[int, int] | None:
    """The window an index buffer of the file was made for, where it is not square."""
    for name, index in state.items():
        if name.endswith(INDEX):
            table = state.get(name[: -len(INDEX)] + TABLE)
            return window_of(len(table), index) if table is not None else None
    return None


def identical(there: NDArray[Any] | None, array: NDArray[Any]) -> bool:
    """Bit for bit the same; views of one place in memory are not read."""
    if there is None or there.dtype != array.dtype or there.shape != array.shape:
        return False
    if there.__array_interface__["data"][0] == array.__array_interface__["data"][0] and there.strides == array.strides:
        return True
    bits = f"u{there.dtype.itemsize}" if there.dtype.itemsize <= 8 else there.dtype
    return bool(np.array_equal(there.view(bits), array.view(bits)))


def _beside(kinds: Kinds) -> tuple[str, ...]:
    return tuple(beginning for kind in kinds.values() for beginning in kind.beside)


def _looked_for(kinds: Kinds) -> str:
    return "Looked for: " + "; ".join(f"{kind.name} ({', '.join(kind.marks)})" for kind in kinds.values()) + "."


def _names(state: Arrays) -> str:
    names = list(state)
    return f"Found {len(names)} tensors: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}."
