# SPDX-License-Identifier: Apache-2.0
"""Read a run, a checkpoint, or a file of weights in any known format, without executing anything in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ..checkpoint.store import CheckpointStore
from ..config import STAGES
from ..errors import BEiTError, CheckpointError, ConfigError
from ..files.json_text import parse_json
from ..weights.architecture import grid_of
from ..weights.converted import is_converted, parse_converted
from ..weights.identify import IdentifiedWeights, identify
from ..weights.places import flat, places_for
from ..weights.reading.foreign import read_state
from .from_architecture import shapes_of
from .kinds import find_kind, known_kinds

log = logging.getLogger("beitv2_core")
SUFFIXES = (".safetensors", ".pth", ".pt", ".pdparams", ".bin", ".ckpt", ".tar")
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")  # of transformers' folders
CLASSES_FILE = "classes.json"  # of a run folder
Size = tuple[int, int]


class Hints(NamedTuple):
    """Values that weights do not tell, and which of a file's models is meant.

    size: (height, width) in pixels of the images; values: those of the kind (`Kind.untold`) by name, text is parsed;
    ema: True for averaged weights, False for the others, None for the trained ones where there are both.
    """

    size: Optional[Size] = None
    values: Mapping[str, Any] = {}
    ema: Optional[bool] = None


class LoadedWeights(NamedTuple):
    """The weights and settings of a path.  A lone weights file has no step, config, versions and optimizer.

    model: kind and architecture of a lone file.  classes: names of the classes, in the order of the logits, where they
    are known: from `classes` in the task's state of a checkpoint, from classes.json of its run folder, or from a file.
    """

    path: Path
    weights: Mapping[str, np.ndarray]
    config: Mapping[str, Any]
    step: int | None = None
    versions: Mapping[str, Any] = {}
    optimizer_tensors: int = 0
    optimizer_bytes: int = 0
    model: IdentifiedWeights | None = None
    classes: list[str] | None = None

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of patches the trunk in a lone file was made for; None for a run, whose settings have it.

        Raises CheckpointError for a file of another kind.
        """
        if self.model is None:
            return None
        wanted = [kind.name for kind in known_kinds().values() if kind.backbone == ""]
        if self.model.kind not in wanted:
            raise CheckpointError(f"{self.path}: this is a {self.model.kind} model; a {' or '.join(wanted)} file was "
                                  "expected.")
        return grid_of(self.model.architecture)


def stage_of(run: str | Path, wanted: Sequence[str] = ()) -> Path:
    """The stage of a run of both (`beitv2 pretrain IMAGES`) that holds one of these kinds; any other path as it is.

    wanted: kinds the caller can use; none for what the run was made for.  Without a better one it is the last stage
    that has been begun.
    """
    path = Path(run)
    if path.suffix == ".pdckpt" or (path / "checkpoints").exists() or transformers_file(path) is not None:
        return path
    begun = {run: path / run for run in reversed(STAGES) if (path / run / "checkpoints").is_dir()}
    fitting = [folder for name, folder in begun.items() if any(find_kind(kind).run == name for kind in wanted)]
    return next(iter([*fitting, *begun.values()]), path)


def checkpoint_folder(path: Path, wanted: Sequence[str] = ()) -> Path | None:
    """The newest valid .pdckpt of a run folder, or the path itself when it is one; None for anything else.

    wanted: kinds the caller can use, where the run is one of both stages (`stage_of`).
    """
    found = _checkpoint_in(stage_of(path, wanted))
    return None if found is None else found[1]


def _checkpoint_in(path: Path) -> tuple[CheckpointStore, Path] | None:
    """As `checkpoint_folder`, with the store that found it: its `load` need not check the files a second time."""
    if path.suffix == ".pdckpt":
        return CheckpointStore(path.parent), path
    if not path.is_dir() or transformers_file(path) is not None:
        return None
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    store = CheckpointStore(folder)
    newest = store.latest()
    if newest is None:
        raise CheckpointError(
            f"{path}: no valid checkpoint in this folder. Give a run folder that has been trained (with checkpoints/"
            "step_*.pdckpt), a .pdckpt folder, a file of weights, or a folder of transformers (config.json beside "
            f"{' or '.join(FOLDER_FILES)})."
        )
    return store, Path(newest)


