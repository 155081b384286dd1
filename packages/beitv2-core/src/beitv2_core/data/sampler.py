# SPDX-License-Identifier: Apache-2.0
"""Which image comes next: the same for every world size, and resumable at any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..errors import DataError
from .rng import derive_seed


class ResumableSampler:
    """An endless stream of batches of indices; epoch after epoch, each in its own order.

    length: images; batch_size: per rank; accumulate: batches behind one update. The order of an epoch depends on
    (seed, epoch) only and is cut into total batches of batch_size * R * accumulate images; an epoch is a whole number
    of them, so that an update is made of the same images whatever the factors. A total batch is cut into its
    micro-batches, and rank r of R takes every R-th index of each, from r on.
    What does not fill a total batch is left out of the epoch.  order(seed, epoch), where given, makes the order (int64,
    every index once) instead of a shuffle.  batch_size_key, total_batch_key: the settings that errors name.
    Raises DataError when an epoch would have no batch.
    """

    def __init__(
        self,
        length: int,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        seed: int = 0,
        order: Callable[[int, int], np.ndarray] | None = None,
        batch_size_key: str = "train.batch_size",
        total_batch_key: str = "train.total_batch",
    ) -> None:
        if batch_size < 1 or world_size < 1 or accumulate < 1 or not 0 <= rank < world_size:
            raise DataError(
                f"ResumableSampler: batch_size {batch_size}, accumulate {accumulate}, rank {rank} of {world_size}; "
                "expected a batch size, an accumulation and a world size of at least 1 and 0 <= rank < world size."
            )
        self.length = length
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.accumulate = accumulate
        self.seed = seed
        self.total_batch_key = total_batch_key
        self.global_batch = batch_size * world_size
        self.total_batch = self.global_batch * accumulate
        self.steps_per_epoch = length // self.total_batch * accumulate
        if self.steps_per_epoch < 1:
            accumulated = f" x {accumulate} accumulated" if accumulate > 1 else ""
            raise DataError(
                f"{length} images do not fill one batch of {batch_size} x {world_size} processes{accumulated}. Lower "
                f"{batch_size_key} or give more images."
            )
        self.epoch = 0
        self.batch = 0
        self._make_order = self._permutation if order is None else order
        self._order: tuple[int, np.ndarray] | None = None

    def order(self, epoch: int) -> np.ndarray:
        """The order of all indices in that epoch, int64 (length,)."""
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self._make_order(self.seed, epoch))
        return self._order[1]

    def _permutation(self, seed: int, epoch: int) -> np.ndarray:
        # RandomState: its stream is frozen for all numpy versions
        return np.random.RandomState(derive_seed("order", seed, epoch) & 0xFFFFFFFF).permutation(self.length)

    def indices(self, epoch: int, batch: int) -> list[int]:
        """This rank's indices of one batch."""
        chosen = self.order(epoch)[batch * self.global_batch : (batch + 1) * self.global_batch]
        return [int(index) for index in chosen[self.rank :: self.world_size]]

    def batches_from(self, epoch: int, batch: int) -> Iterator[tuple[int, int, list[int]]]:
        """Yield (epoch, batch, indices) from that position on, without end; changes nothing."""
        while True:
            for number in range(batch, self.steps_per_epoch):
                yield epoch, number, self.indices(epoch, number)
            epoch, batch = epoch + 1, 0

    def advance_past(self, epoch: int, batch: int) -> None:
        """Set the position to the batch after (epoch, batch)."""
        self.epoch, self.batch = (epoch, batch + 1) if batch + 1 < self.steps_per_epoch else (epoch + 1, 0)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        """Yield (epoch, indices) from the current position on, without end; batches handed out count as consumed."""
        for epoch, batch, indices in self.batches_from(self.epoch, self.batch):
            self.advance_past(epoch, batch)
            yield epoch, indices

    def state(self) -> dict[str, int]:
        """The position of the next batch and what it depends on (JSON-able); independent of the number of ranks."""
        return {
            "epoch": self.epoch,
            "picture": self.batch * self.global_batch,
            "length": self.length,
            "total_batch": self.total_batch,
            "seed": self.seed,
        }

    def load_state(self, state: dict[str, int]) -> None:
        """Continue at a saved position, with any number of ranks and accumulated batches that make the same total.

        Raises DataError when the data, the total batch or the seed differ.
        """
        if set(state) != set(self.state()):
            raise DataError(
                f"resume: the checkpoint's place in the data is given by {', '.join(sorted(state))}; expected "
                f"{', '.join(sorted(self.state()))}. Another version wrote it: start a new run from its weights."
            )
        for key, name, here, remedy in (
            ("length", "images in the data set", self.length, "Resume with the same data"),
            (
                "total_batch",
                "images behind one update",
                self.total_batch,
                "total batch = batch size x processes x accumulation: set "
                f"{self.total_batch_key}={state['total_batch']}, with a batch size that divides it by "
                f"{self.world_size} process(es)",
            ),
            ("seed", "as the data seed", self.seed, "Resume with the same seed"),
        ):
            if int(state[key]) != here:
                raise DataError(
                    f"resume: the checkpoint was made with {state[key]} {name}, now there are {here}. "
                    f"{remedy}, or start a new run from its weights."
                )
        self.epoch, self.batch = int(state["epoch"]), int(state["picture"]) // self.global_batch
