# SPDX-License-Identifier: Apache-2.0
"""The training loop: steps, logging, checkpoints and exact resume, for any method.

Exactness: everything random is a function of (seed, step, place in the update's batch) or (seed, epoch, image), so a
run that was killed at any moment and resumed from its newest checkpoint repeats the lost steps bit for bit, and the
number of processes changes rounding only (mixing of images excepted, `data/views/mixup.py`).
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

import paddle
import yaml
from numpy.typing import NDArray

from beitv2_core.engine import distributed
from beitv2_core.engine.agreement import Difference, StateDiffers
from beitv2_core.engine.common_start import check_agreement, check_common_step
from beitv2_core.engine.failing import StepOfRun, save_failing
from beitv2_core.engine.guard import Guard
from beitv2_core.engine.optim import load_optimizer_state, set_weight_decay
from beitv2_core.engine.progress import Progress
from beitv2_core.engine.run_folder import RunFolder, as_output_error, environment
from beitv2_core.engine.same_run import check_arrays, check_data, check_settings
from beitv2_core.engine.saving import CheckpointWriter, copy_of, newest_checkpoint
from beitv2_core.engine.seeding import seed_step
from beitv2_core.engine.sharding import shard_optimizer
from beitv2_core.engine.step import TRAIN_SETTINGS, Precision, SettingNames, is_out_of_memory, out_of_memory, train_step
from beitv2_core.engine.task import Task
from beitv2_core.errors import BEiTError, CheckpointError, ConfigError, NonFiniteLossError
from beitv2_core.launching.records import is_restart

log = logging.getLogger("beitv2_core")
#: settings a resumed run may change: they do not touch what is computed (the loader refuses another total batch)
FREE_SETTINGS = ("output", "train.batch_size", "train.total_batch", "train.sharding", "train.recompute",
                 "train.log_every", "train.save_every", "train.check_every", "train.verify_every", "train.keep_last",
                 "train.keep_every", "train.trackers", "train.other_data", "data.num_workers", "data.root",
                 "data.max_corrupt", "data.max_pixels", "tokenizer.weights", "tokenizer.cache.path", "teacher.weights",
                 "teacher.cache.path", "monitor.")
#: steps between comparisons of the processes: below 0.1 % of the time at base size (docs/performance.md)
CHECK_EVERY = 100


class TrainingInterrupted(BEiTError):
    """SIGINT or SIGTERM (`signal_number`) stopped the run; the step was finished and a checkpoint written."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class TrainLoop:
    """Train `task` for `total_steps` updates.

    loader: endless batches of numpy arrays with `state`, `load_state`, `steps_per_epoch` (batches of one process) and
    `identity()` (text that identifies its images, or None);
    lr, weight_decay: one value per step; accumulate: batches behind one update; store: a CheckpointStore or the like,
    whose `save` is called in a thread;
    images_per_step: images of all processes behind one update; at_end: called in every process after the last
    step, its values become summary["final"]; on_start: called with the run folder, once it is locked and before
    anything is read from it, in the main process; on_finish: called with (run, summary) after at_end, there too;
    free_settings: dotted keys, or their beginnings, that a resumed run may change; sharding: of the optimizer's state
    ("off", "stage1", "stage2"); names: of the settings, for errors; other_data: a resumed run may go on with other
    images; reread: completes a checkpoint's settings with those that came later; check_every, verify_every: steps
    between the searches for silent corruption (`guard.py`), 0: none.
    """

    def __init__(self, task: Task, loader: Any, optimizer: Any, *, lr: NDArray[Any], weight_decay: NDArray[Any],
                 run: RunFolder, store: Any, config: Mapping[str, Any], seed: int, images_per_step: int,
                 clip_norm: float | None = None, accumulate: int = 1, amp: str = "off", log_every: int = 50,
                 save_every: int = 1000, title: str = "training",
                 on_start: Sequence[Callable[[RunFolder], None]] = (), on_finish: Sequence[Callable[..., None]] = (),
                 at_end: Callable[[], dict[str, Any]] | None = None, free_settings: Sequence[str] = FREE_SETTINGS,
                 sharding: str = "off", names: SettingNames = TRAIN_SETTINGS, other_data: bool = False,
                 reread: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict, check_every: int = CHECK_EVERY,
                 verify_every: int = 0):
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
        self.guard = Guard(task, self.optimizer, self.precision, run.path, check_every=check_every,
                           verify_every=verify_every)
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
        DataError, and CorruptionError for numbers that are wrong again and again (`guard.py`).
        """
        distributed.init()
        self.writer = CheckpointWriter(
            self.store, self.run_folder.check_present, f"Raise {self.names.save_every} (now {self.save_every}), or "
            "choose an output folder on a faster disk.")
        distributed.before_end(self.writer.let_finish)
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
            self._began = (self.step, self.loader.state(), dict(self._window), self._window_steps)
            self.guard.begin(self.step, saved=self.step in self.store.steps())
            previous = self._catch_signals()
            try:
                return self._train(stop_after)
            finally:
                self.writer.close()  # signals are still caught: nothing ends this process or frees the lock before
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
                try:
                    values = self._one_step(batches, progress, last) or values
                except StateDiffers as found:
                    batches = self._go_back(found.difference)
                    progress.images_per_second(self.step)  # start counting anew
        self._finish_saving()
        seconds = max(time.monotonic() - began, 0.0)
        summary = {"steps": self.step, "total_steps": self.total_steps, "seconds": round(seconds, 2),
                   "images_per_second": (self.step - first) * self.images_per_step / max(seconds, 1e-9), "last": values}
        if self.step == first:  # it had ended before: what was told of it stays, a report too
            summary.update(self.run_folder.told(self.step))
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

    def _one_step(self, batches: Iterator[Any], progress: Progress, last: int) -> dict[str, float]:
        """A step with all that may follow it; returns what was logged, {} where nothing was.  Raises StateDiffers."""
        epoch = self._epoch(self.step)
        if self.step == 0 or epoch != self._epoch(self.step - 1):
            self.task.on_epoch(epoch)
        step_batches = [next(batches) for _ in range(self.accumulate)]
        distributed.barrier_on_cpu()
        self._take_step(step_batches)
        self.writer.poll()
        values: dict[str, float] = {}
        progress.advance(self.step)
        if self.step % self.log_every == 0 or self.step == self.total_steps:
            values = self._log(progress, epoch)
        elif self._measured and distributed.is_main():
            self.run_folder.log(self.step, {"epoch": float(epoch), **self._measured})
        if self._measured:
            progress.say(self.step, self._measured)
        stopping = self._signal_seen()
        saving = stopping or self.step % self.save_every == 0 or self.step == last or self.task.finished
        self.guard.check(self.step, saving=saving)
        if saving:
            self._save()
        if stopping:
            self._finish_saving()
            raise TrainingInterrupted(
                f"{self.run_folder.path}: stopped by signal {self._signal} after step {self.step}, "
                "which is saved. Continue with --resume auto.", self._signal or signal.SIGTERM)
        return values

    def _epoch(self, step: int) -> int:
        return step * self.accumulate // int(self.loader.steps_per_epoch)

    def _take_step(self, batches: list[Any]) -> None:
        try:
            metrics = self.guard.take(lambda: self._update(batches), self.step)
        except NonFiniteLossError as error:
            save_failing(self.run_folder.path, error, self.task, self._step_of_run())
            raise
        except Exception as error:  # Paddle has several types for it
            if not is_out_of_memory(error):
                raise
            raise out_of_memory(error, f"{self.run_folder.path}: step {self.step}", self.images_per_step,
                                self.accumulate * distributed.world_size(), saved=self.step > 0,
                                names=self.names) from error
        ends = (self.step + 1) % self.save_every == 0 or self.step + 1 == self.total_steps
        if ends:  # the best weights may be written by what follows
            self.guard.check(self.step + 1, saving=True)
        self._measured = self.task.after_step(step=self.step) or {}
        self.step += 1
        self._window_steps += 1
        for name, value in metrics.items():
            self._window[name] = self._window.get(name, 0.0) + value

    def _update(self, batches: list[Any]) -> dict[str, float]:
        """The update alone, a function of the state, the step and the batches."""
        seed_step(self.seed, self.step, distributed.rank())
        self.optimizer.set_lr(float(self.lr[self.step]))
        set_weight_decay(self.optimizer, float(self.weight_decay[self.step]))
        self.task.model.train()
        return train_step(self.task, batches, self.optimizer, self.precision, step=self.step,
                          clip_norm=self.clip_norm)

    def _step_of_run(self) -> StepOfRun:
        return StepOfRun(step=self.step, seed=self.seed, rank=distributed.rank(), processes=distributed.world_size(),
                         amp=self.precision.amp, config=self.config)

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
        """Copy what a checkpoint holds and begin to write it; the training goes on meanwhile."""
        self.writer.wait_for_turn(self.step)
        distributed.barrier()  # no collective waits so long for a slow disk
        self._share_window()  # what a resume reads, with any number of processes
        weights, optimizer = copy_of(self.task.model, self.optimizer)
        if distributed.is_main():
            # The generators of Python, numpy and Paddle start anew from (seed, step) at every step: this is their
            # whole state.
            state = {"rng": {"seed": self.seed, "step": self.step}, "loader": self.loader.state(),
                     "task": self.task.state(), "scaler": self.precision.state(),
                     "window": {"sums": dict(self._window), "steps": self._window_steps},
                     "data": self._data, "processes": self._made_by["processes"], "at_once": self.global_batch_size,
                     "versions": self._made_by["versions"]}
            self.run_folder.keep_metrics()
            self.writer.save(self.step, weights, optimizer, state, self.config)
        self.guard.saved()

    def _finish_saving(self) -> None:
        self.writer.wait()
        distributed.barrier()

    def _go_back(self, found: Difference) -> Iterator[Any]:
        """Go on from the last checkpoint, on which all agreed, or from where the run began; returns the batches."""
        self.optimizer.clear_grad(set_to_zero=False)  # those of a step that failed
        self._finish_saving()  # the last checkpoint may be the one that is being written
        if self.guard.start is not None:
            self.guard.start.restore()
            self.step, place, window, self._window_steps = self._began
            self._window = dict(window)
            self.loader.load_state(place)
        else:
            newest, read = newest_checkpoint(self.store, "auto")
            if newest is None:
                raise CheckpointError(f"{self.run_folder.path}: {found.sentence()}. There is no whole checkpoint to go "
                                      "back to. Start again in another output folder.")
            self._continue_from(newest, read())
        check_common_step(self.step, self.run_folder.path)
        self.guard.going_back(found, self.step)
        if distributed.is_main():
            self.store.abandon_after(self.step)
            self.run_folder.start_metrics(self.step, self.config)
        return iter(self.loader)

    def _start(self, resume: Union[str, Path, None]) -> None:
        found, read = newest_checkpoint(self.store, self._continued_by_restart(resume))
        if resume is None and found is not None and not is_restart():
            raise ConfigError(
                f"{self.run_folder.path}: this run folder already holds {found.name}. Continue it with --resume auto, "
                "or choose another output folder."
            )
        if found is not None:
            self._continue_from(found, read())

    def _continue_from(self, found: Path, saved: Any) -> None:
        """Take everything from a checkpoint that was read, if it is one of this run."""
        check_settings(self.reread(saved.config), self.config, self.free_settings, found)
        check_data(saved.state.get("data"), self._data, found, allowed=self.other_data, key=self.names.other_data)
        state = self.task.model.state_dict()
        check_arrays(state, saved.weights, found)
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

    def _continued_by_restart(self, resume: Union[str, Path, None]) -> Union[str, Path, None]:
        """`resume`, or "auto" where this is the restart of a job that has saved something itself meanwhile."""
        if not is_restart() or resume == "auto":
            return resume
        newest = self.store.latest()
        if resume is not None and (newest is None
                                   or self.store.load(newest).step <= self.store.load(Path(str(resume))).step):
            return resume
        return "auto"

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
