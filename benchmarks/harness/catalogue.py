# SPDX-License-Identifier: Apache-2.0
"""What `bench_core.py` measures: every case, what is compared with what, and the floors that are judged."""

from __future__ import annotations

import statistics
from typing import Any, Callable, NamedTuple

from harness import flop
from harness.outcome import Floor

MATMUL_SIDE, BATCH = 2048, 8
PEAK, BFLOAT16_PEAK = "matmul_peak", "matmul_peak_bf16"
PEERS = ("transformers", "timm")


class Case(NamedTuple):
    """One piece of work, measured in a process of its own; of base size, and of 8 images unless `what` says else.

    part: what `--only` may name; work: module and function that the process calls; cost: seconds of that process on two
    cores, for the forecast only; images: of one call; gflop: of one image; peer: package of the peers' environment
    that does the work; rounds: at most, for what varies little or takes long; peak: the case whose products it is
    compared with, of the same precision.
    """

    part: str
    what: str
    work: str
    cost: float
    images: int = 0
    gflop: float = 0.0
    peer: str = ""
    rounds: int = 99
    peak: str = PEAK

    @property
    def bfloat16(self) -> bool:
        """Needs a processor that multiplies bfloat16 numbers."""
        return self.peak == BFLOAT16_PEAK


def _step(part: str, what: str, work: str, cost: float, gflop: float, **more: Any) -> Case:
    return Case(part, what, work, cost, BATCH, gflop, **more)


def _peer(part: str, what: str, work: str, cost: float, gflop: float, **more: Any) -> Case:
    package, function = work.split(":")
    return _step(part, f"  {package}: {what}", f"peer_cases:{package}_{function}", cost, gflop, peer=package, **more)


_MIM_PEER = flop.pretrain_step(head_layers=0, classified=(196,))  # BeitForMaskedImageModeling classifies every patch
CASES: dict[str, Case] = {
    PEAK: Case("", f"matmul {MATMUL_SIDE}^3, float32", "cases.bricks:matmul_peak", 5),
    BFLOAT16_PEAK: Case("", f"matmul {MATMUL_SIDE}^3, bfloat16", "cases.bricks:matmul_peak_bf16", 5,
                        peak=BFLOAT16_PEAK),
    "tokenizer_encode": _step("tokenizer", "tokenizer encode", "cases.tokenizer:encode", 25, flop.tokenizer_encode()),
    "tokenizer_step": _step("tokenizer", "tokenizer training step", "cases.tokenizer:step", 40, flop.tokenizer_step(),
                            rounds=1),
    "pretrain_step": _step("pretrain", "pretraining step", "cases.pretraining:step", 40, flop.pretrain_step()),
    "pretrain_step_skipping": _step("pretrain", "  unread tokens skipped, in turns: pretraining step",
                                    "cases.pretraining:skipping", 120, flop.pretrain_step(), rounds=1),
    "transformers_pretrain_step": _peer("pretrain", "pretraining step, no [CLS] head",
                                        "transformers:pretrain_step", 40, _MIM_PEER),
    "pretrain_step_tokenizer": _step("pretrain", "  with the tokenizer: pretraining step",
                                     "cases.pretraining:with_tokenizer", 45,
                                     flop.pretrain_step() + flop.tokenizer_encode(), rounds=1),
    "pretrain_step_recompute": _step("pretrain", "  with recompute: pretraining step", "cases.pretraining:recomputed",
                                     40, flop.pretrain_step(), rounds=1),
    "optimizer_update": Case("pretrain", "  its AdamW update alone", "cases.pretraining:update", 15, rounds=1),
    "finetune_step": _step("finetune", "fine-tuning step", "cases.finetuning:step", 35, flop.finetune_step()),
    "transformers_finetune_step": _peer("finetune", "fine-tuning step", "transformers:finetune_step", 35,
                                        flop.finetune_step()),
    "timm_finetune_step": _peer("finetune", "fine-tuning step", "timm:finetune_step", 35, flop.finetune_step()),
    "finetune_forward": _step("finetune", "fine-tuning forward", "cases.finetuning:forward", 15,
                              flop.finetune_forward()),
    "transformers_finetune_forward": _peer("finetune", "fine-tuning forward", "transformers:finetune_forward", 15,
                                           flop.finetune_forward()),
    "timm_finetune_forward": _peer("finetune", "fine-tuning forward", "timm:finetune_forward", 15,
                                   flop.finetune_forward()),
    "finetune_step_recompute": _step("finetune", "  with recompute: fine-tuning step", "cases.finetuning:recomputed",
                                     35, flop.finetune_step(), rounds=1),
    "static_graph": Case("finetune", "  the model as a static graph", "cases.finetuning:static_graph", 100, rounds=1),
    "upernet_step": Case("segment", "UPerNet training step, 512 px, batch 1", "cases.segmentation:step", 90, 1,
                         flop.SEGMENT_STEP),
    "slide": Case("segment", "UPerNet, 512 x 683 image, its 2 windows together", "cases.segmentation:slide", 60,
                  1, 2 * flop.SEGMENT_FORWARD, rounds=1),
    "quantizer": Case("quantizer", "quantizer, 12,544 x 8192 x 32, training mode", "cases.bricks:quantizer", 5),
    "pretrain_views": Case("data", "pretraining data, two views and a mask", "data_cases:pretrain_views", 10, rounds=1),
    "finetune_transform": Case("data", "fine-tuning data", "data_cases:finetune_transform", 10, rounds=1),
    "segment_transform": Case("data", "segmentation data", "data_cases:segment_transform", 15, rounds=1),
    "checkpoint": Case("checkpoint", "checkpoint, pretraining model with AdamW", "cases.storage:checkpoint",
                       30, rounds=1),
    "start_up": Case("start_up", "start of the command `beitv2`", "cases.starts:start_up", 30, rounds=1),
    "two_processes": Case("processes", "pretraining step on two processes",
                          "cases.processes:two_processes", 100, BATCH, flop.pretrain_step(), rounds=1),
}


