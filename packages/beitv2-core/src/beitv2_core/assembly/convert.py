"""Weights from one format into another, nothing lost, one tensor in memory more than the file holds."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ..checkpoint.converted import is_converted, parse_converted, write_converted
from ..checkpoint.foreign import read_tensors
from ..checkpoint.formats import to_format, translate, trunk_alone
from ..checkpoint.keymaps.huggingface import config_of
from ..checkpoint.keymaps.official import INDEX, TABLE
from ..checkpoint.kinds import Recognised, recognise
from ..checkpoint.remap import resize_rel_pos_bias
from ..checkpoint.shapes import grid_of
from ..checkpoint.writers import whole_or_absent, write_paddle, write_safetensors, write_torch
from ..errors import CheckpointError, ConfigError
from .restore import checkpoint_folder, read_checkpoint
from .transfer import resize_pos_embed

log = logging.getLogger("beitv2_core")
TARGETS = ("ours", "official", "huggingface", "timm", "paddleclas")
#: key the released files of a kind have their weights under; None: at the top
NESTS = {"segmentation": "state_dict", "clip": None, "dino": None}
SUFFIXES = {"ours": ".safetensors", "official": ".pth", "timm": ".safetensors", "paddleclas": ".pdparams"}
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")  # of transformers' folders
Size = tuple[int, int]


class Hints(NamedTuple):
    """What weights do not tell: picture size (height, width) in pixels, heads, blocks before the [CLS] head."""

    size: Optional[Size] = None
    num_heads: Optional[int] = None
    early_layers: Optional[int] = None


class Converted(NamedTuple):
    """What a conversion wrote.  kept: tensors stored only to be given back; left_out: tensors the format has not."""

    path: Path
    kind: str
    origin: str
    architecture: Mapping[str, Any]
    tensors: int
    kept: int
    left_out: int


def convert_file(src: str | Path, dst: str | Path, to: str = "ours", *, force: bool = False,
                 image_size: Size | None = None, backbone: bool = False, hints: Hints | None = None) -> Converted:
    """Write the model in `src` to `dst` in another format; returns what was written.

    src: run folder, .pdckpt, weights file of any format, or a folder of transformers.  dst: a file (`SUFFIXES`), a
    folder for huggingface.  image_size: (height, width) its position terms are fitted to: bias tables in geometric
    progression, absolute positions bicubically, as the official loader.  backbone: write the trunk alone.
    official -> ours -> official gives every tensor back bit for bit, those we never read included; what is not a tensor
    (epoch, arguments, optimizer) is not carried along.  The file appears whole or not at all.
    Raises CheckpointError for a source that is not recognised, a format the kind does not exist in, and a target that
    exists (without `force`) or is the source; ConfigError for an unknown format or a size that is no whole number of
    patches.
    """
    src, dst = Path(src), Path(dst)
    if to not in TARGETS:
        raise ConfigError(f"--to {to!r}: expected one of {', '.join(TARGETS)}.")
    _check_target(src, dst, to, force)
    found = read_model(src, hints or Hints())
    try:
        if backbone:
            weights, architecture = trunk_alone(found.kind, found.weights, found.architecture)
            found = Recognised("backbone", found.origin, weights, architecture)
        if image_size is not None:
            found = resize_model(found, image_size)
        state = {} if to == "ours" else _state_of(found, to)
    except CheckpointError as error:
        raise CheckpointError(f"{src}: {error}") from None
    left_out = 0
    if to == "ours":
        write_converted(dst, found)
        tensors = len(found.weights)
    else:
        left_out = 0 if to == found.origin else len(found.kept)
        _write(dst, to, found, state)
        tensors = len(state)
    if to == "paddleclas" and "fc_norm.weight" in found.weights:
        log.warning("%s: that toolkit's own class pools the class token and does not read head.fc_norm: its outputs "
                    "differ from this model's. Use the classes that beitv2-cls registers there, with `--to ours`.", dst)
    return Converted(dst, found.kind, found.origin, found.architecture, tensors,
                     len(found.kept) if to == "ours" else 0, left_out)


def read_model(src: str | Path, hints: Hints | None = None) -> Recognised:
    """The model at a path in any format `convert_file` takes; errors name the path."""
    src, hints = Path(src), hints or Hints()
    try:
        if src.suffix == ".pdckpt" or (src.is_dir() and not _transformers_file(src)):
            return _of_run(src, hints)
        file = _transformers_file(src) or src
        tensors, rest = read_tensors(file)
        if is_converted(rest):
            return parse_converted(tensors, rest)
        if file != src:
            hints = _hints_of_folder(src, hints)
        return _recognise(tensors, None, hints)
    except CheckpointError as error:
        message = str(error)
        raise CheckpointError(message if str(src) in message else f"{src}: {message}") from None


def resize_model(found: Recognised, image_size: Size) -> Recognised:
    """The model with its position terms fitted to pictures of `image_size` (height, width) pixels.

    ConfigError where that is no whole number of patches.  Source: official run_class_finetuning.py.
    """
    weights, architecture = dict(found.weights), json.loads(json.dumps(found.architecture))
    if found.kind == "clip":
        patch, old = architecture["patch_size"], architecture["image_size"] // architecture["patch_size"]
        new = _grid(image_size, (patch, patch))
        if new[0] != new[1]:
            raise ConfigError(f"--image-size {image_size}: CLIP's position table is of a square. Give one number.")
        table = weights["positional_embedding"]
        weights["positional_embedding"] = _resize_positions(table[None], (old, old), new)[0]
        architecture["image_size"] = new[0] * patch
    else:
        parts = {"tokenizer": ("encoder", "decoder"), "segmentation": ("backbone",)}.get(found.kind, ("",))
        grid: Size | None = None
        for part in parts:
            trunk, prefix = (architecture[part], f"{part}.") if part else (architecture, "")
            # The decoder reads the encoder's map of codes.
            old, grid = grid_of(trunk), grid or _grid(image_size, tuple(trunk["patch_size"]))
            for name in [name for name in weights if name.startswith(prefix)]:
                if name.endswith(TABLE):
                    weights[name] = resize_rel_pos_bias(weights[name], old, grid)
                elif name == f"{prefix}pos_embed":
                    weights[name] = _resize_positions(weights[name], old, grid)
            trunk["image_size"] = [n * p for n, p in zip(grid, trunk["patch_size"])]
    kept = {name: array for name, array in found.kept.items() if not name.endswith(INDEX)}
    return found._replace(weights=weights, architecture=architecture, kept=kept)


def _resize_positions(table: np.ndarray, old: Size, new: Size) -> np.ndarray:
    return resize_pos_embed(table.astype(np.float32), old, new).astype(table.dtype)


def _grid(image_size: Size, patch: Sequence[int]) -> Size:
    if any(size < p or size % p for size, p in zip(image_size, patch)):
        raise ConfigError(f"--image-size {image_size[0]},{image_size[1]}: no whole number of patches of {patch[0]} x "
                          f"{patch[1]} pixels. Give multiples of the patch.")
    return image_size[0] // patch[0], image_size[1] // patch[1]


def _state_of(found: Recognised, to: str) -> dict[str, np.ndarray]:
    if to != found.origin:
        return to_format(to, found.kind, found.weights, found.architecture)
    state = translate(to, found.kind, found.weights, found.architecture)
    if to != "ours":
        state = {found.prefix + name: array for name, array in state.items() if name not in found.absent}
        state.update(found.kept)
    return state


def state_in_origin(found: Recognised) -> dict[str, np.ndarray]:
    """The tensors of the file a model came from, under that file's names."""
    return _state_of(found, found.origin)


