# SPDX-License-Identifier: Apache-2.0
"""Stage 1: train the tokenizer to reproduce the teacher's features, with measures against unused codes.

Shape suffixes: `layers/__init__.py`.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import paddle
from numpy.typing import NDArray
from paddle import nn

from beitv2_core.engine import distributed
from beitv2_core.engine.metrics import CodeUsage
from beitv2_core.engine.task import Task
from beitv2_core.errors import ConfigError
from beitv2_core.layers.collective import all_gather

log = logging.getLogger("beitv2_core")
#: below this share of used codes a window counts as collapsed
COLLAPSED = 0.2


class VQKDTask(Task):
    """Loss of the tokenizer against its frozen teacher (paper Eq. 2; official engine_for_vqkd.py).

    `teacher(images in [0, 1]) -> features (B, N, V)`.  The measures below are off by default; then training is
    exactly the official one.
    Departs: the first `unquantized_steps` decode the features themselves, then k-means over the features of the last
    `kmeans_batches` steps starts the codebook; codes unused for `revive_after` steps are replaced by current features,
    drawn from those of all processes by a generator of (`seed`, step), so that the codebook stays one.

    cache: a ViewCache or the like, where the teacher's features of fixed views are kept.  It then reads one image at a
    time: a product's last bits can depend on the place in a batch, and what is kept must depend on the view alone.
    `usage` counts the codes of all processes since the last log line, `last_usage` those of the window before it.
    Raises ConfigError for a negative or impossible measure.
    """

    def __init__(self, model: nn.Layer, teacher: nn.Layer, *, seed: int, unquantized_steps: int = 0,
                 kmeans_batches: int = 1, revive_after: int | None = None, cache: Any = None):
        for name, value, least in (("unquantized_steps", unquantized_steps, 0), ("kmeans_batches", kmeans_batches, 1),
                                   ("revive_after", revive_after, 1)):
            if value is not None and value < least:
                raise ConfigError(f"VQKDTask: {name} is {value}; expected at least {least}.")
        self.model, self.network, self.teacher, self.seed = model, model, teacher, seed
        self.cache = cache
        self.unquantized_steps, self.kmeans_batches, self.revive_after = unquantized_steps, kmeans_batches, revive_after
        self.usage, self.last_usage = self._window(), self._window()
        # Steps, not calls: a step of several accumulated batches must not age a code several times.
        self.last_used = np.full(model.num_codes, unquantized_steps - 1, dtype=np.int64)
        self.revived = 0
        self._collected: list[NDArray[Any]] = []

    def loss(self, batch: Any, *, step: int) -> tuple[paddle.Tensor, dict[str, paddle.Tensor]]:
        """Loss and its parts for one `TokenizerBatch` of numpy arrays; in eval mode nothing is counted or replaced."""
        images = paddle.to_tensor(batch.images)
        target_BNV = self._targets(images, batch)
        quantized = step >= self.unquantized_steps
        out = self.network(images, target_BNV, quantized)
        if quantized and self.model.training:
            codes_BN = all_gather(out["codes"]).numpy()
            self.usage.track(codes_BN)
            self.last_used[codes_BN] = step
            if self.revive_after is not None:
                self._revive(out["features"], step, self.revive_after)
        elif self.model.training and step >= self.unquantized_steps - self.kmeans_batches:
            self._collected.append(all_gather(out["features"]).numpy().reshape(-1, self.model.code_dim))
        return out["loss"], {"rec_loss": out["rec_loss"].detach(), "quant_loss": out["quant_loss"].detach()}

    @paddle.no_grad()
    def _targets(self, images: paddle.Tensor, batch: Any) -> paddle.Tensor:
        """The teacher's features (B, N, V), computed or kept."""
        if self.cache is None:
            return self.teacher(images)
        return paddle.to_tensor(self.cache.read_or_compute(batch.rows, batch.images, self._one_by_one))

    def _one_by_one(self, images: NDArray[Any]) -> NDArray[Any]:
        return np.concatenate([self.teacher(paddle.to_tensor(image[None])).numpy() for image in images])

    def before_step(self, batch: Any, *, step: int) -> None:
        """Start the codebook from the collected features when the unquantised steps are over."""
        if self._collected and step == self.unquantized_steps:
            self.model.quantize.initialise(paddle.to_tensor(np.concatenate(self._collected)), gathered=True)
            self._collected = []
            if distributed.is_main():
                log.info("codebook: codes begin at step %d, from k-means; the loss rises: the decoder sees codes from "
                         "now on", step)

    def on_epoch(self, epoch: int) -> None:
        """The official code zeroes `cluster_size` at every epoch."""
        quantize = self.model.quantize
        quantize.cluster_size.set_value(paddle.zeros_like(quantize.cluster_size))

    def log_values(self) -> dict[str, float]:
        """Usage and perplexity of the codebook since the last call, over all processes; with a cache also its share."""
        cached = {} if self.cache is None else {"features_cached": self.cache.share_read()}
        window = self.last_usage = self.usage
        self.usage = self._window()
        seen = int(window.counts.sum())
        if seen == 0:  # still unquantised
            return cached
        if window.usage < COLLAPSED and seen >= 4 * self.model.num_codes and distributed.is_main():
            log.warning(
                "codebook: only %.0f %% of %d codes were used since the last log line. Advice: train longer before "
                "quantising (health.unquantized_steps), replace dead codes (health.revive_after), or use fewer codes.",
                100 * window.usage, self.model.num_codes)
        values = {"usage": window.usage, "perplexity": window.perplexity,
                  "position_perplexity_min": float(window.position_perplexity().min()), **cached}
        if self.revive_after is not None:
            values["revived"], self.revived = float(self.revived), 0
        return values

    def state(self) -> dict[str, Any]:
        """Window counts, last use of every code, features collected for k-means: the same in every process."""
        return {"counts": self.usage.counts.copy(), "last_used": self.last_used.copy(), "revived": self.revived,
                "collected": list(self._collected)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.usage.counts[:] = state["counts"]
        self.last_used[:] = state["last_used"]
        self.revived = int(state["revived"])
        self._collected = [np.asarray(part) for part in state["collected"]]

    def copies(self) -> dict[str, paddle.Tensor]:
        """The last use of every code, which decides what is replaced."""
        return {"last_used": paddle.to_tensor(self.last_used)}

    def frozen(self) -> dict[str, paddle.Tensor]:
        """The teacher's weights, if it has some in Paddle."""
        return dict(self.teacher.state_dict()) if isinstance(self.teacher, nn.Layer) else {}

    def no_weight_decay(self) -> set[str]:
        """Structured names without decay."""
        return set(self.model.no_weight_decay())

    def _revive(self, features_BNC: paddle.Tensor, step: int, after: int) -> None:
        """Replace codes unused for `after` steps, this one included, by directions of this batch."""
        dead_R = np.flatnonzero(step - self.last_used >= after)
        if dead_R.size == 0:
            return
        features_SC = all_gather(features_BNC).reshape([-1, self.model.code_dim])
        rng = np.random.RandomState([self.seed % 2**32, step])
        samples = features_SC.shape[0]
        chosen_R = paddle.to_tensor(rng.choice(samples, size=dead_R.size, replace=dead_R.size > samples))
        self.model.quantize.replace_codes(paddle.to_tensor(dead_R), features_SC.index_select(chosen_R))
        self.last_used[dead_R] = step
        self.revived += int(dead_R.size)

    def _window(self) -> CodeUsage:
        rows, columns = self.model.grid
        return CodeUsage(rows * columns, self.model.num_codes)
