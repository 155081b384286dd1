# SPDX-License-Identifier: Apache-2.0
"""Our components in PaddleSeg's own scripts."""

from __future__ import annotations

import paddle

from beitv2_core.errors import ConfigError
from beitv2_seg.paddleseg.components import COMPONENTS, SCHEDULES
from beitv2_seg.paddleseg.installed import manager


def register() -> list[str]:
    """Make our components known to PaddleSeg's YAML by name; returns the names.  Safe to call twice.

    Raises MissingDependencyError without PaddleSeg, ConfigError where a name is taken by somebody else.
    """
    registries = manager()
    names = []
    for title, components in COMPONENTS.items():
        registry = getattr(registries, title)
        for component in components:
            taken = registry.components_dict.get(component.__name__, component)
            if taken is not component:
                raise ConfigError(f"PaddleSeg already has a {registry.name} component named {component.__name__!r} "
                                  f"({taken.__module__}).")
            if component.__name__ not in registry.components_dict:
                registry.add_component(component)
            names.append(component.__name__)
    for schedule in SCHEDULES:  # SegBuilder looks schedules up on this module and nowhere else
        setattr(paddle.optimizer.lr, schedule.__name__, schedule)
        names.append(schedule.__name__)
    return names
