"""Stage 1: train the tokenizer to reproduce the teacher's features, with the measures that keep its codebook alive."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn

from beitv2_core.engine.metrics import CodeUsage

log = logging.getLogger("beitv2_core")
#: below this share of used codes a window counts as collapsed
COLLAPSED = 0.2


class VQKDTask:
    """Loss of the tokenizer against its frozen teacher (paper Eq. 2; official engine_for_vqkd.py).

    `teacher(images in [0, 1]) -> features (B, N, width)`.  The measures below are off by default; then training is
    exactly the official one.
    Departs: the first `unquantized_steps` decode the features themselves, then k-means over the features of the last
    `kmeans_batches` of them starts the codebook; codes unused for `revive_after` steps are replaced by current ones.
    """

    def __init__(self, model: nn.Layer, teacher: nn.Layer, *, unquantized_steps: int = 0, kmeans_batches: int = 1,
                 revive_after: int | None = None):
        self.model, self.network, self.teacher = model, model, teacher
        self.unquantized_steps, self.kmeans_batches, self.revive_after = unquantized_steps, kmeans_batches, revive_after
        rows, columns = model.grid
        self.usage = CodeUsage(rows * columns, model.num_codes)
        self.unused_for = np.zeros(model.num_codes, dtype=np.int64)
        self.revived = 0
        self._collected: list[np.ndarray] = []
        if unquantized_steps:
            # Otherwise the first quantised batch would run the official k-means over itself.
            model.quantize.initted.set_value(paddle.ones([1]))

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Loss and its parts for one `TokenizerBatch` of numpy arrays."""
        images = paddle.to_tensor(batch.images)
        with paddle.no_grad():
            target = self.teacher(images)
        quantized = step >= self.unquantized_steps
        out = self.network(images, target, quantized)
        if quantized:
            codes = out["codes"].numpy()
            self.usage.track(codes)
            if self.revive_after is not None:
                self._revive(codes, out["features"], self.revive_after)
        elif step >= self.unquantized_steps - self.kmeans_batches:
            self._collected.append(out["features"].numpy().reshape(-1, self.model.code_dim))
        return out["loss"], {"rec_loss": out["rec_loss"].detach(), "quant_loss": out["quant_loss"].detach()}

    def before_step(self, batch: Any, *, step: int) -> None:
        """Start the codebook from the collected features when the unquantised steps are over."""
        if self._collected and step == self.unquantized_steps:
            self.model.quantize.initialise(paddle.to_tensor(np.concatenate(self._collected)))
            self._collected = []

    def on_epoch(self, epoch: int) -> None:
        """The official code zeroes `cluster_size` at every epoch."""
        quantize = self.model.quantize
        quantize.cluster_size.set_value(paddle.zeros_like(quantize.cluster_size))

    def log_values(self) -> dict[str, float]:
        """Usage and perplexity of the codebook since the last call, over all processes."""
        counts = self._summed(self.usage.counts)
        window = CodeUsage(*counts.shape)
        window.counts = counts
        self.usage.reset()
        if counts.sum() == 0:  # still unquantised
            return {}
        if window.usage < COLLAPSED and counts.sum() >= 4 * self.model.num_codes:
            log.warning(
                "codebook: only %.0f %% of %d codes were used since the last log line. Advice: train longer before "
                "quantising (health.unquantized_steps), replace dead codes (health.revive_after), or use fewer codes.",
                100 * window.usage, self.model.num_codes)
        values = {"usage": window.usage, "perplexity": window.perplexity,
                  "position_perplexity_min": float(window.position_perplexity().min())}
        if self.revive_after is not None:
            values["revived"], self.revived = float(self.revived), 0
        return values

    def state(self) -> dict[str, Any]:
        """Window counts, ages of the codes, features collected for k-means (this process's)."""
        return {"counts": self.usage.counts.copy(), "unused_for": self.unused_for.copy(), "revived": self.revived,
                "collected": list(self._collected)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.usage.counts[:] = state["counts"]
        self.unused_for[:] = state["unused_for"]
        self.revived = int(state["revived"])
        self._collected = [np.asarray(part) for part in state["collected"]]

    def no_weight_decay(self) -> set[str]:
        """Structured names without decay."""
        return self.model.no_weight_decay()

    def _revive(self, codes: np.ndarray, features: paddle.Tensor, after: int) -> None:
        """Replace long unused codes by features of this batch, the same on all processes."""
        hit = self._summed(np.bincount(codes.reshape(-1), minlength=self.model.num_codes)) > 0
        self.unused_for = np.where(hit, 0, self.unused_for + 1)
        dead = np.flatnonzero(self.unused_for >= after)
        if dead.size == 0:
            return
        flat = features.reshape([-1, self.model.code_dim])
        # The loop seeds numpy per step and process; the broadcast makes the choice one.
        chosen = np.random.choice(flat.shape[0], size=dead.size, replace=dead.size > flat.shape[0])
        vectors = flat.index_select(paddle.to_tensor(chosen))
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(vectors, src=0)
        self.model.quantize.replace_codes(paddle.to_tensor(dead), vectors)
        self.unused_for[dead] = 0
        self.revived += int(dead.size)

    @staticmethod
    def _summed(counts: np.ndarray) -> np.ndarray:
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return counts.copy()
        tensor = paddle.to_tensor(counts)
        dist.all_reduce(tensor)
        return tensor.numpy()
