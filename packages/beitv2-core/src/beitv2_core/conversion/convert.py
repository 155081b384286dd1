# SPDX-License-Identifier: Apache-2.0
"""Convert weights between formats without loss; memory for one tensor more than the file holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..assembly.from_architecture import shapes_of
from ..assembly.kinds import BACKBONE, find_kind, kinds_that_start_others
from ..assembly.loaded_weights import Hints, Size, grid_for, read_model
from ..assembly.preprocessing import Preprocessing, preprocessing_of
from ..assembly.transfer import resize_pos_embed
from ..errors import CheckpointError, ConfigError
from ..pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD
from ..weights.architecture import grid_of
from ..weights.converted import write_converted
from ..weights.formats import to_format, translate, trunk_alone
from ..weights.identify import IdentifiedWeights
from ..weights.keymaps.official import INDEX, TABLE
from ..weights.preprocessor import preprocessor_config
from ..weights.remap import resize_rel_pos_bias
from ..weights.writers import write_paddle, write_safetensors, write_torch
from .folder import write_timm_folder, write_transformers_folder

log = logging.getLogger("beitv2_core")
State = Mapping[str, np.ndarray]


class Target(NamedTuple):
    """How a format is written, by (source, target, model, tensors).

    suffix: end of the file's name, "" for a folder; named: it stores class names.
    """

    suffix: str
    write: Callable[[Path, Path, IdentifiedWeights, State], None]
    named: bool = False


#: by format, all of `weights.kind.IMAGE_FORMATS`
TARGETS = {
    "ours": Target(".safetensors", lambda _, dst, found, __: write_converted(dst, found, find_kind(found.kind)), True),
    "official": Target(".pth", lambda _, dst, found, state: write_torch(dst, state, find_kind(found.kind).nest)),
    "huggingface": Target("", lambda src, dst, found, state: write_transformers_folder(
        dst, found, state, _preprocessor(src, found)), True),
    "timm": Target(".safetensors", lambda _, dst, __, state: write_safetensors(dst, state, {"format": "pt"})),
    "paddleclas": Target(".pdparams", lambda _, dst, __, state: write_paddle(dst, state)),
}
#: what `timm` is written as where the target is a folder
TIMM_FOLDER = Target("", lambda src, dst, found, state: write_timm_folder(
    dst, found, state, _preprocessing(src, found).crop_share), True)


class Converted(NamedTuple):
    """What a conversion wrote.

    unmapped: tensors that our models do not have, stored for the conversion back; left_out: tensors that the format
    does not have; taken: their place in the source, and assumed values; classes: number of class names written;
    classes_left_out: number of class names that the format cannot store.
    """

    path: Path
    kind: str
    origin: str
    architecture: Mapping[str, Any]
    tensors: int
    unmapped: int
    left_out: int
    taken: str
    classes: int
    classes_left_out: int


def convert_file(src: str | Path, dst: str | Path, to: str = "ours", *, force: bool = False,
                 image_size: Size | None = None, backbone: bool = False, hints: Hints | None = None,
                 classes: Sequence[str] | None = None) -> Converted:
    """Write the model in `src` to `dst` in another format; returns what was written.

    src: run folder, .pdckpt, weights file of any format, or a folder of transformers.  dst: a file (`TARGETS`), a
    folder for huggingface, either of them for timm.  image_size: (height, width) its position terms are fitted to: bias
    tables in geometric progression, absolute positions bicubically, as the official loader.  backbone: write the trunk
    alone.  classes: names of the classes, in the order of the logits (default: those of the source); the format `ours`
    and folders hold them.
    official -> ours -> official restores every tensor bit for bit, also those that no model of ours reads; other
    content (epoch, arguments, optimizer) is left out.  The file is written whole or not at all.
    Raises CheckpointError for a source that is not recognised, a format the kind does not exist in, and a target that
    exists (without `force`) or is the source; ConfigError for an unknown format, a size that is no whole number of
    patches, `classes` for a format that cannot store them, and values that the source holds already.
    """
    src, dst = Path(src), Path(dst)
    if to not in TARGETS:
        raise ConfigError(f"--to {to!r}: expected one of {', '.join(TARGETS)}.")
    target = TIMM_FOLDER if to == "timm" and not dst.suffix else TARGETS[to]
    if classes is not None and not target.named:
        named = " and ".join(name for name, other in TARGETS.items() if other.named)
        raise ConfigError(f"--classes: files of --to {to} cannot store class names, those of --to {named} can. Leave "
                          "it out, and keep the names in a file of their own.")
    _check_target(src, dst, to, target, force)
    hints = hints or Hints()
    found = read_model(src, hints)
    if found.converted and hints.values:
        raise ConfigError(f"{src}: this file was written by `beitv2 convert` and holds its architecture, "
                          f"{', '.join(hints.values)} included. Leave out --set.")
    taken = found.taken()
    try:
        if classes is not None:
            found = found._replace(classes=_checked_classes(found, classes))
        if backbone:
            found = backbone_of(found)
        elif to == "ours":
            _check_known(found)
        if image_size is not None:
            found = resize_model(found, image_size)
        state = {} if to == "ours" else _state_of(found, to)
    except CheckpointError as error:
        raise CheckpointError(f"{src}: {error}") from None
    target.write(src, dst, found, state)
    tensors = len(found.weights if to == "ours" else state)
    left_out = 0 if to in ("ours", found.origin) else len(found.unmapped)
    if to == "paddleclas" and "fc_norm.weight" in found.weights:
        log.warning("%s: PaddleClas's own class pools the class token and does not read head.fc_norm: its outputs "
                    "differ from this model's. Write it with `--to ours`, for the classes this project registers "
                    "there.", dst)
    names = len(found.classes or ())
    written, unwritten = (names, 0) if target.named else (0, names)
    return Converted(dst, found.kind, found.origin, found.architecture, tensors,
                     len(found.unmapped) if to == "ours" else 0, left_out, taken, written, unwritten)


def _preprocessor(src: Path, found: IdentifiedWeights) -> dict[str, Any]:
    """What preprocessor_config.json says of the model's images."""
    height, width = found.architecture["image_size"]
    known = _preprocessing(src, found)
    return preprocessor_config((height, width), crop_share=known.crop_share, mean=IMAGENET_MEAN, std=IMAGENET_STD,
                               own={"exif_orientation": known.upright})


