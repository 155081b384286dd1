"""Names and layouts of the official PyTorch checkpoints, as pure functions of dictionaries of arrays."""

from __future__ import annotations

import numpy as np

_DEAD = ("embedding.cluster_size", "embedding.embed_avg", "relative_position_index", "num_batches_tracked")
_RENAMED = {"embedding.initted": "initted", "running_mean": "_mean", "running_var": "_variance"}
_CODEBOOK = "embedding.weight"


def from_official(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our names and layouts for an official state dict.

    Linear weights turn from (out, in) to (in, out): they are exactly the 2-D `*.weight` arrays besides the codebook.
    `quantize.embedding.weight` becomes `quantize.codebook`, `embedding.initted` becomes `initted`, the running
    statistics of batch norms get Paddle's names; buffers that nothing reads are dropped.
    Source: official modeling_vqkd.py, norm_ema_quantizer.py.
    """
    ours = {}
    for name, array in state.items():
        if name.endswith(_DEAD):
            continue
        if name.endswith(_CODEBOOK):
            ours[name[: -len(_CODEBOOK)] + "codebook"] = array
        elif name.endswith(tuple(_RENAMED)):
            old = next(end for end in _RENAMED if name.endswith(end))
            ours[name[: -len(old)] + _RENAMED[old]] = array
        else:
            ours[name] = array.T if is_linear_weight(name, array) else array
    return ours


def is_linear_weight(name: str, array: np.ndarray) -> bool:
    """True for the weight of a Linear layer, by name and rank."""
    return array.ndim == 2 and (name.endswith(".weight") or name == "weight") and not name.endswith(_CODEBOOK)
