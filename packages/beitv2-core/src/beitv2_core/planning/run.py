# SPDX-License-Identifier: Apache-2.0
"""A planned run and what follows from it: memory of a device, work, time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

from ..errors import ConfigError
from .cost import FLOAT32_BYTES, Cost, LayerCosts
from .devices import GB, Device

DAY = 86400
#: ("off" or "amp", recompute): the columns of the memory table
COLUMNS = ((False, False), (False, True), (True, False), (True, True))


class Schedule(NamedTuple):
    """How images become updates: sizes in images, lengths in updates; None where the images were not counted."""

    batch_size: int
    devices: int
    accumulate: int
    total_batch: int
    total_steps: int
    images: Optional[int]
    steps_per_epoch: Optional[int]

    @property
    def epochs(self) -> Optional[float]:
        """Passes over the data."""
        return self.total_steps / self.steps_per_epoch if self.steps_per_epoch else None


class PlannedRun(NamedTuple):
    """A run to plan, as its package gives it (entry points `beitv2.plans`: kind -> function(config, images, devices)).

    costs: (what is trained, the frozen network beside it) in float32 or mixed precision; parameters: how many numbers
    both have, counted in built models; beside: that network's name, empty for none; states: numbers the optimizer keeps
    for one that is trained; averaged: the weights are averaged as well; amp, recompute, sharding ("off", "stage1",
    "stage2"): as configured.
    """

    kind: str
    schedule: Schedule
    costs: Callable[[LayerCosts], tuple[Cost, Cost]]
    parameters: tuple[int, int]
    beside: str = ""
    states: int = 2
    averaged: bool = False
    amp: str = "off"
    recompute: bool = False
    sharding: str = "off"


class Memory(NamedTuple):
    """Bytes on one device at the fullest moment of a step; largest_batch: None where the memory is unknown."""

    amp: bool
    recompute: bool
    weights: float
    gradients: float
    optimizer: float
    frozen: float
    activations: float
    working: float
    reserve: float
    largest_batch: Optional[int]
    fits: Optional[bool]

    @property
    def total(self) -> float:
        """All of it."""
        return (self.weights + self.gradients + self.optimizer + self.frozen + self.activations + self.working
                + self.reserve)


class Speed(NamedTuple):
    """images: per second of one device, None where not known; source: where the number comes from, in words."""

    images: Optional[float]
    source: str


def memory(run: PlannedRun, device: Device, *, amp: bool, recompute: bool, reserve_gb: float,
           sharding: str = "off") -> Memory:
    """Bytes on one device; all gradients are there before the update, so that everything is there at once.

    working: two tensors of the largest kind, which come and go (scores and their gradient, logits and theirs).
    sharding: stage1 divides what the optimizer keeps among the devices, stage2 the gradients too.
    """
    trained, frozen = run.costs(LayerCosts(amp))
    weights = FLOAT32_BYTES * run.parameters[0] * (2 if run.averaged else 1) + trained.buffer_bytes
    devices = run.schedule.devices
    gradients = FLOAT32_BYTES * run.parameters[0] / (devices if sharding == "stage2" else 1)
    optimizer = FLOAT32_BYTES * run.states * run.parameters[0] / (1 if sharding == "off" else devices)
    beside, reserve = FLOAT32_BYTES * run.parameters[1] + frozen.buffer_bytes, reserve_gb * GB
    batch, working = run.schedule.batch_size, 2 * max(trained.largest_tensor_bytes, frozen.largest_tensor_bytes)
    fixed = weights + gradients + optimizer + beside + reserve + trained.peak_bytes(0, recompute)
    image = trained.peak_bytes(1, recompute) - trained.peak_bytes(0, recompute) + working
    largest, fits = None, None
    if device.memory_gb is not None:
        largest = max(0, math.floor((device.memory_gb * GB - fixed) / image))
        fits = batch <= largest
    return Memory(amp, recompute, weights, gradients, optimizer, beside, trained.peak_bytes(batch, recompute),
                  batch * working, reserve, largest, fits)


def work(run: PlannedRun) -> dict[str, float]:
    """GFLOP an image, and PFLOP-days of the whole run; official: with the tokens whose output is not needed."""
    trained, frozen = run.costs(LayerCosts(run.amp != "off"))
    step = trained.step_flop(run.recompute)
    images = run.schedule.total_steps * run.schedule.total_batch
    return {"forward_gflop": trained.forward_flop / 1e9, "step_gflop": step / 1e9,
            "official_step_gflop": trained.official_flop(run.recompute) / 1e9,
            "beside_gflop": frozen.forward_flop / 1e9,
            "image_gflop": (step + frozen.forward_flop) / 1e9,
            "pflop_days": images * (step + frozen.forward_flop) / 1e15 / DAY}


def estimated_speed(run: PlannedRun, device: Device, share: float) -> Speed:
    """Images a second where a device reaches `share` of its published peak; unknown without a published peak."""
    peak, full = device.peak(run.amp), device.peak("off")
    if device.name == "cpu" and (peak is None or full is None):
        return Speed(None, "the speed of this machine is not published. The training command with --dry-run takes one "
                           "step and prints its seconds; or give --throughput, --measured or --peak-tflops")
    if peak is None or full is None:
        return Speed(None, f"{device.name} has no published peak here: give --peak-tflops, --throughput or --measured")
    trained, frozen = run.costs(LayerCosts(run.amp != "off"))
    in_full = trained.float32_flop + frozen.float32_flop
    fast = trained.step_flop(run.recompute) + frozen.forward_flop - in_full
    seconds = (fast / peak + in_full / full) / (share * 1e12)
    words = f"{100 * share:g} % of {peak:g} TFLOP/s"
    if in_full:
        words += f", of {full:g} for {in_full / 1e9:.1f} GFLOP that stay in float32"
    return Speed(1 / seconds, f"estimate, assuming {words}")


def measured_speed(run: PlannedRun, outcome: Any, source: str) -> Speed:
    """Images a second of the machine of a result file of benchmarks/, scaled by the GFLOP an image.

    Raises ConfigError where the file is none, or holds no step of this kind.
    """
    case = {"pretrain": "pretrain_step", "finetune": "finetune_step"}.get(run.kind)
    try:
        values = {(entry["case"], entry["metric"]): float(entry["value"]) for entry in outcome["metrics"]}
        machine = f"{outcome['hardware']['processor']}, {outcome['hardware']['cores']} cores"
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"--measured {source}: no result file of benchmarks/ ({error!r} is missing or wrong). See "
                          "benchmarks/README.md for its form.") from None
    share, peak = values.get((case or "", "share_of_peak")), values.get(("matmul_peak", "gflops"))
    if share is None or peak is None:
        found = sorted({name for name, metric in values if metric == "share_of_peak"})
        raise ConfigError(f"--measured {source}: it holds no step of a {run.kind!r} run, only "
                          f"{', '.join(found) or 'none'}. Give --throughput instead.")
    done = work(run)  # a share of the peak counts what the official step computes
    speed = share * peak / (done["official_step_gflop"] + done["beside_gflop"])
    return Speed(speed, f"scaled by the work from {case} measured on {machine}: {share * peak:.0f} GFLOP/s")


def duration(run: PlannedRun, speed: Speed) -> dict[str, Optional[float]]:
    """Hours of the run and of all its devices together; images a second of one."""
    if speed.images is None:
        return {"images_per_second": None, "hours": None, "device_hours": None}
    images = run.schedule.total_steps * run.schedule.total_batch
    hours = images / (speed.images * run.schedule.devices) / 3600
    return {"images_per_second": speed.images, "hours": hours, "device_hours": hours * run.schedule.devices}
