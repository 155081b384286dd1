# SPDX-License-Identifier: Apache-2.0
"""A planned run as JSON values and as tables."""

from __future__ import annotations

from typing import Any, Optional

from .devices import GB, Device
from .run import COLUMNS, Memory, PlannedRun, Schedule, Speed, duration, memory, work

PARTS = ("weights", "gradients", "optimizer", "frozen", "activations", "working", "reserve", "total")


def as_json(run: PlannedRun, device: Device, speed: Speed, *, reserve_gb: float) -> dict[str, Any]:
    """Everything the tables show; memory in GB of 2**30 bytes, None where something is not known."""
    schedule = run.schedule

    def column(amp: bool, recompute: bool) -> dict[str, Any]:
        found = {sharding: memory(run, device, amp=amp, recompute=recompute, sharding=sharding, reserve_gb=reserve_gb)
                 for sharding in ("off", "stage1", "stage2")}
        return _memory_json(found, run)

    return {
        "kind": run.kind,
        "device": {"name": device.name, "count": schedule.devices, "memory_gb": device.memory_gb},
        "parameters": {"trained": run.parameters[0], "frozen_beside": run.parameters[1], "beside": run.beside},
        "schedule": {**schedule._asdict(), "epochs": schedule.epochs},
        "configured": {"amp": run.amp, "recompute": run.recompute, "sharding": run.sharding},
        "memory": [column(amp, recompute) for amp, recompute in COLUMNS],
        "work": work(run),
        "time": {**duration(run, speed), "source": speed.source},
    }


def _memory_json(by_sharding: dict[str, Memory], run: PlannedRun) -> dict[str, Any]:
    found = by_sharding[run.sharding]
    return {
        "amp": found.amp, "recompute": found.recompute,
        "configured": (found.amp, found.recompute) == (run.amp != "off", run.recompute),
        **{f"{part}_gb": getattr(found, part) / GB for part in PARTS},
        **{f"total_sharding_{stage}_gb": by_sharding[stage].total / GB for stage in ("stage1", "stage2")},
        "fits": found.fits, "largest_batch": found.largest_batch,
        "largest_batch_dividing": None if found.largest_batch is None else dividing(found.largest_batch, run.schedule),
    }


def dividing(largest: int, schedule: Schedule) -> int:
    """The largest batch up to `largest` with which these devices make up the total batch; 0 for none."""
    return next((size for size in range(min(largest, schedule.total_batch), 0, -1)
                 if schedule.total_batch % (size * schedule.devices) == 0), 0)


LABELS = {"frozen": "frozen network beside", "activations": "activations", "working": "working memory",
          "reserve": "reserve (assumed)", "total": "total"}


def memory_rows(found: dict[str, Any]) -> list[list[str]]:
    """Heading and rows of the memory table; the configured column is marked."""
    columns = found["memory"]
    head = [f"GB a device, batch {found['schedule']['batch_size']}"]
    for column in columns:
        words = ("mixed" if column["amp"] else "float32") + (", recompute" if column["recompute"] else "")
        head.append(words + (" *" if column["configured"] else ""))
    rows = [head]
    for part in PARTS:
        if part == "frozen" and not found["parameters"]["frozen_beside"]:
            continue
        rows.append([LABELS.get(part, part), *(_number(column[f"{part}_gb"]) for column in columns)])
    if found["device"]["count"] > 1:
        rows[-1][0] += {"off": "", "stage1": ", sharded, stage 1", "stage2": ", sharded, stage 2"}[
            found["configured"]["sharding"]]
        for stage in (1, 2) if found["configured"]["sharding"] == "off" else ():
            rows.append([f"total if sharded, stage {stage}",
                         *(_number(column[f"total_sharding_stage{stage}_gb"]) for column in columns)])
    size = found["device"]["memory_gb"]
    limit = "?" if size is None else f"{_number(size)} GB"
    rows.append([f"fits in {limit}", *(_word(column["fits"]) for column in columns)])
    for label, key in (("largest batch that fits", "largest_batch"),
                       (f"  and divides {found['schedule']['total_batch']}", "largest_batch_dividing")):
        rows.append([label, *("?" if column[key] is None else str(column[key]) for column in columns)])
    return rows


def facts(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of everything but the memory."""
    schedule, size, done, time = found["schedule"], found["parameters"], found["work"], found["time"]
    rows = [
        ("kind", found["kind"]),
        ("devices", f"{found['device']['count']} x {found['device']['name']}"),
        ("parameters", f"{size['trained']:,} trained" + (
            f", {size['frozen_beside']:,} frozen beside ({size['beside']})" if size["frozen_beside"] else "")),
        ("total batch", f"{schedule['total_batch']} = {schedule['batch_size']} images x {schedule['devices']} "
                        f"device(s) x {schedule['accumulate']} accumulated"),
        ("updates", f"{schedule['total_steps']:,}" + _epochs(schedule)),
        ("GFLOP an image", f"{_number(done['image_gflop'])} = {_number(done['step_gflop'])} (forward "
                            f"{_number(done['forward_gflop'])} and backward" + (
            f"; official code {_number(done['official_step_gflop'])})"
            if done["official_step_gflop"] > done["step_gflop"] else ")") + (
            f" + {_number(done['beside_gflop'])} ({size['beside']})" if done["beside_gflop"] else "")),
        ("work", f"{done['pflop_days']:.4g} PFLOP-days"),
    ]
    if time["hours"] is None:
        return [*rows, ("time", f"not known: {time['source']}")]
    return [*rows, ("images a second", f"{time['images_per_second']:.4g} a device ({time['source']})"),
            ("time", f"{_hours(time['hours'])}, {time['device_hours']:,.4g} device-hours")]


def _number(value: float) -> str:
    """Two decimals from 0.1 up to 100, then one; below, two digits that count."""
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 or value == 0 else f"{value:.2g}"


def _epochs(schedule: dict[str, Any]) -> str:
    if schedule["steps_per_epoch"] is None:
        return ""
    return f" = {schedule['epochs']:.4g} epochs x {schedule['steps_per_epoch']} ({schedule['images']:,} images)"


def _hours(hours: float) -> str:
    if hours >= 48:
        return f"{hours / 24:.3g} days"
    return f"{hours:.3g} hours" if hours >= 1 else f"{60 * hours:.3g} minutes"


def _word(fits: Optional[bool]) -> str:
    return {True: "yes", False: "no", None: "?"}[fits]
