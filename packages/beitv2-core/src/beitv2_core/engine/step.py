# SPDX-License-Identifier: Apache-2.0
"""One update: forward, backward, clip, step, and the check for a non-finite loss."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import paddle
import paddle.distributed as dist

from beitv2_core.engine.sharding import ShardedOptimizer
from beitv2_core.engine.task import Task
from beitv2_core.errors import ConfigError, NonFiniteLossError, OutOfMemoryError
from beitv2_core.layers.draws import micro_batch
from beitv2_core.layers.fast.products import mixed_precision, why_not


class SettingNames(NamedTuple):
    """Names of the settings of a training run, for error messages."""

    batch_size: str = "train.batch_size"
    total_batch: str = "train.total_batch"
    recompute: str = "train.recompute"
    sharding: str = "train.sharding"
    other_data: str = "train.other_data"
    save_every: str = "train.save_every"
    amp_off: str = "train.amp=off"


TRAIN_SETTINGS = SettingNames()


class FailedBatch(NamedTuple):
    """What a step whose loss is not finite was computed from: all its batches, the number of the one at fault, the
    model's buffers before the forward pass moved them, the loss of that batch and the norm of all gradients."""

    batches: list[Any]
    number: int
    buffers: dict[str, paddle.Tensor]
    loss: float
    gradient_norm: float


