# SPDX-License-Identifier: Apache-2.0
"""The step whose loss is not finite: saved with all it was computed from, and computed again.

`failing_batch_step_N_rank_R.npz` holds the batch, the batches of the same update before it, and in `replay` (JSON) what
else decides the number; the file beside it, `.safetensors`, the weights and buffers before the step.
"""

from __future__ import annotations

import collections
import json
import logging
import math
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import paddle
from numpy.typing import NDArray
from safetensors import SafetensorError

from beitv2_core.engine.seeding import seed_step
from beitv2_core.engine.step import Precision, global_norm
from beitv2_core.engine.task import Task
from beitv2_core.errors import CheckpointError, NonFiniteLossError
from beitv2_core.files.atomic import write_atomically
from beitv2_core.files.json_text import parse_json
from beitv2_core.files.npz import open_npz
from beitv2_core.layers.draws import as_process, micro_batch
from beitv2_core.weights.reading.foreign import read_safetensors
from beitv2_core.weights.writers import write_safetensors

log = logging.getLogger("beitv2_core")
VERSION = 1
_OTHERS = "micro_batch_"


class StepOfRun(NamedTuple):
    """What decides the numbers of a step besides weights and images."""

    step: int
    seed: int
    rank: int
    processes: int
    amp: str
    config: dict[str, Any]


class FailingStep(NamedTuple):
    """A saved step: its batches in order, the number of the failing one, weights and buffers, loss and gradient norm
    as they were, and the rest."""

    of_run: StepOfRun
    batches: list[Any]
    number: int
    weights: dict[str, NDArray[Any]]
    loss: float
    gradient_norm: float


class Replayed(NamedTuple):
    """A failing step computed again.

    loss, gradient_norm: now (the norm of this process's gradients; NaN where the loss has none); same: whether the loss
    is the number it was; where: the first thing with a value that is not finite, None where there is none; gradients:
    parameters whose gradients are not finite.
    """

    loss: float
    gradient_norm: float
    same: bool
    where: str | None
    gradients: list[str]


def file_name(step: int, rank: int) -> str:
    """Of the saved batch."""
    return f"failing_batch_step_{step}_rank_{rank}.npz"


def save_failing(folder: Path, error: NonFiniteLossError, task: Task, of_run: StepOfRun) -> None:
    """Write the step that ended with `error` (of `step.train_step`) into the run folder.

    Weights are the same in every process: the main one writes them, and each whose own loss is not finite.
    """
    found = getattr(error, "failed", None)
    path = folder / file_name(of_run.step, of_run.rank)
    beside = path.with_suffix(".safetensors")
    if found is None:  # raised by a task of another kind
        log.error("%s: nothing is known of the batch of the failing step", folder)
        return
    own = of_run.rank == 0 or not math.isfinite(found.loss)
    told = {"version": VERSION, **of_run._asdict(), "number": found.number, "batches": len(found.batches),
            "loss": repr(found.loss), "gradient_norm": repr(found.gradient_norm),
            "weights": beside.name if own else file_name(of_run.step, 0).replace(".npz", ".safetensors")}
    arrays = {"replay": np.array(json.dumps(told))}
    for i, batch in enumerate(found.batches):
        prefix = "" if i == found.number else f"{_OTHERS}{i}/"
        fields = batch._asdict() if hasattr(batch, "_asdict") else {}
        arrays.update({prefix + name: np.asarray(value) for name, value in fields.items()})
    try:
        if own:
            weights = {name: value.numpy() for name, value in task.model.state_dict().items()}
            weights.update({name: value.numpy() for name, value in found.buffers.items() if name in weights})
            write_safetensors(beside, weights, {})
        with write_atomically(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type,unused-ignore]
    except (OSError, CheckpointError) as problem:  # the loss is what ends the run, and must stay its error
        log.error("%s: the batch of the failing step could not be written: %s", path, problem)
        return
    log.error("%s: the batch of the failing step; `beitv2 replay %s` computes it again and says where the first value "
              "that is not finite appears", path, path)


