# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, logging, checkpoints and exact resume, for any method.

Exactness: everything random is a function of (seed, step, place in the update's batch) or (seed, epoch, image), so a
run that was killed at any moment and resumed from its newest checkpoint repeats the lost steps bit for bit, and the
number of processes changes rounding only (mixing of images excepted, `data/views/mixup.py`).
"""

from __future__ import annotations

import hashlib
import logging
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import numpy as np
import paddle
import yaml
from numpy.typing import NDArray

from beitv2_core.engine import distributed
from beitv2_core.engine.common_start import check_agreement, check_common_step
from beitv2_core.engine.optim import load_optimizer_state, optimizer_state, set_weight_decay
from beitv2_core.engine.progress import Progress
from beitv2_core.engine.run_folder import RunFolder, as_output_error, environment
from beitv2_core.engine.sharding import ShardedOptimizer, shard_optimizer
from beitv2_core.engine.step import TRAIN_SETTINGS, Precision, SettingNames, is_out_of_memory, out_of_memory, train_step
from beitv2_core.engine.task import Task
from beitv2_core.engine.trackers import flat
from beitv2_core.errors import BEiTError, CheckpointError, ConfigError, DataError, NonFiniteLossError
from beitv2_core.launching.records import is_restart

log = logging.getLogger("beitv2_core")
#: settings a resumed run may change: they do not touch what is computed (the loader refuses another total batch)
FREE_SETTINGS = ("output", "train.batch_size", "train.total_batch", "train.sharding", "train.recompute",
                 "train.log_every", "train.save_every", "train.keep_last", "train.keep_every", "train.trackers",
                 "train.other_data", "data.num_workers", "data.root", "data.max_corrupt", "data.max_pixels",
                 "tokenizer.weights", "tokenizer.cache.path", "teacher.weights", "teacher.cache.path", "monitor.")


class TrainingInterrupted(BEiTError):
    """SIGINT or SIGTERM (`signal_number`) stopped the run; the step was finished and a checkpoint written."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class TrainLoop:
    """Train `task` for `total_steps` updates.

    loader: endless batches of numpy arrays with `state`, `load_state`, `steps_per_epoch` (batches of one process) and
    `identity()` (text that identifies its images, or None);
    lr, weight_decay: one value per step; accumulate: batches behind one update; store: a CheckpointStore or the like;
    images_per_step: images of all processes behind one update; at_end: called in every process after the last
    step, its values become summary["final"]; on_start: called with the run folder, once it is locked and before
    anything is read from it, in the main process; on_finish: called with (run, summary) after at_end, there too;
    free_settings: dotted keys, or their beginnings, that a resumed run may change; sharding: of the optimizer's state
    ("off", "stage1", "stage2"); names: of the settings, for errors; other_data: a resumed run may go on with other
    images; reread: completes a checkpoint's settings with those that came later.
    """

    def __init__(self, task: Task, loader: Any, optimizer: Any, *, lr: NDArray[Any], weight_decay: NDArray[Any],
                 run: RunFolder, store: Any, config: Mapping[str, Any], seed: int, images_per_step: int,
                 clip_norm: float | None = None, accumulate: int = 1, amp: str = "off", log_every: int = 50,
                 save_every: int = 1000, title: str = "training",
                 on_start: Sequence[Callable[[RunFolder], None]] = (), on_finish: Sequence[Callable[..., None]] = (),
                 at_end: Callable[[], dict[str, Any]] | None = None, free_settings: Sequence[str] = FREE_SETTINGS,
                 sharding: str = "off", names: SettingNames = TRAIN_SETTINGS, other_data: bool = False,
                 reread: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict):
        if len(lr) != len(weight_decay):
            raise ConfigError(f"TrainLoop: {len(lr)} learning rates, {len(weight_decay)} weight decays; one each.")
        self.task, self.loader = task, loader
        self.precision = Precision(amp, off=names.amp_off)
        self.optimizer = shard_optimizer(optimizer, task.model, sharding, amp, key=names.sharding)
        self.lr, self.weight_decay, self.total_steps = lr, weight_decay, len(lr)
        self.run_folder, self.store, self.config, self.seed = run, store, dict(config), seed
        self.images_per_step, self.clip_norm, self.accumulate = images_per_step, clip_norm, accumulate
        self.log_every, self.save_every, self.title, self.on_finish = log_every, save_every, title, list(on_finish)
        self.on_start, self.at_end, self.free_settings = list(on_start), at_end, tuple(free_settings)
        self.reread = reread
        self.global_batch_size = images_per_step // accumulate
        self.step = 0
        self._signal: int | None = None
        self.other_data, self.names = other_data, names
        self._data: str | None = None
        self._window: dict[str, float] = {}
        self._window_steps = 0
        self._measured: dict[str, float] = {}
        self._made_by: dict[str, Any] = {}

    def run(self, resume: Union[str, Path, None] = "auto", *, stop_after: int | None = None) -> dict[str, Any]:
        """Train to the end (or `stop_after` steps from here) and return the summary.

        resume: "auto" continues from the newest valid checkpoint of the run folder, if any; a path: from that one;
        None starts a new run and refuses a folder that already holds checkpoints.
        Raises NonFiniteLossError, TrainingInterrupted, OutOfMemoryError, CheckpointError, OutputError, ConfigError,
        DataError.
        """
        distributed.init()
        main = distributed.is_main()
        if main:
            self.run_folder.open()
        try:
            if main:
                self.store.remove_leftovers()
                with as_output_error(self.run_folder.path):
                    for callback in self.on_start:
                        callback(self.run_folder)
            distributed.barrier()
            self._data = self.loader.identity()
            check_agreement(self.config, self._data)
            self._start(resume)
            check_common_step(self.step, self.run_folder.path)
            if main:
                self.store.abandon_after(self.step)  # else --resume auto would go back to what this resume left behind
            self.task.network = (paddle.DataParallel(self.task.model) if distributed.world_size() > 1
                                 else self.task.model)
            if main:
                self._made_by = environment(self.seed, paddle.device.get_device(), distributed.world_size())
                self.run_folder.describe(yaml.safe_dump(self.config, sort_keys=False), self._made_by)
                self.run_folder.start_metrics(self.step, self.config)
            previous = self._catch_signals()
            try:
                return self._train(stop_after)
            finally:
                for number, handler in previous.items():
                    signal.signal(number, handler)
        except TrainingInterrupted:  # in every process after the same step
            raise
        except BaseException as error:
            distributed.fail(error)
            raise
        finally:
            if main:
                self.run_folder.close()
            close = getattr(self.loader, "close", None)
            if close is not None:
                close()

    # -- steps ---------------------------------------------------------------------------------------------------------

    def _train(self, stop_after: int | None) -> dict[str, Any]:
        began, first = time.monotonic(), self.step
        last = self.total_steps if stop_after is None else min(self.total_steps, self.step + stop_after)
        values: dict[str, float] = {}
        batches = iter(self.loader)
        with Progress(self.title, self.total_steps, self.step, images_per_step=self.images_per_step,
                      enabled=distributed.is_main()) as progress:
            while self.step < last and not self.task.finished:
                epoch = self._epoch(self.step)
                if self.step == 0 or epoch != self._epoch(self.step - 1):
                    self.task.on_epoch(epoch)
                step_batches = [next(batches) for _ in range(self.accumulate)]
                distributed.barrier_on_cpu()
                self._take_step(step_batches)
                progress.advance(self.step)
                if self.step % self.log_every == 0 or self.step == self.total_steps:
                    values = self._log(progress, epoch)
                elif self._measured and distributed.is_main():
                    self.run_folder.log(self.step, {"epoch": float(epoch), **self._measured})
                if self._measured:
                    progress.say(self.step, self._measured)
                if self._signal_seen():
                    self._save()
                    raise TrainingInterrupted(
                        f"{self.run_folder.path}: stopped by signal {self._signal} after step {self.step}, "
                        "which is saved. Continue with --resume auto.", self._signal or signal.SIGTERM)
                if self.step % self.save_every == 0 or self.step == last or self.task.finished:
                    self._save()
        seconds = max(time.monotonic() - began, 0.0)
        summary = {"steps": self.step, "total_steps": self.total_steps, "seconds": round(seconds, 2),
                   "images_per_second": (self.step - first) * self.images_per_step / max(seconds, 1e-9), "last": values}
        done = self.step == self.total_steps or self.task.finished
        if done and self.at_end is not None:
            summary["final"] = self.at_end()
        if done and distributed.is_main():
            with as_output_error(self.run_folder.path):
                for callback in self.on_finish:
                    callback(self.run_folder, summary)
            self.run_folder.summarise(summary)
            log.info("%s: finished after step %d; give this folder to the commands that take a run",
                     self.run_folder.path, self.step)
        return summary

    def _epoch(self, step: int) -> int:
        return step * self.accumulate // int(self.loader.steps_per_epoch)

    def _take_step(self, batches: list[Any]) -> None:
        self._seed_step()
        self.optimizer.set_lr(float(self.lr[self.step]))
        set_weight_decay(self.optimizer, float(self.weight_decay[self.step]))
        self.task.model.train()
        try:
            metrics = train_step(self.task, batches, self.optimizer, self.precision, step=self.step,
                                 clip_norm=self.clip_norm)
        except NonFiniteLossError as error:
            self._save_failing(getattr(error, "batch", None))
            raise
        except Exception as error:  # Paddle has several types for it
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(error, f"{self.run_folder.path}: step {self.step}", self.images_per_step,
                                self.accumulate * distributed.world_size(), saved=self.step > 0,
                                names=self.names) from error
        self._measured = self.task.after_step(step=self.step) or {}
        self.step += 1
        self._window_steps += 1
        for name, value in metrics.items():
            self._window[name] = self._window.get(name, 0.0) + value

    def _seed_step(self) -> None:
        """Make this step's draws functions of seed and step.

        Paddle's generator is the same in every process: layers draw for the whole batch and take their own rows
        (`layers/draws.py`).  Python's and numpy's, from which tasks draw (mixup), are each process's own.
        """
        own, shared = (self._step_seed(rank) for rank in (distributed.rank(), 0))
        random.seed(own)
        np.random.seed(own)
        paddle.seed(shared)

    def _step_seed(self, rank: int) -> int:
        key = f"{self.seed}/{rank}/{self.step}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")

    def _log(self, progress: Progress, epoch: int) -> dict[str, float]:
        self._share_window()
        means = {name: total / self._window_steps for name, total in self._window.items()}
        self._window, self._window_steps = {}, 0
        extras = self.task.log_values()  # on every rank: it may communicate
        rate = progress.images_per_second(self.step)
        rates = {"lr": float(self.lr[self.step - 1]), "weight_decay": float(self.weight_decay[self.step - 1])}
        values = {**means, **rates, "epoch": float(epoch), **extras, **self._measured}
        if distributed.is_main():
            self.run_folder.log(self.step, {**values, "images_per_second": rate})
            shown = {name: value for name, value in values.items() if name not in self._measured
                     and (name in ("loss", "lr") or name.startswith(("acc", "usage", "perplexity")))}
            progress.line(self.step, {**shown, "images/s": rate})
        return values

    def _share_window(self) -> None:
        """Replace the sums since the last log line by their means over the processes: the same in all of them."""
        if distributed.world_size() > 1 and self._window:
            names = sorted(self._window)
            sums = paddle.to_tensor([self._window[name] for name in names], dtype="float64")
            self._window = dict(zip(names, distributed.all_reduce_mean(sums).numpy().tolist()))

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        self._share_window()  # what a resume reads, with any number of processes
        optimizer = {}
        if distributed.is_main() or isinstance(self.optimizer, ShardedOptimizer):
            optimizer = optimizer_state(self.optimizer, self.task.model)
        if distributed.is_main():
            # The generators of Python, numpy and Paddle start anew from (seed, step) at every step: this is their
            # whole state.
            state = {"rng": {"seed": self.seed, "step": self.step}, "loader": self.loader.state(),
                     "task": self.task.state(), "scaler": self.precision.state(),
                     "window": {"sums": dict(self._window), "steps": self._window_steps},
                     "data": self._data, "processes": self._made_by["processes"], "at_once": self.global_batch_size,
                     "versions": self._made_by["versions"]}
            weights = {name: value.numpy() for name, value in self.task.model.state_dict().items()}
            self.store.save(self.step, weights, optimizer, state, self.config)
            self.run_folder.check_present()
        distributed.barrier()

    def _start(self, resume: Union[str, Path, None]) -> None:
        found = self.store.latest() if resume in ("auto", None) else Path(str(resume))
        if is_restart() and resume not in ("auto", None):  # what this job has saved since, if anything
            newest = self.store.latest()
            if newest is not None and self.store.load(newest).step > self.store.load(Path(str(resume))).step:
                found = newest
        if resume is None and found is not None and not is_restart():
            raise ConfigError(
                f"{self.run_folder.path}: this run folder already holds {found.name}. Continue it with --resume auto, "
                "or choose another output folder."
            )
        if found is None:
            return
        saved = self.store.load(found)
        self._check_settings(saved.config, found)
        self._check_data(saved.state.get("data"), found)
        state = self.task.model.state_dict()
        wrong = [name for name in set(state) ^ set(saved.weights)] or [
            name for name, value in state.items() if list(value.shape) != list(saved.weights[name].shape)]
        if wrong:
            raise CheckpointError(
                f"{found}: not of this model; {len(wrong)} arrays differ ({', '.join(sorted(wrong)[:4])}). "
                "Use the settings it was made with, or another output folder."
            )
        self.task.model.set_state_dict({name: paddle.to_tensor(saved.weights[name]) for name in state})
        load_optimizer_state(self.optimizer, self.task.model, saved.optimizer)
        self.loader.load_state(saved.state["loader"])
        self.task.load_state(saved.state["task"])
        self.precision.load_state(saved.state["scaler"])
        self._window, self._window_steps = dict(saved.state["window"]["sums"]), saved.state["window"]["steps"]
        self.step = saved.step
        before = saved.state.get("at_once", self.global_batch_size)
        if before != self.global_batch_size and distributed.is_main():
            log.warning(
                "%s: made with a global batch size of %d (batch size x processes), now it is %d. Updates are made of "
                "the same images, but what is computed from one batch (batch norm, the tokenizer's codebook) is "
                "computed from other batches.", found, before, self.global_batch_size)
        log.info("%s: continuing after step %d of %d", found, self.step, self.total_steps)

    def _check_settings(self, saved: Mapping[str, Any], source: Path) -> None:
        before, now = flat(self.reread(saved)), flat(self.config)
        changed = [key for key in sorted(set(before) | set(now))
                   if before.get(key) != now.get(key) and not key.startswith(self.free_settings)]
        if changed:
            listed = ", ".join(f"{key}: {before.get(key)!r} -> {now.get(key)!r}" for key in changed)
            raise ConfigError(
                f"{source}: the run was started with other settings ({listed}). A resumed run must equal the "
                "uninterrupted one: use the same settings, or another output folder."
            )

    def _check_data(self, before: str | None, source: Path) -> None:
        if before is None or self._data is None or before == self._data:  # None: drawn, or saved before it was kept
            return
        what = f"{source}: the run was trained on other images; their names, labels or bytes differ from those given"
        if not self.other_data:
            raise DataError(f"{what}. A resumed run must equal the uninterrupted one: give it the same images (the "
                            f"folder may have moved), or set {self.names.other_data}=true to continue with these.")
        if distributed.is_main():
            log.warning("%s; the run continues with those given, because %s=true is set.", what, self.names.other_data)

    def _save_failing(self, batch: Any) -> None:
        fields = batch._asdict() if hasattr(batch, "_asdict") else {}
        arrays = {name: np.asarray(value) for name, value in fields.items()}
        path = self.run_folder.path / f"failing_batch_step_{self.step}_rank_{distributed.rank()}.npz"
        try:
            self.run_folder.path.mkdir(parents=True, exist_ok=True)
            np.savez(str(path), **arrays)  # type: ignore[arg-type,unused-ignore]
        except OSError as error:  # the loss is what ends the run, and must stay its error
            path.unlink(missing_ok=True)
            log.error("%s: the batch of the failing step could not be written: %s", path, error)
            return
        log.error("%s: the batch of the failing step", path)

    # -- signals -------------------------------------------------------------------------------------------------------

    def _catch_signals(self) -> dict[int, Any]:
        def remember(number: int, frame: Any) -> None:
            self._signal = number

        try:
            return {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread: the caller handles signals
            return {}

    def _signal_seen(self) -> bool:
        """True on every process as soon as one has seen a signal: they must stop at the same step."""
        if distributed.world_size() == 1:
            return self._signal is not None
        # The second wait of a step for the device, in runs of several processes only: read a step later, the run would
        # end after another step than the one that was under way.
        flag = distributed.all_reduce_mean(paddle.to_tensor([float(self._signal or 0)]))
        stop = bool(flag.item() > 0)
        if stop and self._signal is None:
            self._signal = signal.SIGTERM
        return stop