def read_checkpoint(source: str, *, sha256: str | None = None, wanted: Sequence[str] = (), hints: Hints | None = None,
                    unknown: bool = False) -> LoadedWeights:
    """Read a run folder, a .pdckpt, a weights file of any known format, or a folder of transformers.

    sha256: hash a file must have.  wanted: kinds the caller can use, named in the error for a missing path.  hints:
    values that a lone file does not tell.  unknown: accept a lone file of no known kind (`model` is then None).
    Weights are under our names; containers and prefixes of the file are removed, and one line of the log names them.
    Raises CheckpointError for what is missing, damaged, unsafe or not recognised.
    """
    path = Path(source)
    if "://" in source:
        from ..weights.published.download import resolve_weights

        path = Path(resolve_weights(source, sha256))
    elif not path.exists():
        raise CheckpointError(f"{source}: no such run folder, checkpoint or weights file. Check the path, or make one: "
                              f"{_commands(wanted)}.")
    path = stage_of(path, wanted)
    checkpoint = _checkpoint_in(path)
    if checkpoint is not None:
        store, folder = checkpoint
        saved = store.load(folder)
        optimizer = [value for value in saved.optimizer.values() if isinstance(value, np.ndarray)]
        weights = _averages(folder, saved.state) if hints is not None and hints.ema else saved.weights
        return LoadedWeights(folder, weights, saved.config, saved.step, saved.state.get("versions", {}), len(optimizer),
                     sum(value.nbytes for value in optimizer), classes=_classes_of_run(folder, saved.state))
    if "://" not in source and sha256 is not None:
        from ..weights.published.download import resolve_weights

        path = Path(resolve_weights(str(transformers_file(path) or path), sha256))
    file = transformers_file(path) or path
    if file.suffix not in SUFFIXES:
        raise CheckpointError(f"{path}: unknown kind of file {file.suffix!r}; expected a run folder, .pdckpt, "
                              f"{', '.join(SUFFIXES)}.")
    state, rest = read_state(file)
    try:
        model = _recognise_file(path, state, rest, hints or Hints())
    except CheckpointError as error:
        if not unknown:
            raise _with_path(path, error) from None
        log.info("%s: %s", path, error)
        return LoadedWeights(path, flat(state).arrays, {})
    log.info("%s: %s", path, model.taken())
    weights = {**model.weights, **model.extra}
    return LoadedWeights(path, weights, {}, model=model, classes=None if model.classes is None else list(model.classes))


def read_model(src: str | Path, hints: Hints | None = None) -> IdentifiedWeights:
    """The model of a run, a checkpoint or a file of any format, with its architecture; errors name the path."""
    src, hints = stage_of(src), hints or Hints()
    try:
        if src.suffix == ".pdckpt" or src.is_dir() and transformers_file(src) is None:
            return _of_run(src, hints)
        state, rest = read_state(transformers_file(src) or src)
        return _recognise_file(src, state, rest, hints)
    except CheckpointError as error:
        raise _with_path(src, error) from None