def _write(dst: Path, to: str, found: Recognised, state: Mapping[str, np.ndarray]) -> None:
    if to == "official":
        write_torch(dst, state, NESTS.get(found.kind, "model"))
    elif to == "timm":
        write_safetensors(dst, state, {"format": "pt"})
    elif to == "paddleclas":
        write_paddle(dst, state)
    else:
        with whole_or_absent(dst / "config.json") as file:
            file.write(json.dumps(config_of(found.kind, found.architecture), indent=1).encode() + b"\n")
        write_safetensors(dst / "model.safetensors", state, {"format": "pt"})


def _check_target(src: Path, dst: Path, to: str, force: bool) -> None:
    if not src.exists():
        raise CheckpointError(f"{src}: no such run folder, checkpoint or weights file. Check the path.")
    suffix = SUFFIXES.get(to)
    if suffix and dst.suffix != suffix:
        raise CheckpointError(f"{dst}: expected a name ending in {suffix} for --to {to}.")
    written = dst if suffix else dst / "model.safetensors"
    if dst.resolve() == src.resolve() or written.resolve() == src.resolve():
        raise CheckpointError(f"{dst}: this is the source itself. Choose another target.")
    if suffix and dst.is_dir() or not suffix and dst.is_file():
        raise CheckpointError(f"{dst}: is a {'folder' if dst.is_dir() else 'file'}, --to {to} writes a "
                              f"{'file' if suffix else 'folder'}. Choose another target.")
    if written.exists() and not force:
        raise CheckpointError(f"{written}: exists already. Choose another target, or overwrite it with --force.")


def _transformers_file(folder: Path) -> Path | None:
    if not folder.is_dir() or not (folder / "config.json").is_file():
        return None
    return next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)


def _hints_of_folder(folder: Path, hints: Hints) -> Hints:
    try:
        heads = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("num_attention_heads")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{folder}: config.json cannot be read: {error}.") from None
    return hints._replace(num_heads=hints.num_heads or heads) if isinstance(heads, int) else hints


def _of_run(src: Path, hints: Hints) -> Recognised:
    """The model of a run; what weights do not tell is taken from the settings they were saved with."""
    if checkpoint_folder(src) is None:
        raise CheckpointError("no model in this folder.")
    saved = read_checkpoint(str(src))
    config: Any = saved.config
    model = config.get("encoder") or config.get("model") or {}
    trunk = model.get("backbone") or model
    size = trunk.get("image_size") or (config.get("data") or {}).get("image_size")
    size = (size, size) if isinstance(size, int) else tuple(size) if size else None
    found = _recognise(saved.weights, "ours", Hints(hints.size or size, hints.num_heads or trunk.get("num_heads"),
                                                    hints.early_layers or trunk.get("early_layers")))
    a = found.architecture
    trunks = [(a["encoder"], trunk), (a["decoder"], config.get("decoder") or {})] if found.kind == "tokenizer" else \
        [(a.get("backbone", a), trunk)]
    for described, section in trunks:
        described.update({key: section[key] for key in ("num_heads", "norm_eps") if key in section})
    a.update({key: list(value) for key, value in (("out_indices", trunk.get("out_indices")),
                                                  ("pool_scales", model.get("pool_scales"))) if value and key in a})
    return found


def _recognise(tensors: Mapping[str, np.ndarray], origin: str | None, hints: Hints) -> Recognised:
    grid = None
    if hints.size is not None:
        patches = [array for name, array in tensors.items()
                   if array.ndim == 4 and name.endswith(("patch_embed.proj.weight", "projection.weight"))
                   and not name.startswith("decoder.")]
        if patches:
            grid = _grid(hints.size, patches[0].shape[2:])
    return recognise(tensors, origin=origin, grid=grid, num_heads=hints.num_heads, early_layers=hints.early_layers)
