# SPDX-License-Identifier: Apache-2.0
"""Settings become objects: the only room that sees both `config` and the rooms the objects come from."""

from __future__ import annotations

from .batches import BatchPlan, plan_batches, seed_everything, with_fitting_batch
from .data import build_dataset, build_loader, build_masking, build_transform, reading_of
from .held_out import held_out, reading_of_run, refuse_trained_on
from .models import build_backbone, build_mim, build_teacher, build_tokenizer
from .restore import load_mim, load_tokenizer, set_weights
from .training import Parts, build_loop, build_training
from .transfer import transfer_trunk
from .trunk import architecture_of

__all__ = [
    "BatchPlan",
    "Parts",
    "architecture_of",
    "build_backbone",
    "build_dataset",
    "build_loader",
    "build_loop",
    "build_masking",
    "build_mim",
    "build_teacher",
    "build_tokenizer",
    "build_training",
    "build_transform",
    "held_out",
    "load_mim",
    "load_tokenizer",
    "plan_batches",
    "reading_of",
    "reading_of_run",
    "refuse_trained_on",
    "seed_everything",
    "set_weights",
    "transfer_trunk",
    "with_fitting_batch",
]
