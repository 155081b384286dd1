"""What a YAML file can name: our components, and PaddleSeg's where it is installed."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from beitv2_core.errors import BEiTError, ConfigError, MissingDependencyError
from beitv2_seg import transforms
from beitv2_seg.backbone import BEiTv2
from beitv2_seg.digit_scenes import BEiTv2DigitScenes
from beitv2_seg.file_samples import ListedSamples
from beitv2_seg.losses import BEiTv2CrossEntropyLoss
from beitv2_seg.optim import BEiTv2AdamW, BEiTv2WarmupPoly
from beitv2_seg.segmentor import BEiTv2UPerNet

#: PaddleSeg's shelf -> ours on it; schedules have no shelf, PaddleSeg looks them up on paddle.optimizer.lr
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


def find_component(name: str, where: str) -> Any:
    """The class a `type:` names, ours first; ConfigError, naming the place in the YAML, where there is none."""
    ours = {kind.__name__: kind for kinds in (*COMPONENTS.values(), SCHEDULES) for kind in kinds}
    ours["Dataset"] = ListedSamples  # PaddleSeg's arguments, our readers of lists and files
    if name in ours:
        return ours[name]
    from beitv2_seg.adapter import paddleseg_components

    theirs, why = {}, ""
    try:
        theirs = paddleseg_components()
    except MissingDependencyError as error:
        why = f" {error}"
    if name in theirs:
        return theirs[name]
    near = difflib.get_close_matches(name, [*ours, *theirs], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"{where}.type: {name!r} is no known component.{hint}{why}")


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
    _check_arguments(kind, {**arguments, **more}, where)
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


def _check_arguments(kind: Any, arguments: Mapping[str, Any], where: str) -> None:
    known = argument_names(kind)
    if known is None:
        return
    for key in arguments:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{where}.{key}: unknown key.{hint} Known keys of {kind.__name__}: {', '.join(known)}.")
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
