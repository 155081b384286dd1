# SPDX-License-Identifier: Apache-2.0
"""What is to be known of a kind of model, so that files of it are identified, loaded, converted and verified."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

from beitv2_core.weights.architecture import ShapeReader

Architecture = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
#: first parts of the names of a trunk and of the heads that stand on it without a prefix, in any format
TRUNK_PARTS = frozenset("""cls_token mask_token pos_embed patch_embed rel_pos_bias blocks norm fc_norm head lm_head
    cls_pt_layers cls_pt_norm cls_pt_lm_head proj beit embeddings encoder layernorm pooler classifier visual
    class_embedding positional_embedding conv1 ln_pre ln_post transformer""".split())
IMAGE_FORMATS = ("ours", "official", "huggingface", "timm", "paddleclas")


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of model, described by the package that has its class; others offer theirs as `beitv2.kinds`.

    name: as files and messages call it.  package: the distribution to install for it.
    marks: names, under ours, that a file of it has; unlike: names that it has not.
    read: the architecture from names and shapes: the JSON-able arguments of the model.
    build: the model of an architecture, freshly initialised; imports Paddle no earlier than it is called.
    outputs: (model, input tensors) -> what the model answers, by name: what `beitv2 verify` compares.
    trunks: the parts of its names and of its architecture that are BEiT trunks ("": the whole); images enter the first.
    backbone: which of them other models can start from, None for none.
    untold: what an architecture may need and weights do not tell: name -> a value to list the model's tensors with, on
    which no name or shape depends; None where the model can be built without it.  must_know: those that a file of
    ours is not written without, with an example.
    parts: first parts of its names, in any format; beside: beginnings of names in its released files that are no part
    of it.  formats: those it exists in; official: the keymap of its official names; nest: key under which its official
    files have their weights, None for none.
    run: `kind` of the settings of a run that trains it, made_by: the command that does.
    noun: what messages call one.  unit_range: its images are in [0, 1], of others ImageNet-normalised.
    """

    name: str
    package: str
    marks: tuple[str, ...]
    read: Callable[[ShapeReader], dict[str, Any]]
    build: Callable[[Architecture], Any]
    outputs: Callable[[Any, list[Any]], dict[str, Any]]
    unlike: tuple[str, ...] = ()
    trunks: tuple[str, ...] = ("",)
    backbone: Optional[str] = None
    untold: Mapping[str, Any] = field(default_factory=lambda: {"num_heads": 1})
    must_know: Mapping[str, str] = field(default_factory=dict)
    parts: frozenset[str] = TRUNK_PARTS
    beside: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("ours", "official")
    official: str = "official"
    nest: Optional[str] = "model"
    run: str = ""
    made_by: str = ""
    noun: str = "model"
    unit_range: bool = False

    def __str__(self) -> str:
        return f"a {self.name} {self.noun}"

    def trunk_of(self, architecture: Architecture) -> Architecture:
        """The part of an architecture that images enter."""
        return _part(architecture, self.trunks[0]) if self.trunks else architecture

    def unknown(self, architecture: Architecture) -> list[str]:
        """What is missing in an architecture because neither weights nor whoever read them told it."""
        parts = [architecture, *(architecture[part] for part in self.trunks if part)]
        return list(dict.fromkeys(name for name in self.untold for part in parts if _is_open(part, name)))

    def filled(self, architecture: Architecture) -> dict[str, Any]:
        """An architecture with a stand-in for everything that is unknown: for names and shapes only."""
        whole = {name: self.filled(value) if name in self.trunks and isinstance(value, Mapping) else value
                 for name, value in architecture.items()}
        return {**whole, **{name: value for name, value in self.untold.items()
                            if value is not None and _is_open(whole, name)}}


def _part(architecture: Architecture, name: str) -> Architecture:
    part: Architecture = architecture[name] if name else architecture
    return part


def _is_open(part: Architecture, name: str) -> bool:
    value = part.get(name, 0)
    return value is None or isinstance(value, list) and None in value