def read_failing(path: Path) -> FailingStep:
    """Read what `save_failing` wrote; CheckpointError where it is missing, damaged or of an earlier version."""
    try:
        with open_npz(path) as file:
            arrays = {name: file[name] for name in file.files}
        if "replay" not in arrays:
            raise CheckpointError(f"{path}: no saved step: it holds {', '.join(arrays) or 'nothing'}, and no `replay`. "
                                  "Earlier versions saved the batch alone, which cannot be computed again.")
        told = parse_json(str(arrays.pop("replay")))
        if not 0 <= told["number"] < told["batches"] <= len(arrays):
            raise ValueError(f"batch {told['number']} of {told['batches']} in {len(arrays)} arrays")
        weights, _ = read_safetensors(path.with_name(Path(told["weights"]).name))
        of_run = StepOfRun(**{name: told[name] for name in StepOfRun._fields})
        batches = [_batch(arrays, "" if i == told["number"] else f"{_OTHERS}{i}/") for i in range(told["batches"])]
        return FailingStep(of_run, batches, told["number"], weights, float(told["loss"]),
                           float(told["gradient_norm"]))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, SafetensorError) as error:
        raise CheckpointError(f"{path}: the saved step cannot be read: {error}. Expected failing_batch_step_N_rank_R"
                              ".npz of a run folder, and the .safetensors beside it.") from None


def _batch(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Any:
    fields = {name[len(prefix):]: value for name, value in arrays.items()
              if name.startswith(prefix) and (prefix or not name.startswith(_OTHERS))}
    values = {name: value.tolist() if value.dtype.kind == "U" else value for name, value in fields.items()}
    return collections.namedtuple("SavedBatch", list(values))(**values)


def replay(saved: FailingStep, task: Task) -> Replayed:
    """Compute the step again, up to the failing batch, from its weights and draws.

    A step of several processes is computed by one, as its process: what its loss takes from other processes' images (a
    synchronised batch norm, the first k-means) is missing then.  Raises CheckpointError where the weights are not of
    this model.
    """
    of_run, state = saved.of_run, task.model.state_dict()
    if set(state) != set(saved.weights):
        names = sorted(set(state) ^ set(saved.weights))
        raise CheckpointError(f"the saved weights are not of this model; {len(names)} arrays differ "
                              f"({', '.join(names[:4])}). Use the version that wrote them.")
    task.model.set_state_dict({name: paddle.to_tensor(saved.weights[name]) for name in state})
    task.model.train()
    precision = Precision(of_run.amp)
    seed_step(of_run.seed, of_run.step, of_run.rank)
    count, drawn_from, loss = len(saved.batches), paddle.get_rng_state(), paddle.zeros([])
    watch = _Watch(task, saved)
    for i, batch in enumerate(saved.batches[:saved.number + 1]):
        paddle.set_rng_state(drawn_from)
        with as_process(of_run.rank, of_run.processes), micro_batch(i, count), precision.autocast(), watch:
            loss, _ = task.loss(batch, step=of_run.step)
        if math.isfinite(float(loss)):
            (loss / count if count > 1 else loss).backward()
    value = float(loss.astype("float32"))
    gradients = [name for name, parameter in task.model.named_parameters()
                 if parameter.grad is not None and not _finite(parameter.grad)]
    norm = float(global_norm(task.model.parameters())) if math.isfinite(value) else math.nan
    same = value == saved.loss or (math.isnan(value) and math.isnan(saved.loss))
    return Replayed(value, norm, same, watch.found, gradients)


class _Watch:
    """Inside, the first layer of a task's model that gives a value that is not finite is noted; images and weights that
    have one come before the layers."""

    def __init__(self, task: Task, saved: FailingStep):
        self.found: str | None = None
        self._layers = [(name, layer) for name, layer in task.model.named_sublayers() if name]
        for i, batch in enumerate(saved.batches):
            self._note(f"`{name}` of the batch" + (f" {i}" if len(saved.batches) > 1 else "")
                       for name, value in batch._asdict().items() if _bad_array(value))
        self._note(f"the weights {name}" for name, value in saved.weights.items() if _bad_array(value))

    def _note(self, names: Iterator[str]) -> None:
        self.found = self.found or next(names, None)

    def __enter__(self) -> None:
        self._handles = [layer.register_forward_post_hook(
            lambda _, __, output, name=name: self._note(f"the output of {name}" for one in _tensors(output)
                                                        if not _finite(one)))
            for name, layer in self._layers]

    def __exit__(self, *exc: object) -> None:
        for handle in self._handles:
            handle.remove()


def _bad_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and not np.isfinite(value).all()


def _tensors(value: Any) -> Iterator[paddle.Tensor]:
    """The floating-point tensors of a layer's output."""
    if isinstance(value, paddle.Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _tensors(one)


@paddle.no_grad()
def _finite(value: paddle.Tensor) -> bool:
    return bool(paddle.isfinite(value.astype("float32")).all())
