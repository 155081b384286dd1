# SPDX-License-Identifier: Apache-2.0
"""Any trained model, as its kind describes it, for images of the size that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..errors import CheckpointError
from ..models.backbone import BEiTBackbone
from ..weights.architecture import grid_of
from ..weights.identify import IdentifiedWeights
from ..weights.kind import Architecture, Kind
from ..weights.published.download import resolve_weights
from .from_architecture import build_described
from .kinds import find_kind, kinds_that_start_others
from .loaded_weights import grid_for, read_checkpoint, read_model
from .restore import freeze, load_tokenizer, set_weights
from .transfer import resized_positions


class SizedModel(NamedTuple):
    """A frozen model in eval mode, its kind, the trunk that images enter, and where its weights lie.

    found: what was read, with the architecture of that size and without the weights, which are in the model.
    """

    model: Any
    kind: Kind
    trunk: Any
    path: Path
    found: IdentifiedWeights


def load_at_size(source: str, *, image_size: Optional[tuple[int, int]] = None,
                 name: Optional[str] = None) -> SizedModel:
    """The model with a trunk in a run, a checkpoint, a file or URL of any known format.

    image_size: (height, width) in pixels of the images it will see; its position tables are resized to it as the
    official code resizes them for fine-tuning; None: that it was made for.  name: the published tokenizer it must be.
    Raises CheckpointError for what cannot be read or has no BEiT trunk, ConfigError for a size that is no whole number
    of patches.
    """
    path = Path(resolve_weights(source)) if "://" in source else Path(source)
    if not path.exists():
        read_checkpoint(source)  # says what was expected there
    found = read_model(path)
    kind = find_kind(found.kind)
    weights = {**found.weights, **found.extra}
    if name is not None or kind.name == "tokenizer" and not weights["quantize.codebook"].any():
        load_tokenizer(path, name=name)  # says what is wrong
    architecture: Architecture = found.architecture
    if image_size is not None and kind.trunks:
        architecture, weights = _for_size(kind, architecture, weights, image_size)
    model = build_described(kind.name, architecture, path)
    trunk = getattr(model, kind.trunks[0]) if kind.trunks and kind.trunks[0] else model
    if not isinstance(trunk, BEiTBackbone):
        raise CheckpointError(f"{source}: this is {kind}, which has no BEiT backbone. Give a run or file of a "
                              f"{', '.join(kinds_that_start_others())} or tokenizer.")
    set_weights(model, weights, str(path))
    described = found._replace(weights={}, unmapped={}, extra={}, architecture=dict(architecture))
    return SizedModel(freeze(model), kind, trunk, path, described)


def _for_size(kind: Kind, architecture: Architecture, weights: Mapping[str, Any],
              image_size: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Architecture and weights with every trunk made for the grid of patches of images of that size."""
    target = grid_for(image_size, kind.trunk_of(architecture)["patch_size"], "--image-size")
    changed, weights = dict(architecture), dict(weights)
    for part in kind.trunks:
        trunk = architecture[part] if part else architecture
        size = {"image_size": [count * patch for count, patch in zip(target, trunk["patch_size"])]}
        weights = resized_positions(weights, grid_of(trunk), target, f"{part}." if part else "")
        if part:
            changed[part] = {**trunk, **size}
        else:
            changed.update(size)
    return changed, weights