def _in_bfloat16(case: Case) -> Case:
    """The same work in bfloat16: of the peers, under PyTorch's autocast."""
    return case._replace(part="bfloat16", what=f"{case.what}, bfloat16", work=f"{case.work}_bf16", peak=BFLOAT16_PEAK)


CASES.update({f"{name}_bf16": _in_bfloat16(CASES[name]) for name in (
    "tokenizer_encode", "pretrain_step", "finetune_step", "transformers_finetune_step", "timm_finetune_step",
    "finetune_forward", "transformers_finetune_forward", "timm_finetune_forward", "upernet_step")})
#: names that `--only` takes
PARTS = tuple(dict.fromkeys(case.part for case in CASES.values() if case.part))


class Ratio(NamedTuple):
    """`case`'s metric `of`, as a multiple of that of `over`."""

    case: str
    metric: str
    over: str
    of: str = "images_per_second"


RATIOS = (
    Ratio("pretrain_step", "gflops_over_transformers", "transformers_pretrain_step", "gflops"),
    Ratio("pretrain_step_recompute", "memory_over_kept", "pretrain_step", "peak_memory"),
    Ratio("finetune_step", "speed_over_transformers", "transformers_finetune_step"),
    Ratio("finetune_step", "memory_over_transformers", "transformers_finetune_step", "peak_memory"),
    Ratio("finetune_step", "speed_over_timm", "timm_finetune_step"),
    Ratio("finetune_forward", "speed_over_transformers", "transformers_finetune_forward"),
    Ratio("finetune_forward", "speed_over_timm", "timm_finetune_forward"),
    Ratio("finetune_step_recompute", "memory_over_kept", "finetune_step", "peak_memory"),
    Ratio("pretrain_step_bf16", "speed_over_float32", "pretrain_step"),
    Ratio("pretrain_step_bf16", "memory_over_float32", "pretrain_step", "peak_memory"),
    Ratio("finetune_step_bf16", "speed_over_float32", "finetune_step"),
    Ratio("finetune_step_bf16", "memory_over_float32", "finetune_step", "peak_memory"),
    Ratio("finetune_step_bf16", "speed_over_transformers", "transformers_finetune_step_bf16"),
    Ratio("finetune_step_bf16", "speed_over_timm", "timm_finetune_step_bf16"),
    Ratio("finetune_forward_bf16", "speed_over_transformers", "transformers_finetune_forward_bf16"),
    Ratio("finetune_forward_bf16", "speed_over_timm", "timm_finetune_forward_bf16"),
    Ratio("upernet_step_bf16", "speed_over_float32", "upernet_step"),
)

