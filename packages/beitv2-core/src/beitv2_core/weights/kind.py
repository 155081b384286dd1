# SPDX-License-Identifier: Apache-2.0
"""A kind of model: what identifying, loading, converting and verifying files of it needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Callable, NamedTuple, Optional

from beitv2_core.errors import ConfigError
from beitv2_core.weights.architecture import ShapeReader

Architecture = Mapping[str, Any]
Shapes = Mapping[str, tuple[int, ...]]
#: first parts of the names of a trunk and of heads without a prefix, in any format
TRUNK_PARTS = frozenset("""cls_token mask_token pos_embed patch_embed rel_pos_bias blocks norm fc_norm head lm_head
    cls_pt_layers cls_pt_norm cls_pt_lm_head proj beit embeddings encoder layernorm pooler classifier visual
    class_embedding positional_embedding conv1 ln_pre ln_post transformer""".split())
IMAGE_FORMATS = ("ours", "official", "huggingface", "timm", "paddleclas")


class UntoldValue(NamedTuple):
    """A value of an architecture that weights do not tell; the user gives it by `--set NAME=VALUE`.

    help: what it is, in a few words.  example: as a user types it.  parse: text -> value; ValueError for text it cannot
    read.  stand_in: a value to list the model's tensors with, on which no name or shape depends; None where the model
    can be built without it.  required: no file of ours is written while it is not known.
    """

    help: str
    example: str
    parse: Callable[[str], Any]
    stand_in: Any = None
    required: bool = False


def positive_number(text: str) -> int:
    """A whole number of at least 1; ValueError for anything else."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def whole_numbers(text: str, *, least: int = 0) -> list[int]:
    """Numbers of at least `least` with commas or spaces between them; ValueError for anything else and for none."""
    numbers = [int(part) for part in text.replace(",", " ").split()]
    if min(numbers, default=least - 1) < least:
        raise ValueError(text)
    return numbers


class DataName(NamedTuple):
    """Images as a model card names them: name and type of Hugging Face's `dataset`, and in words."""

    name: str
    type: str
    words: str


def data_of_settings(config: Mapping[str, Any]) -> Optional[DataName]:
    """The training images of core's settings (section `data`); of a folder the last part of its path."""
    data = config.get("data") or {}
    return named_data(data.get("dataset"), data.get("root"))


def named_data(dataset: Optional[str], root: Any, size: Optional[int] = None) -> Optional[DataName]:
    """Images by the name of their kind and their place; None where neither is known.

    size: how many are drawn, of images without a place.
    """
    if not dataset:
        return None
    if root is None:
        many = f" ({size:,})" if size else ""
        return DataName(dataset, dataset, f"images of `{dataset}`, drawn by the code{many}")
    names = [PurePath(str(one)).name for one in (root if isinstance(root, (list, tuple)) else [root])]
    return DataName(", ".join(names), "imagefolder", f"images of {', '.join(f'`{name}`' for name in names)}")


@dataclass(frozen=True)
class CardFacts:
    """What the model card (`cards.py`) of a kind of model tells; a kind without `what` has no card.

    what: the model, in a sentence.  limits: sentences.  tag: Hugging Face's `pipeline_tag`; tags: further ones.
    metrics: value of `final` in a run's summary -> (Hugging Face's metric, its name).  trained_on, measured_on: the
    images, from the settings of a run; None where they are not known.  origins: setting that names a model which the
    run reads -> what that model was to it.
    """

    what: str = ""
    limits: tuple[str, ...] = ()
    tag: str = ""
    tags: tuple[str, ...] = ()
    metrics: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    trained_on: Callable[[Mapping[str, Any]], Optional[DataName]] = data_of_settings
    measured_on: Callable[[Mapping[str, Any]], Optional[DataName]] = lambda config: None
    origins: Mapping[str, str] = field(default_factory=dict)


NUM_HEADS = UntoldValue("attention heads (default: those of the published model of that width)", "12", positive_number,
                        stand_in=1)


@dataclass(frozen=True, eq=False)
class Kind:
    """A kind of model, described by the package that has its class; others offer theirs as `beitv2.kinds`.

    name: as files and messages call it.  package: the distribution to install for it.
    marks: tensor names (ours) that a file of it has; unlike: names that it does not have.
    read: the architecture from names and shapes: the JSON-able arguments of the model.
    build: the model of an architecture, freshly initialised; imports Paddle no earlier than it is called.
    outputs: (model, input tensors) -> the model's outputs by name, which `beitv2 verify` compares.
    trunks: the parts of its names and of its architecture that are BEiT trunks ("": the whole); images enter the first.
    backbone: which of them other models can start from, None for none.
    untold: values of its architecture that weights do not tell, by name.
    parts: first parts of its names, in any format; beside: beginnings of names in its released files that are no part
    of it.  formats: those it exists in; official: the keymap of its official names; nest: key under which its official
    files have their weights, None for none.
    run: `kind` of the settings of a run that trains it, made_by: the command that does.
    noun: what messages call one.  unit_range: its images are in [0, 1], of others ImageNet-normalised.
    card: for its model card.
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
    untold: Mapping[str, UntoldValue] = field(default_factory=lambda: {"num_heads": NUM_HEADS})
    parts: frozenset[str] = TRUNK_PARTS
    beside: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("ours", "official")
    official: str = "official"
    nest: Optional[str] = "model"
    run: str = ""
    made_by: str = ""
    noun: str = "model"
    unit_range: bool = False
    card: CardFacts = CardFacts()

    def __str__(self) -> str:
        return f"a {self.name} {self.noun}"

    def trunk_of(self, architecture: Architecture) -> Architecture:
        """The part of an architecture that images enter."""
        return _part(architecture, self.trunks[0]) if self.trunks else architecture

    def given(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values a user gives for this kind (`untold`), text parsed.

        Raises ConfigError for a name that is not in `untold`, and for text that cannot be read.
        """
        found = {}
        for name, value in values.items():
            if name not in self.untold:
                known = "; ".join(f"{name}={one.example}: {one.help}" for name, one in self.untold.items())
                raise ConfigError(f"--set {name}: not a value of {self}. Known: {known or 'none'}.")
            untold = self.untold[name]
            try:
                found[name] = untold.parse(value) if isinstance(value, str) else value
            except ValueError:
                raise ConfigError(f"--set {name}={value}: cannot be read. Expected {untold.help}, for example "
                                  f"{name}={untold.example}.") from None
        return found

    def unknown(self, architecture: Architecture) -> list[str]:
        """Values that are missing in an architecture: neither the weights nor the user told them."""
        parts = [architecture, *(architecture[part] for part in self.trunks if part)]
        return list(dict.fromkeys(name for name in self.untold for part in parts if _is_open(part, name)))

    def filled(self, architecture: Architecture) -> dict[str, Any]:
        """An architecture with stand-ins for its unknown values; good for names and shapes only."""
        whole = {name: self.filled(value) if name in self.trunks and isinstance(value, Mapping) else value
                 for name, value in architecture.items()}
        return {**whole, **{name: value.stand_in for name, value in self.untold.items()
                            if value.stand_in is not None and _is_open(whole, name)}}


def _part(architecture: Architecture, name: str) -> Architecture:
    part: Architecture = architecture[name] if name else architecture
    return part


def _is_open(part: Architecture, name: str) -> bool:
    value = part.get(name, 0)
    return value is None or isinstance(value, list) and None in value
