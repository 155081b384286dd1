# SPDX-License-Identifier: Apache-2.0
"""Published files of vision transformers: whose names they have, the sizes read from their shapes, and their weights.

A `Form` says how a published file calls what `TeacherViT` has.  With the sizes it is the schema of the file: the name
and shape of every tensor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError, WeightsError
from beitv2_core.layers.init import without_values
from beitv2_core.teachers.vit import TeacherViT, ViTSettings
from beitv2_core.weights.architecture import ShapeReader
from beitv2_core.weights.places import flat
from beitv2_core.weights.published.download import resolve_weights
from beitv2_core.weights.reading.foreign import read_state

Arrays = Mapping[str, NDArray[Any]]
#: names of a file for one of ours: tensors that are joined along the outputs; None stands for zeros
Parts = tuple[Optional[str], ...]


@dataclass(frozen=True)
class Form:
    """The names of one published form of a family's files.

    label: whose names they are.  marks: names that such a file has; what stands before the first is taken off all
    names.  outer: our names, or those of our layers, outside the blocks -> theirs.  block: beginning of a block's
    names, {} for its number.  inner: as outer, within a block, a tuple where theirs are joined to ours.  gated: instead
    of inner where the MLP is gated, its gate first.  beside: beginnings or ends of names that are no part of the
    encoder.  flat_table: the position table has no axis of length 1.  masked_keys: the bias of the keys counts as zero.
    """

    label: str
    marks: tuple[str, ...]
    outer: Mapping[str, str]
    block: str
    inner: Mapping[str, str | Parts]
    gated: Mapping[str, str | Parts] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    flat_table: bool = False
    masked_keys: bool = False

    def parts(self, ours: str, gated: bool) -> Parts:
        """The file's names for one of ours; KeyError where the form has none."""
        found = re.match(r"blocks\.(\d+)\.(.*)", ours)
        start, rest = (self.block.format(found[1]), found[2]) if found else ("", ours)
        names: Mapping[str, str | Parts] = self.outer
        if found:
            names = {**self.inner, **self.gated} if gated else self.inner
        leaf = ""
        if rest not in names:
            rest, _, leaf = rest.rpartition(".")
            leaf = f".{leaf}"
        theirs = names[rest]
        return tuple(None if one is None else f"{start}{one}{leaf}" for one in
                     ((theirs,) if isinstance(theirs, str) else theirs))

    def prefix_in(self, names: Sequence[str]) -> list[str]:
        """What stands before every name of such a model; more than one for a file of several."""
        known, first = set(names), self.marks[0]
        starts = (name[: len(name) - len(first)] for name in names if name.endswith(first))
        return [start for start in starts if (not start or start.endswith("."))
                and all(start + mark in known for mark in self.marks)]


@dataclass(frozen=True)
class Family:
    """A teacher's published models: the forms of their files, what they have in common and where they differ.

    name: of the teacher.  heads: attention heads by width, for no tensor tells them.  common: settings of all.
    optional: those that only some have, read from the file: registers, gated, qkv_bias, inner_norms, out_width.
    derived: settings that follow from the others and that no tensor tells.  where: where the files are.
    """

    name: str
    forms: tuple[Form, ...]
    heads: Mapping[int, int]
    common: Mapping[str, Any]
    optional: frozenset[str]
    where: str
    derived: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda settings: {}


def load_vit(family: Family, weights: Optional[str], sha256: Optional[str] = None,
             num_heads: Optional[int] = None) -> TeacherViT:
    """The network of a published file, from a path or URL; nothing in the file is executed.

    num_heads: of a width that nobody published.  Raises WeightsError where the file is missing, cannot be fetched, has
    another hash, or where its names and shapes are not those of a model of the family, which it lists.
    """
    state, settings, form = _read(family, weights, sha256, num_heads)
    vit = TeacherViT(settings)
    for name, tensor in vit.state_dict().items():
        tensor.set_value(_joined(form, name, tensor.shape, settings, state))
    return vit


def published_settings(family: Family, weights: Optional[str], sha256: Optional[str] = None,
                       num_heads: Optional[int] = None) -> ViTSettings:
    """As `load_vit`, for the sizes alone."""
    return _read(family, weights, sha256, num_heads)[1]


