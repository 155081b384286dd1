"""PaddleSeg and we: the only file that knows it."""

from __future__ import annotations

from typing import Any

import paddle

from beitv2_core.checkout import missing_package
from beitv2_core.errors import ConfigError, MissingDependencyError
from beitv2_seg.components import COMPONENTS, SCHEDULES

SHELVES = ("BACKBONES", "MODELS", "LOSSES", "OPTIMIZERS", "DATASETS", "TRANSFORMS")


def _manager() -> Any:
    try:
        from paddleseg.cvlibs import manager
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "paddleseg":
            raise missing_package(error, "PaddleSeg") from error
        raise MissingDependencyError(
            f"PaddleSeg is not installed ({error}). Type: pip install 'beitv2-seg[paddleseg]', or put a checkout on "
            "the path: export PYTHONPATH=PADDLESEG") from error
    return manager


def register() -> list[str]:
    """Make our components known to PaddleSeg's YAML by name; returns the names.  Safe to call twice.

    Raises MissingDependencyError without PaddleSeg, ConfigError where a name is taken by somebody else.
    """
    manager = _manager()
    names = []
    for title, components in COMPONENTS.items():
        shelf = getattr(manager, title)
        for component in components:
            taken = shelf.components_dict.get(component.__name__, component)
            if taken is not component:
                raise ConfigError(f"PaddleSeg already has a {shelf.name} component named {component.__name__!r} "
                                  f"({taken.__module__}).")
            if component.__name__ not in shelf.components_dict:
                shelf.add_component(component)
            names.append(component.__name__)
    for schedule in SCHEDULES:  # SegBuilder looks schedules up on this module and nowhere else
        setattr(paddle.optimizer.lr, schedule.__name__, schedule)
        names.append(schedule.__name__)
    return names


def paddleseg_components() -> dict[str, Any]:
    """{name: class} of everything PaddleSeg itself offers to YAML files; MissingDependencyError without PaddleSeg."""
    manager = _manager()
    from paddleseg import datasets, models, transforms  # noqa: F401  their components register when they are imported

    return {name: kind for shelf in SHELVES for name, kind in getattr(manager, shelf).components_dict.items()}
