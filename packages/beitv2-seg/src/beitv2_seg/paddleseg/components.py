# SPDX-License-Identifier: Apache-2.0
"""What a YAML file can name: our components, those of installed packages, and PaddleSeg's where it is installed."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from beitv2_core import _entry_points
from beitv2_core.errors import BEiTError, ConfigError, MissingDependencyError
from beitv2_seg.data import transforms
from beitv2_seg.data.digit_scenes import BEiTv2DigitScenes
from beitv2_seg.data.file_samples import ListedSamples
from beitv2_seg.model.backbone import BEiTv2
from beitv2_seg.model.losses import BEiTv2CrossEntropyLoss
from beitv2_seg.model.segmentor import BEiTv2UPerNet
from beitv2_seg.paddleseg.installed import paddleseg_components
from beitv2_seg.training.optim import BEiTv2AdamW, BEiTv2WarmupPoly

#: PaddleSeg's registry -> our components in it; schedules have none, PaddleSeg looks them up on paddle.optimizer.lr
COMPONENTS: dict[str, tuple[type, ...]] = {
    "BACKBONES": (BEiTv2,),
    "MODELS": (BEiTv2UPerNet,),
    "LOSSES": (BEiTv2CrossEntropyLoss,),
    "OPTIMIZERS": (BEiTv2AdamW,),
    "DATASETS": (BEiTv2DigitScenes,),
    "TRANSFORMS": (transforms.BEiTv2RatioRangeResize, transforms.BEiTv2Resize, transforms.BEiTv2RandomCrop,
                   transforms.BEiTv2RandomFlip, transforms.BEiTv2PhotoMetricDistortion, transforms.BEiTv2Normalize,
                   transforms.BEiTv2Pad),
}
SCHEDULES: tuple[type, ...] = (BEiTv2WarmupPoly,)
ALL = {**COMPONENTS, "SCHEDULES": SCHEDULES}
#: registry -> what messages call its components
KINDS = {"BACKBONES": "a backbone", "MODELS": "a model", "LOSSES": "a loss", "OPTIMIZERS": "an optimizer",
         "DATASETS": "a data set", "TRANSFORMS": "a transform", "SCHEDULES": "a schedule"}
OWN_FILES = ("For your own files: {type: Dataset, dataset_root: FOLDER, mode: train, train_path: LIST, num_classes: N, "
             "transforms: [...]}; a line of LIST is IMAGE LABELS.")


def find_component(name: str, where: str) -> Any:
    """The class a `type:` names, ours first; ConfigError, naming the place in the YAML and what there is, for others.

    Where the place decides the kind (an optimizer, a transform), a component of another kind is refused.
    """
    ours = {registry: {kind.__name__: kind for kind in kinds} for registry, kinds in ALL.items()}
    ours["DATASETS"]["Dataset"] = ListedSamples  # PaddleSeg's arguments, our readers of lists and files
    registry = registry_of(where)
    own = ours[registry] if registry else {name: kind for kinds in ours.values() for name, kind in kinds.items()}
    if name in own:
        return own[name]
    for key in [registry] if registry else ours:
        if name in _entry_points.names(group_of(key), {}):
            return _entry_points.load(group_of(key), name, {}, f"{where}.type")
    theirs: Mapping[str, Mapping[str, Any]] = {}
    why = ""
    try:
        theirs = paddleseg_components()
    except MissingDependencyError as error:
        why = f" {error}"
    known = {key: {**theirs.get(key, {}), **ours[key]} for key in ours}
    wanted = known[registry] if registry else {key: kind for kinds in known.values() for key, kind in kinds.items()}
    if name in wanted:
        return wanted[name]
    for key, kinds in known.items():
        if name in kinds:
            raise ConfigError(f"{where}.type: {name!r} is {KINDS[key]}; expected {KINDS[registry or key]}: "
                              f"{', '.join(sorted(wanted))}.")
    listed_names = sorted({*wanted, *(_entry_points.names(group_of(registry), {}) if registry else ())})
    near = difflib.get_close_matches(name, listed_names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = f" Known: {', '.join(listed_names)}." if registry else ""
    files = f" {OWN_FILES}" if registry == "DATASETS" else ""
    raise ConfigError(f"{where}.type: {name!r} is no known component.{hint}{files}{listed}{why}")


def group_of(registry: str) -> str:
    """The entry points by which installed packages add to a registry: `beitv2.segment.models`, ..."""
    return f"beitv2.segment.{registry.lower()}"


def registry_of(where: str) -> str | None:
    """The registry that a place in the YAML reads; None where it is not known, as inside a model of PaddleSeg's."""
    place = re.sub(r"\[\d+\]", "", where)
    places = {"train_dataset": "DATASETS", "val_dataset": "DATASETS", "optimizer": "OPTIMIZERS", "model": "MODELS",
              "model.backbone": "BACKBONES", "loss.types": "LOSSES", "loss.types.losses": "LOSSES",
              "lr_scheduler": "SCHEDULES"}
    return "TRANSFORMS" if place.endswith("_dataset.transforms") else places.get(place)


def build_component(spec: Mapping[str, Any], where: str, **more: Any) -> Any:
    """The object a section {type, arguments} describes, nested sections built first; `more` are further arguments.

    Raises ConfigError naming the key: an unknown component or argument, a required one that is missing, or what the
    component itself refuses.
    """
    spec = dict(spec)
    if "type" not in spec:
        raise ConfigError(f"{where}: type is missing; expected the name of a component. Add `type: NAME`.")
    kind = find_component(spec.pop("type"), where)
    arguments = {key: _built(value, f"{where}.{key}") for key, value in spec.items()}
    check_arguments(kind, {**arguments, **more}, where)
    try:
        return kind(**arguments, **more)
    except BEiTError:
        raise
    except (TypeError, ValueError, AssertionError, OSError, RuntimeError) as error:  # PaddleSeg's raise any of these
        raise ConfigError(f"{where}: {kind.__name__} refuses its arguments: {error}. Correct them.") from error


def _built(value: Any, where: str) -> Any:
    if isinstance(value, Mapping) and "type" in value:
        return build_component(value, where)
    if isinstance(value, (list, tuple)):
        return [_built(item, f"{where}[{i}]") for i, item in enumerate(value)]
    return value


def check_arguments(kind: Any, arguments: Mapping[str, Any], where: str, *, more: Sequence[str] = ()) -> None:
    """Raise ConfigError for an argument that a component does not take, and for one it needs and was not given.

    more: further keys of the section, to be listed with the others.
    """
    known = argument_names(kind)
    if known is None:
        return
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(key, [*known, *more], n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}.{key}: unknown key.{hint} Known keys of {kind.__name__}: "
                              f"{', '.join([*known, *more])}.")
    missing = [key for key, needed in known.items() if needed and key not in arguments]
    if missing:
        raise ConfigError(f"{where}.{missing[0]}: required by {kind.__name__}, and there is no default. Add it.")


def argument_names(kind: Any) -> dict[str, bool] | None:
    """{argument: is required} of a component, those its base classes take by **keywords included; None: takes any."""
    names: dict[str, bool] = {}
    for owner in inspect.getmro(kind) if inspect.isclass(kind) else (kind,):
        start = owner.__dict__.get("__init__") if inspect.isclass(owner) else owner
        if start is None:
            continue
        parameters = list(inspect.signature(start).parameters.values())
        for parameter in parameters:
            if parameter.name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                names.setdefault(parameter.name, parameter.default is parameter.empty)
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return names
    return None
