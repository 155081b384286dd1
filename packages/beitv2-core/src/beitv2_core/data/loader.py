# SPDX-License-Identifier: Apache-2.0
"""The batches of a training run: endless, and resumable at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .sampler import ResumableSampler
from .sources.identity import identity
from .sources.sample import Dataset
from .workers import BatchReader, Transform


class Loader(BatchReader):
    """Iterate over batches from the sampler's position, without end; `state()` counts only batches handed out.

    transform, num_workers, prefetch, errors: see `BatchReader`.
    """

    def __init__(self, dataset: Dataset, transform: Transform, sampler: ResumableSampler, *, num_workers: int = 0,
                 seed: int = 0, prefetch: int = 2) -> None:
        super().__init__(dataset, transform, num_workers=num_workers, seed=seed, prefetch=prefetch)
        self.sampler = sampler

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one epoch of this process."""
        return self.sampler.steps_per_epoch

    def state(self) -> dict[str, Any]:
        """The position of the next batch (JSON-able)."""
        return self.sampler.state()

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue at a saved position; start a new iteration afterwards."""
        self.sampler.load_state(state)

    def identity(self) -> str | None:
        """Text that identifies these images, see `identity.py`; None for images without files."""
        return identity(self.dataset)

    def __iter__(self) -> Iterator[Any]:
        """Yield batches without end."""
        for epoch, number, batch in self._batches(self.sampler.batches_from(self.sampler.epoch, self.sampler.batch)):
            self.sampler.advance_past(epoch, number)
            yield batch
