# SPDX-License-Identifier: Apache-2.0
"""What `beitv2 check` looks at in the images of a classifier (entry points `beitv2.checks`)."""

from __future__ import annotations

from beitv2_cls.config import FinetuneConfig, LabelledRunConfig
from beitv2_core.checking.parts import TEST, TRAIN, Check, Finding, Plan
from beitv2_core.checking.sources import image_part, use_of
from beitv2_core.datasets import SOURCES


def of_settings(config: LabelledRunConfig, path: str, quick: bool) -> Plan:
    """What `beitv2 finetune` or `linear-probe` of these settings trains on, and validates on."""
    data, check = config.data, config.validation
    train = image_part(data, "train", TRAIN, labelled=True, quick=quick)
    parts = [train]
    if SOURCES[data.dataset].split:
        parts.append(image_part(data, "validation", TEST, labelled=True, quick=quick, split="test", size=check.size))
    elif check.root is not None:
        measured = data.model_copy(update={"root": check.root, "list_file": check.list_file, "held_out": None})
        parts.append(image_part(measured, "validation", TEST, labelled=True, quick=quick, setting="validation.root",
                                list_setting="validation.list_file",
                                set_list="--set validation.list_file=LIST"))
    command = "beitv2 finetune" if isinstance(config, FinetuneConfig) else "beitv2 linear-probe"
    classes = len(train.classes or ())
    use = use_of(f"{command} {path}", [part.name for part in parts], config.train, config.optim, classes)
    return Plan(path, parts, [use], _findings(config, classes, len(parts) > 1))


def _findings(config: LabelledRunConfig, classes: int, validated: bool) -> list[Finding]:
    found = []
    asked = config.model.num_classes
    if asked is not None and asked != classes:
        found.append(Finding("num-classes", True, "train", classes, f"train: {classes} classes, but model.num_classes "
                             f"is {asked}", f"--set model.num_classes={classes}, or null", of_classes=True))
    if classes < 2:
        found.append(Finding("one-class", True, "train", classes, "train: a single class; a classifier needs at least "
                             "two", "Give class folders below data.root, or a list with labels", of_classes=True))
    if not validated:
        found.append(Finding("no-validation", False, "train", 0, "validation.root is not given: accuracy is not "
                             "measured", "--set validation.root=FOLDER of class folders", of_classes=True))
    return found


CLASSIFY = Check(of_settings, labelled=(
    "beitv2 finetune CONFIG --set {data}{test}", "beitv2 linear-probe CONFIG --set {data}{test}"))
PROBE = Check(of_settings)
