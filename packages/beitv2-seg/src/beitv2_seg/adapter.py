# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg and we: the only file that knows it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import paddle

from beitv2_core.commands.checkout import missing_package
from beitv2_core.errors import ConfigError, MissingDependencyError
from beitv2_seg.components import COMPONENTS, SCHEDULES

#: losses that fail on Paddle 3 (2.8.0 wheel), or change the labels that other losses read too (DiceLoss, every version)
MENDED = ("CrossEntropyLoss", "OhemCrossEntropyLoss", "RMILoss", "DiceLoss")
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


def paddleseg_components() -> dict[str, dict[str, Any]]:
    """{shelf: {name: class}} of everything PaddleSeg itself offers to YAML files; MissingDependencyError without it."""
    manager = _manager()
    from paddleseg import datasets, models, transforms  # noqa: F401  their components register when they are imported

    for name in MENDED:
        _mend(manager.LOSSES.components_dict.get(name))
    return {shelf: dict(getattr(manager, shelf).components_dict) for shelf in SHELVES}


def _mend(loss: Any) -> None:
    """Let a loss compute on Paddle 3 what it computes on Paddle 2, from labels of its own.

    The wheel adds and multiplies floats and integers: Paddle 2 gives the result the left one's type, Paddle 3 refuses.
    Departs: PaddleSeg's DiceLoss writes class 0 over the ignored pixels of the labels, so that the losses after it and
    those of the other outputs learn it; here it does not.
    """
    if loss is None or hasattr(loss.forward, "theirs"):
        return
    theirs = loss.forward

    def forward(self: Any, logits: paddle.Tensor, labels: paddle.Tensor, *more: Any, **options: Any) -> Any:
        with _left_type_wins():
            return theirs(self, logits, labels.clone(), *more, **options)

    forward.theirs = theirs  # type: ignore[attr-defined]
    loss.forward = forward


@contextlib.contextmanager
def _left_type_wins() -> Iterator[None]:
    operators = {name: getattr(paddle.Tensor, name) for name in ("__add__", "__mul__")}

    def casting(operator: Callable[..., Any]) -> Callable[..., Any]:
        def operate(left: Any, right: Any) -> Any:
            if isinstance(right, paddle.Tensor) and left.is_floating_point() != right.is_floating_point():
                right = right.astype(left.dtype)
            return operator(left, right)

        return operate

    try:
        for name, operator in operators.items():
            setattr(paddle.Tensor, name, casting(operator))
        yield
    finally:
        for name, operator in operators.items():
            setattr(paddle.Tensor, name, operator)
