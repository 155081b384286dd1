# SPDX-License-Identifier: Apache-2.0
"""Which model a file of weights holds, whose names it uses, and how to go from one to the other without losing a bit.

Kinds: tokenizer, pretraining, classifier, backbone (a trunk alone), segmentation, clip and dino (teachers).
Formats: ours, official, huggingface, timm, paddleclas; not every kind exists in every format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from beitv2_core.errors import CheckpointError
from beitv2_core.rel_pos_index import window_of
from beitv2_core.weights.architecture import read_architecture
from beitv2_core.weights.formats import KEYMAPS, Arrays, translate
from beitv2_core.weights.keymaps.official import INDEX, TABLE
from beitv2_core.weights.places import Place, Tensors, flat, places, preferred
from beitv2_core.weights.shapes import shapes_of

#: what tells each kind, under our names; the first column must be there, none of the second
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "tokenizer": (("quantize.codebook", "encoder.cls_token", "decode_task_layer.2.weight"), ()),
    "segmentation": (("decode_head.conv_seg.weight", "auxiliary_head.conv_seg.weight", "backbone.cls_token"), ()),
    "pretraining": (("lm_head.weight", "mask_token", "blocks.0.attn.qkv.weight"), ()),
    "classifier": (("head.weight", "cls_token", "blocks.0.attn.qkv.weight"), ()),
    "clip": (("class_embedding", "positional_embedding", "conv1.weight", "proj"), ()),
    "dino": (("blocks.0.attn.qkv.bias", "pos_embed", "norm.weight"), ("head.weight", "blocks.0.attn.q_bias")),
    "backbone": (("cls_token", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
                 ("head.weight", "lm_head.weight", "quantize.codebook", "blocks.0.attn.qkv.bias")),
}
_BESIDE = ("teacher_model.", "scaling_layer.", "loss.")  # of a released tokenizer file
#: first parts of the names a kind has, in any format: what belongs to it in a file of several models
_TRUNK_PARTS = frozenset("""cls_token mask_token pos_embed patch_embed rel_pos_bias blocks norm fc_norm head lm_head
    cls_pt_layers cls_pt_norm cls_pt_lm_head proj beit embeddings encoder layernorm pooler classifier visual
    class_embedding positional_embedding conv1 ln_pre ln_post transformer""".split())
_PARTS = {
    "tokenizer": frozenset("""encoder decoder quantize encode_task_layer decode_task_layer teacher_model scaling_layer
        loss""".split()),
    "segmentation": frozenset(("backbone", "decode_head", "auxiliary_head")),
}
_KNOWN = frozenset().union(_TRUNK_PARTS, *_PARTS.values()) - {part.rstrip(".") for part in _BESIDE}
_LINEARS = ("attn.qkv.weight", "mlp.fc1.weight", "mlp.fc2.weight", "attn.in_proj_weight", "mlp.c_fc.weight")


class Recognised(NamedTuple):
    """Weights under our names, and what it takes to write the file they came from again.

    container: dotted name of the dictionary the model was taken from, "" for the top of the file.  prefix: before every
    name of the model in there.  kept: tensors of that container that our names cannot give back, under the file's
    names.  absent: names the format has and the file had not.  extra: tensors between the model's that it does not
    know, under our names; a loader refuses them.  others: other models of the file, which were not taken.  assumed:
    what weights do not tell and the published models' value was taken for.  classes: names of the classes, where the
    file has them.  converted: the file is one that `beitv2 convert` wrote, `origin` what it was converted from.
    trained: it is a run of ours, whose settings say what weights do not.
    """

    kind: str
    origin: str
    weights: dict[str, np.ndarray]
    architecture: dict[str, Any]
    prefix: str = ""
    kept: Mapping[str, np.ndarray] = {}
    absent: tuple[str, ...] = ()
    container: str = ""
    extra: Mapping[str, np.ndarray] = {}
    others: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    converted: bool = False
    trained: bool = False

    def taken(self) -> str:
        """In one line: which model this is, from which container, under which prefix; what else is there."""
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
    ours: dict[str, np.ndarray]
    owned: frozenset[str]

    def __str__(self) -> str:
        return f"{self.place.start.rstrip('.') or 'the top of the file'!r} ({' or '.join(self.kinds)})"


def recognise(state: Mapping[Any, Any], *, origin: str | None = None, ema: bool | None = None,
              grid: tuple[int, int] | None = None, **hints: Any) -> Recognised:
    """The model in what a file holds, whatever its kind, origin, containers and prefixes.

    state: tensors by name, or dictionaries of them in any nesting, as the file has them.  origin: "ours" where it is
    known; otherwise it is recognised.  ema: True for averaged weights (`model_ema`, `state_dict_ema`, a teacher), False
    for the others, None for the trained ones where there are both (of student and teacher the teacher).  grid and hints
    say what weights cannot (`read_architecture`).
    Raises CheckpointError where nothing or more than one model fits, and says what was looked for; where tensors of the
    kind are missing or of another shape, and names them.
    """
    tensors = flat(state)
    found = _chosen(tensors, origin, ema)
    if len(found[0].kinds) > 1:
        raise CheckpointError(f"it could be {' or '.join(found[0].kinds)}. {_looked_for()} {_names(tensors.arrays)}")
    (place, origin, (kind,), ours, _), others = found
    origin = "official" if origin in ("clip", "dino") else origin
    inner = {plain: tensors.arrays[name] for plain, name in place.names.items()}
    assumed: list[str] = []
    architecture = read_architecture(kind, ours, origin=origin, grid=grid or _stored_grid(inner), assumed=assumed,
                                     **hints)
    bins = {name.split(".")[2] for name in ours if name.startswith("decode_head.psp_modules.")}
    unknown = "pool_scales" in architecture and architecture["pool_scales"] is None  # how many there are is known
    shapes = shapes_of(kind, {**architecture, "pool_scales": [0] * len(bins)} if unknown else architecture)
    check_shapes(ours, shapes)
    weights = {name: ours[name] for name in shapes}
    there = translate(origin, kind, weights, architecture)
    container, prefix = _split(place.start, tensors)
    behind = len(container) + 1 if container else 0
    boxes = {container, *(tensors.container[place.names[name]] for name in there if name in place.names)}
    beside = {name[behind:]: array for name, array in tensors.arrays.items() if tensors.container[name] in boxes}
    kept = {name: array for name, array in beside.items()
            if not name.startswith(prefix) or not identical(there.get(name[len(prefix):]), array)}
    absent = tuple(sorted(name for name in there if prefix + name not in beside))
    starts = tuple(other.place.start for other in others)
    extra = {name: array for name, array in ours.items()
             if name not in shapes and not name.startswith(_BESIDE) and array.ndim
             and (name not in place.names or tensors.container[place.names[name]] in boxes
                  and not (starts and place.names[name].startswith(starts)))}
    return Recognised(kind, origin, weights, architecture, prefix, kept, absent, container, extra,
                      tuple(map(str, others)), tuple(assumed))


def tensors_of(kind: str, state: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """The tensors of a file from where its model of a kind begins, under the file's names without what was before them.

    All tensors where no such model was recognised: who loads them strictly says what is missing.
    """
    tensors = flat(state)
    found = preferred([one for one in _candidates(tensors, None)[0] if kind in one.kinds], None)
    names = found[0].place.names if found else {name: name for name in tensors.arrays}
    return {plain: tensors.arrays[name] for plain, name in names.items()}


def _candidates(tensors: Tensors, origin: str | None) -> tuple[list[_Candidate], list[CheckpointError]]:
    """Every model of a file that is no part of another, and why some beginnings could not be read."""
    found, reasons = [], []
    for place in places(tensors.arrays):
        inner = {plain: tensors.arrays[name] for plain, name in place.names.items()}
        try:
            names = origin or _origin_of({name: array for name, array in inner.items() if name.split(".")[0] in _KNOWN})
        except CheckpointError as error:
            reasons.append(error)
            continue
        ours = KEYMAPS[names][0](inner) if names else {}
        kinds = _kinds_of(ours)
        if kinds and (names != "dino" or "pos_embed" in inner):  # that keymap strips prefixes of its own
            parts = frozenset().union(*(_PARTS.get(kind, _TRUNK_PARTS) for kind in kinds))
            owned = frozenset(name for plain, name in place.names.items() if plain.split(".")[0] in parts)
            found.append(_Candidate(place, names, kinds, ours, owned))
    # A trunk inside a larger model is no model of its own; of two beginnings of one model the longer is its prefix,
    # but for `visual.`, which belongs to the names of the format.
    found.sort(key=lambda one: one.place.start.endswith("visual."))
    found = [one for i, one in enumerate(found)
             if not any(one.owned < other.owned or one.owned == other.owned and j < i for j, other in enumerate(found))]
    return found, reasons


def _chosen(tensors: Tensors, origin: str | None, ema: bool | None) -> tuple[_Candidate, list[_Candidate]]:
    """The model that is meant, and the others of the file."""
    found, reasons = _candidates(tensors, origin)
    if not found:
        raise reasons[-1] if reasons else CheckpointError(
            f"no kind of model was recognised. {_looked_for()} {_names(tensors.arrays)}")
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
    """A beginning of names as the dictionary it reaches into, and what stands before the names in there."""
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
    """Whose names these are; empty where no linear layer was found that tells."""
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
    trunk_only = not any(name.startswith(("encoder.", "backbone.", "decode_head.", "lm_head.")) for name in names)
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


def _kinds_of(ours: Arrays) -> list[str]:
    return [kind for kind, (needed, forbidden) in KINDS.items()
            if all(name in ours for name in needed) and not any(name in ours for name in forbidden)]


def _stored_grid(state: Arrays) -> tuple[int, int] | None:
    """The window an index buffer of the file was made for, where it is not square."""
    for name, index in state.items():
        if name.endswith(INDEX):
            table = state.get(name[: -len(INDEX)] + TABLE)
            return window_of(len(table), index) if table is not None else None
    return None


def identical(there: np.ndarray | None, array: np.ndarray) -> bool:
    """Bit for bit the same; views of one place in memory are not read."""
    if there is None or there.dtype != array.dtype or there.shape != array.shape:
        return False
    if there.__array_interface__["data"][0] == array.__array_interface__["data"][0] and there.strides == array.strides:
        return True
    bits = f"u{there.dtype.itemsize}" if there.dtype.itemsize <= 8 else there.dtype
    return bool(np.array_equal(there.view(bits), array.view(bits)))


def _looked_for() -> str:
    return "Looked for: " + "; ".join(f"{kind} ({', '.join(names)})" for kind, (names, _) in KINDS.items()) + "."


def _names(state: Arrays) -> str:
    names = list(state)
    return f"Found {len(names)} tensors: {', '.join(names[:6])}{', ...' if len(names) > 6 else ''}."
