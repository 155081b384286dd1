# SPDX-License-Identifier: Apache-2.0
"""The PaddleSeg that is installed: its components, its data sets' files, its profiler. Nothing else imports it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import paddle

from beitv2_core.commands.checkout import missing_package
from beitv2_core.errors import ConfigError, MissingDependencyError
from beitv2_seg.data.file_samples import FileSamples

#: losses that fail on Paddle 3 (2.8.0 wheel), or change the labels that other losses read too (DiceLoss, every version)
REPAIRED_LOSSES = ("CrossEntropyLoss", "OhemCrossEntropyLoss", "RMILoss", "DiceLoss")
REGISTRIES = ("BACKBONES", "MODELS", "LOSSES", "OPTIMIZERS", "DATASETS", "TRANSFORMS")


def manager() -> Any:
    """PaddleSeg's registry of components; MissingDependencyError without PaddleSeg."""
    try:
        from paddleseg.cvlibs import manager as found
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "paddleseg":
            raise missing_package(error, "PaddleSeg") from error
        raise MissingDependencyError(
            f"PaddleSeg is not installed ({error}). Type: pip install 'beitv2-seg[paddleseg]', or put a checkout on "
            "the path: export PYTHONPATH=PADDLESEG") from error
    return found


def paddleseg_components() -> dict[str, dict[str, Any]]:
    """{registry: {name: class}} of all that PaddleSeg offers to YAML files; MissingDependencyError without it."""
    registries = manager()
    from paddleseg import datasets, models, transforms  # noqa: F401  their components register when they are imported

    for name in REPAIRED_LOSSES:
        _repair(registries.LOSSES.components_dict.get(name))
    return {name: dict(getattr(registries, name).components_dict) for name in REGISTRIES}


def _repair(loss: Any) -> None:
    """Let a loss compute on Paddle 3 what it computes on Paddle 2, from labels of its own.

    The wheel adds and multiplies floats and integers: Paddle 2 gives the result the left one's type, Paddle 3 refuses.
    Departs: PaddleSeg's DiceLoss writes class 0 over the ignored pixels of the labels, so that the losses after it and
    those of the other outputs learn it; here it does not.
    """
    if loss is None or hasattr(loss.forward, "original"):
        return
    original = loss.forward

    def forward(self: Any, logits: paddle.Tensor, labels: paddle.Tensor, *more: Any, **options: Any) -> Any:
        with _left_type_wins():
            return original(self, logits, labels.clone(), *more, **options)

    forward.original = original  # type: ignore[attr-defined]
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


def as_file_samples(dataset: Any) -> Any:
    """A PaddleSeg data set that lists files, read by our readers; any other data set unchanged.

    Those whose classes read their files themselves (EG1800, Supervisely, PSSL, a user's own) are unchanged.
    """
    from paddleseg.datasets import ADE20K, Dataset

    reads = type(dataset).__getitem__
    if reads not in (Dataset.__getitem__, ADE20K.__getitem__) or not hasattr(dataset, "file_list"):
        return dataset
    if getattr(dataset, "edge", False):
        raise ConfigError(f"{type(dataset).__name__}: edge is true, but none of the losses here reads edges. Leave it "
                          "out.")
    return FileSamples(dataset.file_list, dataset.transforms.transforms, mode=dataset.mode,
                       num_classes=dataset.num_classes, ignore_index=dataset.ignore_index,
                       img_channels=getattr(dataset, "img_channels", 3), reduce_zero=reads is ADE20K.__getitem__)


def profiler_step(options: str) -> Callable[[], None]:
    """What PaddleSeg's `--profiler_options` calls after every update; MissingDependencyError without PaddleSeg."""
    manager()
    from paddleseg.utils import train_profiler

    return lambda: train_profiler.add_profiler_step(options)