def read_weights_for(names: Iterable[str], source: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a lone file for a model with those names, without the containers and prefixes of the file.

    For models that no kind describes; layouts stay as they are.  Tensors beside the model are included, so that a
    strict load reports them; without any fitting name all tensors are returned.
    Raises CheckpointError where the file is no weights file, damaged or unsafe.
    """
    names, path = set(names), Path(source)
    tensors = flat(read_state(path)[0])
    best, most = dict(tensors.arrays), 0
    for place in places_for(tensors.arrays, names):
        count = len(names & set(place.names))
        if count > most and not place.averaged:
            best, most = {plain: tensors.arrays[name] for plain, name in place.names.items()}, count
    return best


def transformers_file(folder: Path) -> Path | None:
    """The weights in a folder of transformers; None for any other path."""
    if not folder.is_dir() or not (folder / "config.json").is_file():
        return None
    return next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)


def grid_for(size: Size, patch: Sequence[int], flag: str) -> Size:
    """(rows, columns) of patches in an image; ConfigError naming the flag where that is no whole number."""
    if any(pixels < p or pixels % p for pixels, p in zip(size, patch)):
        raise ConfigError(f"{flag} {size[0]},{size[1]}: no whole number of patches of {patch[0]} x {patch[1]} pixels. "
                          "Give multiples of the patch.")
    return size[0] // patch[0], size[1] // patch[1]


def _commands(wanted: Sequence[str]) -> str:
    makers = [kind for kind in known_kinds().values() if kind.made_by]
    fitting = [kind for kind in makers if kind.name in wanted] or makers
    return "; ".join(f"{kind.made_by} writes a {kind.name} run" for kind in fitting)


def _with_path(path: Path, error: CheckpointError) -> CheckpointError:
    return error if str(path) in str(error) else CheckpointError(f"{path}: {error}")


def _recognise_file(path: Path, state: Mapping[str, Any], rest: Mapping[str, Any], hints: Hints) -> IdentifiedWeights:
    if is_converted(rest):
        return parse_converted(state, rest, known_kinds(), shapes_of)
    classes = None
    if path.is_dir():
        known = _config_of_folder(path)
        arguments = known.get("model_args")  # of timm's constructor
        heads = arguments.get("num_heads") if isinstance(arguments, dict) else known.get("num_attention_heads")
        classes = _labels(known)
        hints = hints._replace(values={"num_heads": heads, **hints.values}) if isinstance(heads, int) else hints
    found = identify_weights(state, hints)
    if classes is not None and len(classes) == found.architecture.get("num_classes"):
        found = found._replace(classes=classes)
    return found


def _config_of_folder(folder: Path) -> dict[str, Any]:
    try:
        known = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: config.json cannot be read: {error}. Copy the folder again.") from None
    if not isinstance(known, dict):
        raise CheckpointError(f"{folder}: config.json holds a {type(known).__name__}; expected a JSON object. Copy the "
                              "folder again.")
    return known


def _labels(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names of the classes in a folder's configuration; None where they are transformers' own LABEL_0, LABEL_1, ..."""
    if isinstance(config.get("label_names"), list):  # timm's
        return tuple(map(str, config["label_names"]))
    table = config.get("id2label")
    if not isinstance(table, Mapping) or set(table) != {str(i) for i in range(len(table))}:
        return None
    names = tuple(str(table[str(i)]) for i in range(len(table)))
    return None if names == tuple(f"LABEL_{i}" for i in range(len(names))) else names


def _classes_of_run(folder: Path, state: Mapping[str, Any]) -> list[str] | None:
    task = state.get("task")
    names = task.get("classes") if isinstance(task, Mapping) else None
    file = folder.parent.parent / CLASSES_FILE
    if names is None and file.is_file():
        try:
            names = parse_json(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}. Restore it, or remove it.") from None
    return [str(name) for name in names] if isinstance(names, list) else None


def _averages(folder: Path, state: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The averaged weights of a run's checkpoint."""
    task = state.get("task")
    averages = task.get("average") if isinstance(task, Mapping) else None
    if not averages:
        raise CheckpointError(f"{folder}: there are no averaged weights, because the run computed none. Leave out ema.")
    log.info("%s: the averaged weights are taken", folder)
    return dict(averages)


def _of_run(src: Path, hints: Hints) -> IdentifiedWeights:
    """The model of a run; what weights do not tell is taken from the settings they were saved with."""
    saved = read_checkpoint(str(src), hints=hints)
    try:
        return _as_settings_say(saved, hints)
    except BEiTError:
        raise
    except Exception as error:  # settings that anybody changed, and hashed anew
        raise CheckpointError(f"{saved.path}: its config.yml is not that of a run ({type(error).__name__}: {error}). "
                              "Take an older checkpoint, or copy it again.") from None


def _as_settings_say(saved: LoadedWeights, hints: Hints) -> IdentifiedWeights:
    config: Any = saved.config
    model = config.get("encoder") or config.get("model") or {}
    trunk = model.get("backbone") or model
    size = trunk.get("image_size") or (config.get("data") or {}).get("image_size")
    size = (size, size) if isinstance(size, int) else tuple(size) if size else None
    found = identify_weights(saved.weights, hints._replace(ema=None, size=hints.size or size), origin="ours",
                             settings={**model, **trunk})
    a = found.architecture
    for part in find_kind(found.kind).trunks:
        described, section = (a[part], config.get(part) or trunk) if part else (a, trunk)
        described.update({key: section[key] for key in ("num_heads", "norm_eps") if key in section})
        if described["init_values"] and section.get("init_values"):
            described["init_values"] = section["init_values"]
    # A setting that is left out has its default, as in the training.
    return found._replace(assumed=(), trained=True, classes=None if saved.classes is None else tuple(saved.classes))


def identify_weights(state: Mapping[Any, Any], hints: Hints | None = None, *, origin: str | None = None,
                     settings: Mapping[str, Any] | None = None) -> IdentifiedWeights:
    """The model of one of the known kinds in what a file holds: `weights.identify.identify`.

    settings: of the run the weights come from.
    """
    grid, hints = None, hints or Hints()
    if hints.size is not None:
        patches = [array for name, array in flat(state).arrays.items()
                   if array.ndim == 4 and name.endswith(("patch_embed.proj.weight", "projection.weight"))
                   and "decoder." not in name]
        if patches:
            grid = grid_for(hints.size, patches[0].shape[2:], "--source-size")
    return identify(state, known_kinds(), shapes_of, origin=origin, ema=hints.ema, grid=grid, hints=hints.values,
                    settings=settings)