FLOORS: dict[tuple[str, str], Floor] = {
    ("tokenizer_encode", "share_of_peak"): ("min", 0.78),
    ("pretrain_step", "share_of_peak"): ("min", 0.78),
    ("pretrain_step", "peak_memory"): ("max", 2.8),
    ("pretrain_step_skipping", "speed_over_all_tokens"): ("min", 1.05),
    ("finetune_step", "share_of_peak"): ("min", 0.78),
    ("finetune_step", "peak_memory"): ("max", 2.5),
    ("finetune_step", "speed_over_transformers"): ("min", 0.8),
    ("finetune_forward", "speed_over_transformers"): ("min", 0.8),
    ("upernet_step", "share_of_peak"): ("min", 0.62),
    ("pretrain_step_bf16", "memory_over_float32"): ("max", 1.0),
    ("finetune_step_bf16", "memory_over_float32"): ("max", 1.0),
    ("finetune_step_bf16", "speed_over_transformers"): ("min", 1.1),
    ("finetune_step_bf16", "speed_over_timm"): ("min", 1.1),
    ("slide", "speed_over_one_by_one"): ("min", 1.3),
    ("slide", "difference"): ("max", 1e-5),
    ("quantizer", "seconds"): ("max", 0.3),
    ("quantizer", "extra_memory"): ("max", 100.0),
    ("pretrain_views", "speed_over_plain"): ("min", 1.4),
    ("pretrain_views", "identical"): ("min", 1.0),
    ("finetune_transform", "identical"): ("min", 1.0),
    ("segment_transform", "identical"): ("min", 1.0),
    ("two_processes", "speed_over_one_process"): ("min", 0.9),
}


class Extra(NamedTuple):
    """A metric beyond those of every step: from one process's raw measurements, and which process counts."""

    metric: str
    unit: str
    value: Callable[[dict[str, Any]], float]
    counts: Callable[..., float] = min


def _best(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda one: min(one[key])


def _over(key: str, *keys: str) -> Callable[[dict[str, Any]], float]:
    """The best seconds of `keys` together over those of `key`."""
    return lambda one: sum(min(one[other]) for other in keys) / min(one[key])


def _in_turns(key: str, other: str) -> Callable[[dict[str, Any]], float]:
    """Seconds of `other` over those of `key`, the median of the turns: a burst of other work hits few of them."""
    return lambda one: statistics.median(b / a for a, b in zip(one[key], one[other]))


_DATA = (Extra("speed_over_plain", "", _over("seconds", "plain_seconds"), max),
         Extra("images_per_second", "images/s", lambda one: one["images"] / min(one["seconds"]), max),
         Extra("identical", "", lambda one: float(one["identical"])))
EXTRAS: dict[str, tuple[Extra, ...]] = {
    "pretrain_step_skipping": (Extra("speed_over_all_tokens", "", _in_turns("seconds", "all_tokens"), max),),
    "optimizer_update": (Extra("speed_over_one_array", "", _over("seconds", "one_array", "gather"), max),),
    "static_graph": (Extra("forward_over_eager", "", lambda one: _over("graph", "eager")(one["forward"]), max),
                     Extra("training_over_eager", "", lambda one: _over("graph", "eager")(one["training"]), max)),
    "quantizer": (Extra("seconds_with_backward", "s", _best("with_backward")),
                  Extra("extra_memory", "MB", lambda one: one["extra_bytes"] / 1e6, max)),
    "slide": (Extra("speed_over_one_by_one", "", _over("seconds", "one_by_one"), max),
              Extra("difference", "", lambda one: one["difference"], max)),
    "checkpoint": (Extra("size", "MB", lambda one: one["bytes"] / 1e6, max),
                   Extra("save_seconds", "s", _best("save")), Extra("load_seconds", "s", _best("load")),
                   Extra("save_speed", "MB/s", lambda one: one["bytes"] / 1e6 / min(one["save"]), max),
                   Extra("load_speed", "MB/s", lambda one: one["bytes"] / 1e6 / min(one["load"]), max)),
    "start_up": (Extra("slowest_help", "s", lambda one: max(one["help"].values())),
                 Extra("config", "s", _best("config"))),
    "two_processes": (Extra("speed_over_one_process", "", _over("seconds", "one_process"), max),),
    "pretrain_views": _DATA, "finetune_transform": _DATA, "segment_transform": _DATA,
}
