# SPDX-License-Identifier: Apache-2.0
"""Where a run's scalars go beside metrics.jsonl: TensorBoard, Weights & Biases, MLflow, VisualDL, and third parties'.

A tracker is asked for by name (`train.trackers`); the entry points 'beitv2.trackers' add more.  A name stands for a
callable `(run: TrackedRun) -> Tracker`, called in the main process when the run starts or is continued.
"""

from __future__ import annotations

import abc
import importlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from beitv2_core.errors import MissingDependencyError
from beitv2_core.files.atomic import write_text_atomically

log = logging.getLogger("beitv2_core")
ENTRY_POINTS = "beitv2.trackers"
_MLFLOW_PARAMS = 100  # the most that one request may bring


class TrackedRun(NamedTuple):
    """A run as trackers see it: its folder, the step it starts after (0: a new one) and its settings."""

    path: Path
    step: int
    config: Mapping[str, Any]


class Tracker(abc.ABC):
    """Receives what a run measures.  An OSError of writing ends the run with advice; checkpoints are intact then."""

    @abc.abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Scalars after `step` updates.  A continued run repeats steps it had logged, with the same values."""

    def log_figure(self, tag: str, path: Path, step: int) -> None:  # noqa: B027  # those that show none leave it out
        """A PNG file."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write what is left."""


class VisualDL(Tracker):
    """Scalars and figures in RUN/visualdl."""

    def __init__(self, run: TrackedRun):
        from visualdl import LogWriter

        self._writer = LogWriter(logdir=str(run.path / "visualdl"), display_name=run.path.name)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(tag=name, value=value, step=step)

    def log_figure(self, tag: str, path: Path, step: int) -> None:
        self._writer.add_image(tag=tag, img=_pixels(path), step=step)

    def close(self) -> None:
        self._writer.close()


def visualdl_is_there() -> bool:
    """Whether VisualDL can be imported; a line in the log says why not."""
    try:
        importlib.import_module("visualdl")
    except Exception as error:  # an optional package: its import error must not stop a run
        log.info("VisualDL is not available (%s).", error)
        return False
    return True


class TensorBoard(Tracker):
    """Scalars and figures in RUN/tensorboard; what a continued run repeats is purged, so that it stands there once."""

    def __init__(self, run: TrackedRun):
        package = _package("tensorboardX", "tensorboard")
        self._writer = package.SummaryWriter(str(run.path / "tensorboard"),
                                             purge_step=run.step + 1 if run.step else None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def log_figure(self, tag: str, path: Path, step: int) -> None:
        self._writer.add_image(tag, _pixels(path), step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, in RUN/wandb and where WANDB_MODE, WANDB_PROJECT, ... say; continued, the same one.

    Its steps only grow: what a continued run repeats is left out there, where it stands already.
    """

    def __init__(self, run: TrackedRun):
        package = _package("wandb", "wandb")
        found = _kept(run, "wandb_run", lambda: uuid.uuid4().hex)
        self._run = package.init(id=found, name=run.path.name, dir=str(run.path), config=dict(run.config),
                                 resume="allow")
        self._image = package.Image

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def log_figure(self, tag: str, path: Path, step: int) -> None:
        self._run.log({tag: self._image(str(path))}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow(Tracker):
    """A run of MLflow, where MLFLOW_TRACKING_URI says (MLflow's default: this machine); a continued run is the same.

    Its experiment is MLFLOW_EXPERIMENT_NAME, or "beitv2".  What a continued run repeats stands there twice, with the
    same values.
    """

    def __init__(self, run: TrackedRun):
        package = _package("mlflow", "mlflow")
        self._entities, self._client = package.entities, package.MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "beitv2")
        found = self._client.get_experiment_by_name(name)
        experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        self._id = _kept(run, "mlflow_run", lambda: str(
            self._client.create_run(experiment, run_name=run.path.name).info.run_id))
        if run.step:
            self._client.update_run(self._id, status="RUNNING")
            return
        params = [package.entities.Param(key, str(value)) for key, value in flat(run.config).items()]
        for start in range(0, len(params), _MLFLOW_PARAMS):
            self._client.log_batch(self._id, params=params[start:start + _MLFLOW_PARAMS])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._client.log_batch(self._id, metrics=[self._entities.Metric(name, float(value), now, step)
                                                  for name, value in values.items()])

    def log_figure(self, tag: str, path: Path, step: int) -> None:
        self._client.log_artifact(self._id, str(path))

    def close(self) -> None:
        self._client.set_terminated(self._id)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of settings."""
    if not isinstance(tree, Mapping):
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found.update(flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


#: what `train.trackers` may say; VisualDL needs no asking: it is written where it is installed
TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow,
}


def _package(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # an import can raise anything
        raise MissingDependencyError(f"train.trackers: {extra}: {module} cannot be imported ({error}). Type: "
                                     f"pip install 'beitv2-core[{extra}]', or leave {extra} out.") from None


def _kept(run: TrackedRun, name: str, make: Callable[[], str]) -> str:
    """The identifier that a run keeps in a file of its folder; made for a new run."""
    path = run.path / name
    if run.step and path.is_file():
        return path.read_text(encoding="utf-8").strip()
    made = make()
    write_text_atomically(path, made + "\n")
    return made


def _pixels(path: Path) -> Any:
    import numpy as np
    from PIL import Image

    return np.array(Image.open(path).convert("RGB"))