def _preprocessing(src: Path, found: IdentifiedWeights) -> Preprocessing:
    height, width = found.architecture["image_size"]
    return preprocessing_of(str(src), found.kind, (height, width))


def backbone_of(found: IdentifiedWeights) -> IdentifiedWeights:
    """The trunk inside a model, as a model of its own; CheckpointError for a kind without one."""
    kind = find_kind(found.kind)
    if kind.backbone is None:
        raise CheckpointError(f"{kind} has no trunk that could be written alone. Possible: "
                              f"{', '.join(kinds_that_start_others())}.")
    weights, architecture = trunk_alone(kind, found.weights, found.architecture)
    names = shapes_of(BACKBONE, architecture)
    return IdentifiedWeights(BACKBONE.name, found.origin, {name: weights[name] for name in names}, architecture)


def _checked_classes(found: IdentifiedWeights, classes: Sequence[str]) -> tuple[str, ...]:
    count = found.architecture.get("num_classes")
    if count is None:
        raise CheckpointError(f"a {found.kind} model has no classes. Leave out --classes.")
    if len(classes) != count or len(set(classes)) != count:
        raise CheckpointError(f"{len(classes)} class names ({len(set(classes))} different) for a model of {count} "
                              "classes. Give one name for each, in the order of the logits.")
    return tuple(classes)


def _check_known(found: IdentifiedWeights) -> None:
    """Refuse a model that lacks a required value: with another value its outputs would be other ones."""
    kind = find_kind(found.kind)
    for name in kind.unknown(found.architecture):
        if kind.untold[name].required:
            raise CheckpointError(f"{name} of this {kind.name} model is not in its weights: {kind.untold[name].help}. "
                                  f"Give the value it was trained with: --set {name}={kind.untold[name].example}.")