class Precision:
    """Mixed precision O1: "off", "bf16", or "fp16" with a loss scaler.

    off: the setting that turns it off, for the error.  Raises ConfigError where the device does not compute it:
    the run would compute in float32, against its recorded settings.
    """

    def __init__(self, amp: str = "off", *, off: str = TRAIN_SETTINGS.amp_off):
        reason = why_not(amp)
        if reason is not None:
            raise ConfigError(f"{off.partition('=')[0]}: {amp} on {paddle.device.get_device()}: {reason} Set {off}.")
        self.amp = amp
        self.scaler = paddle.amp.GradScaler(init_loss_scaling=65536.0) if amp == "fp16" else None

    def autocast(self) -> Any:
        """The context the forward pass runs in."""
        return contextlib.nullcontext() if self.amp == "off" else mixed_precision(self.amp)

    def state(self) -> dict[str, Any]:
        """The scaler's state for an exact resume."""
        return {} if self.scaler is None else {
            key: value.numpy() if isinstance(value, paddle.Tensor) else value
            for key, value in self.scaler.state_dict().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        if self.scaler is not None and state:
            self.scaler.load_state_dict({key: paddle.to_tensor(value) if hasattr(value, "shape") else value
                                         for key, value in state.items()})


def global_norm(parameters: Sequence[paddle.Tensor]) -> paddle.Tensor:
    """L2 norm of all gradients together, a float32 scalar tensor."""
    squares = [paddle.square(p.grad.astype("float32")).sum() for p in parameters if p.grad is not None]
    return paddle.sqrt(paddle.add_n(squares)) if squares else paddle.zeros([])


def clip_by_global_norm(parameters: Sequence[paddle.Tensor], max_norm: float | None) -> paddle.Tensor:
    """Scale all gradients by min(1, max_norm / (norm + 1e-6)) and return the norm before; None only measures.

    Source: torch.nn.utils.clip_grad_norm_, as official utils.py, NativeScalerWithGradNormCount calls it.
    Paddle's own ClipGradByGlobalNorm lacks the 1e-6 and does not return the norm.
    """
    parameters = list(parameters)
    norm = global_norm(parameters)
    if max_norm is not None:
        scale_to_norm(parameters, max_norm, float(norm))
    return norm


def scale_to_norm(parameters: Sequence[paddle.Tensor], max_norm: float, norm: float) -> None:
    """The scaling of `clip_by_global_norm`, where the norm of all gradients is a number already."""
    factor = float(max_norm) / (norm + 1e-6)
    if factor < 1:
        with paddle.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.scale_(factor)


def train_step(task: Task, batches: Sequence[Any], optimizer: Any, precision: Precision, *, step: int,
               clip_norm: float | None = None) -> dict[str, float]:
    """One update from `batches` (micro-batches of equal size, their gradients averaged); returns metrics as floats.

    Gradients of all processes are averaged by the data-parallel wrapper at the last micro-batch.  Every micro-batch
    starts from the same state of Paddle's generator (`layers/draws.py`).
    Raises NonFiniteLossError, before any weight moves, with step, rate, gradient norm and the files of the batch.
    """
    count, read = len(batches), []
    task.before_step(batches[0], step=step)
    drawn_from = paddle.get_rng_state() if count > 1 else None
    buffers = {name: value.clone() for name, value in task.model.named_buffers()}
    for i, batch in enumerate(batches):
        if drawn_from is not None:
            paddle.set_rng_state(drawn_from)
        with micro_batch(i, count), gradient_sync(task.network, optimizer, last=i == count - 1):
            with precision.autocast():
                loss, metrics = task.loss(batch, step=step)
            scaled = loss / count if count > 1 else loss
            (precision.scaler.scale(scaled) if precision.scaler else scaled).backward()
        read.append({"loss": loss.detach(), **metrics})
    if precision.scaler is not None:
        precision.scaler.unscale_(optimizer)
    divided = isinstance(optimizer, ShardedOptimizer) and optimizer.reduces
    norm = optimizer.global_norm() if divided else global_norm(task.model.parameters())
    values, norm_value = _fetch(read, norm)
    for i, of_batch in enumerate(values):
        if not math.isfinite(of_batch["loss"]):
            failed = FailedBatch(list(batches), i, buffers, of_batch["loss"], norm_value)
            raise _non_finite(f"loss is {of_batch['loss']}", failed, optimizer, step)
    totals = {name: sum(of_batch[name] / count for of_batch in values) for name in values[0]}
    if precision.scaler is None and not math.isfinite(norm_value):
        failed = FailedBatch(list(batches), count - 1, buffers, values[-1]["loss"], norm_value)
        raise _non_finite(f"gradient norm is {norm_value} at loss {totals['loss']:.4g}", failed, optimizer, step)
    if clip_norm is not None:
        scale_to_norm(task.model.parameters(), clip_norm, norm_value)
    if precision.scaler is not None:
        precision.scaler.step(optimizer)  # skips the update when fp16 overflowed, and lowers the scale
        precision.scaler.update()
    else:
        optimizer.step()
    optimizer.clear_grad(set_to_zero=False)  # frees them: zeros would only be kept and added to
    return {**totals, "grad_norm": norm_value}


def _fetch(read: list[dict[str, paddle.Tensor]], norm: paddle.Tensor) -> tuple[list[dict[str, float]], float]:
    """The scalars of every micro-batch and the gradient norm, in one transfer: a GPU is waited for once a step."""
    names = list(read[0])
    scalars = [of_batch[name].astype("float32").reshape([]) for of_batch in read for name in names]
    numbers = paddle.stack([*scalars, norm.astype("float32").reshape([])]).numpy().tolist()
    rows = [numbers[i:i + len(names)] for i in range(0, len(numbers) - 1, len(names))]
    return [dict(zip(names, row)) for row in rows], numbers[-1]


@contextlib.contextmanager
def gradient_sync(network: Any, optimizer: Any, *, last: bool) -> Iterator[None]:
    """Average the gradients of the processes at the last micro-batch only: in the wrapper, in the optimizer, or here.

    Paddle's wrapper fails where blocks are recomputed ("parameter has been ready before"; 2.6.2 and 3.3.1).
    """
    several = isinstance(network, paddle.DataParallel)
    divided = isinstance(optimizer, ShardedOptimizer) and optimizer.reduces
    recomputed = several and any(getattr(layer, "recompute", False) for layer in network.sublayers())
    with contextlib.ExitStack() as stack:
        if several and (divided or recomputed or not last):
            stack.enter_context(network.no_sync())
        if divided and last:
            stack.enter_context(optimizer.last_backward())
        yield
    if recomputed and last and not divided:
        with paddle.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    dist.all_reduce(parameter.grad)
                    parameter.grad.scale_(1 / dist.get_world_size())


def is_out_of_memory(error: BaseException) -> bool:
    """True for the out-of-memory errors of Paddle, numpy, cuDNN and the C++ library."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(
        sign in text for sign in ("resourceexhausted", "out of memory", "alloc_failed", "bad_alloc"))


def out_of_memory(error: Exception, where: str, images_per_step: int, batches: int, *, saved: bool,
                  names: SettingNames = TRAIN_SETTINGS) -> OutOfMemoryError:
    """The error for a step that ran out of memory; it advises a smaller batch size with as many images per update.

    batches: behind one update, over all processes; saved: whether there may be checkpoints to continue; names: of the
    settings.
    """
    size = images_per_step // batches
    half = max((part for part in range(1, size // 2 + 1) if size % part == 0), default=None)
    advice = "Use smaller images or a smaller model" if half is None else (
        f"Set {names.batch_size}={half} and {names.total_batch}={images_per_step}: more batches are accumulated, the "
        "recipe keeps its images per update")
    advice += f"; {names.recompute}=true saves memory at any batch size"
    if saved:
        advice += ". Checkpoints saved before are intact; --resume auto continues them with these settings"
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return OutOfMemoryError(f"{where}: out of memory with a batch of {size} images ({reason}). {advice}.")


def _non_finite(what: str, failed: FailedBatch, optimizer: Any, step: int) -> NonFiniteLossError:
    norm, paths = failed.gradient_norm, list(getattr(failed.batches[failed.number], "paths", []))
    shown = ", ".join(paths[:8]) + (f" and {len(paths) - 8} more" if len(paths) > 8 else "")
    error = NonFiniteLossError(
        f"step {step}: {what} at lr={optimizer.get_lr():.3g}, gradient norm {norm:.4g}; images: {shown}. "
        "The last checkpoint is intact; "
        "see docs/troubleshooting.md#non-finite-loss."
    )
    error.failed = failed  # type: ignore[attr-defined]  # the loop saves it
    return error