def schema(form: Form, settings: ViTSettings) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a file of this form and of these sizes has."""
    with without_values():
        shapes = {name: tuple(tensor.shape) for name, tensor in TeacherViT(settings).state_dict().items()}
    expected = {}
    for ours, shape in shapes.items():
        for name, part in _part_shapes(form, ours, shape, settings.gated):
            if name is not None:
                expected[name] = part
    return expected


def identify_form(family: Family, arrays: Arrays, source: str) -> tuple[Form, dict[str, NDArray[Any]]]:
    """The form of a file's tensors, and those behind the prefix of the model's names; WeightsError for another file."""
    names = list(arrays)
    found = [(form, start) for form in family.forms for start in form.prefix_in(names)]
    if len(found) != 1:
        forms = "; ".join(f"{form.label} ({', '.join(form.marks)})" for form in family.forms)
        what = f"it holds {len(found)} models, under {', '.join(repr(start) for _, start in found)}" if found else \
            f"no model of {family.name!r} is in this file of {len(names)} tensors ({', '.join(names[:4])}, ...)"
        raise WeightsError(f"{source}: {what}. Expected one, with the names of {forms}. {family.where}")
    form, start = found[0]
    return form, {name[len(start):]: array for name, array in arrays.items() if name.startswith(start)}


def settings_of(family: Family, form: Form, state: Arrays, num_heads: Optional[int] = None) -> ViTSettings:
    """The sizes and variants of a model, from the shapes of its file; CheckpointError for what they do not tell."""
    reader = ShapeReader(state)

    def theirs(ours: str, gated: bool = False) -> str:
        return next(name for name in form.parts(ours, gated) if name is not None)

    def has(ours: str) -> bool:
        try:
            return theirs(ours) in reader
        except KeyError:
            return False

    patch_shape = reader.shape(theirs("patch_embed.proj.weight"))
    if len(patch_shape) != 4 or patch_shape[1] != 3 or patch_shape[2] != patch_shape[3]:
        raise CheckpointError(f"{theirs('patch_embed.proj.weight')} has the shape {patch_shape}, expected (width, 3, "
                              "patch, patch): a ViT of RGB images of a fixed size (no NaFlex)")
    width, gated = patch_shape[0], _gate(form) in reader
    told: dict[str, Any] = {
        "registers": _length(reader, form, "register_tokens", 1),
        "qkv_bias": has("blocks.0.attn.qkv.bias"), "gated": gated, "inner_norms": has("blocks.0.attn.norm.weight"),
        "out_width": _length(reader, form, "head.weight", 0) or None,
    }
    settings = {"width": width, **family.common, **{name: told[name] for name in told if name in family.optional}}
    settings.update(family.derived(settings))
    if "side" not in settings:
        rows = _length(reader, form, "pos_embed", 0 if form.flat_table else 1) - settings.get("class_token", True)
        settings["side"] = math.isqrt(max(rows, 0))
        if rows < 1 or settings["side"] ** 2 != rows:
            raise CheckpointError(f"{theirs('pos_embed')} has rows for {rows} patches, which is no square")
    heads = num_heads or family.heads.get(width)
    if heads is None:
        raise CheckpointError(f"how many heads share its {width} channels is not in the weights, and no published "
                              f"model has that width ({', '.join(map(str, family.heads))}). Set teacher.options "
                              "num_heads")
    return ViTSettings(patch_size=patch_shape[2], num_heads=heads, depth=reader.count(form.block.split("{}")[0]),
                       hidden=reader.shape(theirs("blocks.0.mlp.fc2.weight", gated))[1], **settings)


def check_file(form: Form, settings: ViTSettings, state: Arrays, source: str) -> None:
    """WeightsError listing what is missing, unexpected or of another shape, under the file's names."""
    expected = schema(form, settings)
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(name for name in set(state) - set(expected)
                        if not (name.startswith(form.beside) or name.endswith(form.beside)))
    shapes = [f"{name} is {tuple(state[name].shape)}, expected {shape}" for name, shape in expected.items()
              if name in state and tuple(state[name].shape) != shape]
    parts = [f"{kind}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
             for kind, names in (("missing", missing), ("unexpected", unexpected), ("shapes", shapes)) if names]
    if parts:
        raise WeightsError(f"{source}: not {form.label} of width {settings.width} and depth {settings.depth}; "
                           f"{'; '.join(parts)}.")


def _read(family: Family, weights: Optional[str], sha256: Optional[str],
          num_heads: Optional[int]) -> tuple[Arrays, ViTSettings, Form]:
    if not weights:
        raise WeightsError(f"teacher {family.name!r}: no weights were given. {family.where} Set teacher.weights to the "
                           "file or its URL.")
    form, state = identify_form(family, flat(read_state(resolve_weights(weights, sha256))[0]).arrays, weights)
    try:
        settings = settings_of(family, form, state, num_heads)
    except CheckpointError as error:
        raise WeightsError(f"{weights}: {form.label} were found, but {str(error).rstrip('.')}.") from None
    check_file(form, settings, state, weights)
    return state, settings, form


def _gate(form: Form) -> str:
    """The name that only a gated MLP has; empty where the form has none."""
    first = form.gated.get("mlp.fc1", "")
    first = first if isinstance(first, str) else first[0] or ""
    return f"{form.block.format(0)}{first}.weight" if first else ""


def _length(reader: ShapeReader, form: Form, ours: str, axis: int) -> int:
    """The length of an axis of one of the file's tensors, 0 where it has none of that name."""
    if ours not in form.outer and ours.rpartition(".")[0] not in form.outer:
        return 0
    name = form.parts(ours, False)[0] or ""
    return reader.shape(name)[axis] if name in reader else 0


def _part_shapes(form: Form, ours: str, shape: Sequence[int],
                 gated: bool) -> Iterator[tuple[Optional[str], tuple[int, ...]]]:
    names = form.parts(ours, gated)
    theirs = tuple(shape[::-1]) if _is_linear(ours, shape) else tuple(shape)
    if ours == "pos_embed" and form.flat_table:
        theirs = theirs[1:]
    for name in names:
        yield name, theirs if len(names) == 1 else (theirs[0] // len(names), *theirs[1:])


def _joined(form: Form, ours: str, shape: Sequence[int], settings: ViTSettings, state: Arrays) -> NDArray[np.float32]:
    """The value of one of our tensors."""
    parts = [np.zeros(part, np.float32) if name is None else np.asarray(state[name], np.float32)
             for name, part in _part_shapes(form, ours, shape, settings.gated)]
    whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
    if form.masked_keys and ours.endswith("attn.qkv.bias"):
        whole = np.concatenate([whole[: settings.width], np.zeros(settings.width, np.float32),
                                whole[2 * settings.width:]])
    return np.ascontiguousarray(whole.T if _is_linear(ours, shape) else whole.reshape(shape))


def _is_linear(ours: str, shape: Sequence[int]) -> bool:
    return len(shape) == 2 and ours.endswith(".weight")
