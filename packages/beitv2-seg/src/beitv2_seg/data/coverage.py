# SPDX-License-Identifier: Apache-2.0
"""Which classes have labelled pixels: a class without one is neither learned nor measured, and must be named."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np
import paddle

from beitv2_core.engine import distributed
from beitv2_core.layers.collective import all_reduce_sum

log = logging.getLogger("beitv2_seg")
MOST_NAMED = 12


def coverage_lines(counts: np.ndarray, names: Sequence[str], *, ignored: int, where: str,
                   label_map: Optional[Mapping[str, int]] = None) -> list[str]:
    """Warnings about pixels per class and, last, ignored ones (`label_counts`); [] where every class has some.

    where: what the labels are of ("the evaluation, 8 images").  The remedies are settings of the YAML.
    """
    labelled, passed = counts[:-1], int(counts[-1])
    empty = [i for i in np.flatnonzero(labelled == 0).tolist() if i != ignored]
    share = f"{100 * passed / max(int(counts.sum()), 1):.1f} % of the pixels are {ignored}, which is ignored"
    masks = ""
    if ignored == 255 and passed and not label_map:
        masks = " Masks of 0 and 255 need label_map: {255: 1}: 255 is the ignored label, not a class."
    if not labelled.any():
        return [f"{where}: no pixel is labelled ({share}): nothing can be learned or measured. Check the label files, "
                f"ignore_index and label_map.{masks}"]
    if not empty:
        return []
    shown = ", ".join(f"{i}" if str(names[i]) == str(i) else f"{i} ({names[i]})" for i in empty[:MOST_NAMED])
    more = f", ... ({len(empty)} in all)" if len(empty) > MOST_NAMED else ""
    hint = ""
    if np.count_nonzero(labelled) == 1 and labelled[0]:
        hint = masks
    elif empty == [0] and not label_map:
        hint = " Where labels go from 1, label_map: {1: 0, 2: 1, ...} moves them."
    return [f"{where}: {'class' if len(empty) == 1 else 'classes'} {shown}{more} without a labelled pixel; "
            f"{np.count_nonzero(labelled)} of {len(labelled)} classes are labelled; {share}.{hint}"]


class SeenLabels:
    """Counts the labels of the first epoch, then warns once of classes without a labelled pixel."""

    def __init__(self, names: Sequence[str], *, ignored: int, label_map: Optional[Mapping[str, int]] = None):
        self.names, self.ignored, self.label_map = list(names), ignored, label_map
        self.counts = np.zeros(len(self.names) + 1, dtype=np.int64)
        self.told = False

    def add(self, counts: np.ndarray) -> None:
        """Count a batch: `label_counts` of its samples, (B, classes + 1)."""
        if not self.told:
            self.counts += counts.sum(0)

    def share(self) -> None:
        """The counts of all processes in the main one, which is the one that saves them."""
        if not self.told and distributed.world_size() > 1:
            total = all_reduce_sum(paddle.to_tensor(self.counts)).numpy()
            self.counts = total if distributed.is_main() else np.zeros_like(total)

    def tell(self, where: str) -> None:
        """Warn of classes without a labelled pixel; every process must call it."""
        if self.told:
            return
        self.share()
        self.told = True
        if distributed.is_main():
            for line in coverage_lines(self.counts, self.names, ignored=self.ignored, where=where,
                                       label_map=self.label_map):
                log.warning("%s", line)

    def state(self) -> dict[str, Any]:
        """For a checkpoint, which the main process makes; others' counts are marked as theirs alone."""
        own = {} if distributed.is_main() else {"own": True}
        return {"counts": self.counts.tolist(), "told": self.told, **own}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        main = distributed.is_main() or state["told"] or state.get("own", False)
        self.counts = np.asarray(state["counts"], dtype=np.int64) * int(main)
        self.told = bool(state["told"])