def resize_model(found: IdentifiedWeights, image_size: Size) -> IdentifiedWeights:
    """The model with its position terms fitted to images of `image_size` (height, width) pixels.

    ConfigError where that is no whole number of patches, CheckpointError for a kind whose positions are not known.
    Source: official run_class_finetuning.py.
    """
    weights, architecture = dict(found.weights), json.loads(json.dumps(found.architecture))
    kind = find_kind(found.kind)
    if kind.name == "clip":
        patch, old = architecture["patch_size"], architecture["image_size"] // architecture["patch_size"]
        new = grid_for(image_size, (patch, patch), "--image-size")
        if new[0] != new[1]:
            raise ConfigError(f"--image-size {image_size}: CLIP's position table is of a square. Give one number.")
        table = weights["positional_embedding"]
        weights["positional_embedding"] = _resize_positions(table[None], (old, old), new)[0]
        architecture["image_size"] = new[0] * patch
    else:
        if not kind.trunks:
            raise CheckpointError(f"{kind} cannot be fitted to another image size, because its position terms are not "
                                  "known. Leave --image-size out.")
        grid: Size | None = None
        for part in kind.trunks:
            trunk, prefix = (architecture[part], f"{part}.") if part else (architecture, "")
            # The decoder reads the encoder's map of codes.
            old, grid = grid_of(trunk), grid or grid_for(image_size, trunk["patch_size"], "--image-size")
            for name in [name for name in weights if name.startswith(prefix)]:
                if name.endswith(TABLE):
                    weights[name] = resize_rel_pos_bias(weights[name], old, grid)
                elif name == f"{prefix}pos_embed":
                    weights[name] = _resize_positions(weights[name], old, grid)
            trunk["image_size"] = [n * p for n, p in zip(grid, trunk["patch_size"])]
    unmapped = {name: array for name, array in found.unmapped.items() if not name.endswith(INDEX)}
    return found._replace(weights=weights, architecture=architecture, unmapped=unmapped)


def _resize_positions(table: np.ndarray, old: Size, new: Size) -> np.ndarray:
    return resize_pos_embed(table.astype(np.float32), old, new).astype(table.dtype)


def _state_of(found: IdentifiedWeights, to: str) -> dict[str, np.ndarray]:
    kind = find_kind(found.kind)
    if to != found.origin:
        return to_format(to, kind, found.weights, found.architecture)
    state = translate(to, kind, found.weights, found.architecture)
    if to != "ours":
        state = {found.prefix + name: array for name, array in state.items() if name not in found.missing_in_source}
        state.update(found.unmapped)
    return state


def state_in_origin(found: IdentifiedWeights) -> dict[str, np.ndarray]:
    """The tensors of the file a model came from, under that file's names."""
    return _state_of(found, found.origin)


def _check_target(src: Path, dst: Path, to: str, target: Target, force: bool) -> None:
    if not src.exists():
        raise CheckpointError(f"{src}: no such run folder, checkpoint or weights file. Check the path.")
    suffix = target.suffix
    if suffix and dst.suffix != suffix:
        folder = ", or a folder's without an ending," if to == "timm" else ""
        raise CheckpointError(f"{dst}: expected a name ending in {suffix}{folder} for --to {to}.")
    written = dst if suffix else dst / "model.safetensors"
    if dst.resolve() == src.resolve() or written.resolve() == src.resolve():
        raise CheckpointError(f"{dst}: this is the source itself. Choose another target.")
    if suffix and dst.is_dir() or not suffix and dst.is_file():
        raise CheckpointError(f"{dst}: is a {'folder' if dst.is_dir() else 'file'}, --to {to} writes a "
                              f"{'file' if suffix else 'folder'}. Choose another target.")
    if written.exists() and not force:
        raise CheckpointError(f"{written}: exists already. Choose another target, or overwrite it with --force.")
