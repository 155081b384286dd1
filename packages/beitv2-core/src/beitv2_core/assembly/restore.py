# SPDX-License-Identifier: Apache-2.0
"""Trained models from a run folder, a checkpoint or a file of published weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ..checkpoint.store import CheckpointStore
from ..config import PretrainConfig, TokenizerConfig, parse_config
from ..errors import CheckpointError, ConfigError
from ..files.atomic import write_text_atomically
from ..files.json_text import parse_json
from ..models.vqkd import PUBLISHED, build_published
from ..pixels.size import pair
from ..yaml_text import parse_yaml
from .from_architecture import build_described
from .kinds import find_kind
from .loaded_weights import Hints, LoadedWeights, checkpoint_folder, read_checkpoint
from .models import build_mim, build_tokenizer


class FileConfig(NamedTuple):
    """What is known of a file of weights; it takes the place of a run's settings.

    kind: as a run's settings call it (tokenizer, pretrain, finetune), or the file's own kind (backbone, clip,
    dino).  image_size: (height, width) in pixels.  grid: (rows, columns) of patches.  architecture: as
    `weights.architecture` describes it.  classes: names of the classes, where the file has them.  tokenizer: None,
    a file does not name the tokenizer whose codes it was trained on.
    """

    source: str
    kind: str
    image_size: tuple[int, int]
    grid: tuple[int, int]
    architecture: Mapping[str, Any]
    classes: list[str] | None = None
    tokenizer: None = None

    @property
    def data(self) -> Any:
        """Always ConfigError: a file does not name the images it was trained on."""
        raise ConfigError(f"{self.source}: a file of weights does not name the images it was trained on. Give "
                          "images: --data FOLDER, or --data digit_scenes.")



def read_config(source: str) -> Any:
    """The settings of a run or checkpoint; for a lone weights file a `FileConfig`.

    Raises CheckpointError for a missing path, and for a file that is not recognised.
    """
    if "://" not in source:
        folder = checkpoint_folder(Path(source))
        if folder is not None:
            state = _read_mapping(folder / "state.json", parse_json).get("state")
            return parse_config(_read_mapping(folder / "config.yml", parse_yaml), source=f"{folder}/config.yml",
                                written_by=_written_by(state if isinstance(state, dict) else {}))
    return file_config(read_checkpoint(source))


def settings_of(found: LoadedWeights) -> Any:
    """The settings of a run that a checkpoint was made with; ConfigError for those of a newer version, with both."""
    return parse_config(found.config, source=str(found.path), written_by=_written_by({"versions": found.versions}))


def _written_by(state: Mapping[str, Any]) -> str:
    """The version of beitv2-core that saved a checkpoint of this state; "" where it does not say."""
    versions = state.get("versions")
    return str(versions.get("beitv2-core", "")) if isinstance(versions, Mapping) else ""


def file_config(found: LoadedWeights) -> FileConfig:
    """The `FileConfig` of a lone file of weights; CheckpointError for a run."""
    if found.model is None:
        raise CheckpointError(f"{found.path}: a file of weights was expected; this is a "
                              f"{found.config.get('kind')!r} run.")
    kind, architecture = find_kind(found.model.kind), found.model.architecture
    size, patch = (pair(kind.trunk_of(architecture)[key]) for key in ("image_size", "patch_size"))
    return FileConfig(str(found.path), kind.run or kind.name, size, (size[0] // patch[0], size[1] // patch[1]),
                      architecture, found.classes)


def _read_mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds a {type(found).__name__}; expected names and values. Copy it again.")
    return found


def set_weights(model: Any, weights: Mapping[str, np.ndarray], source: str) -> None:
    """Put arrays into a model, all of them and nothing else; CheckpointError names what differs."""
    state = model.state_dict()
    missing, extra = sorted(set(state) - set(weights)), sorted(set(weights) - set(state))
    if missing or extra:
        raise CheckpointError(
            f"{source}: not the weights of this {type(model).__name__}: "
            f"{_few('missing', missing)}{_few('not known', extra)}check kind, sizes and name."
        )
    for key, tensor in state.items():
        if list(tensor.shape) != list(weights[key].shape):
            raise CheckpointError(
                f"{source}: {key} is {tuple(weights[key].shape)}, the {type(model).__name__} of the settings has "
                f"{tuple(tensor.shape)}. Use the settings the weights were made with."
            )
    model.set_state_dict({key: in_type_of(tensor, weights[key]) for key, tensor in state.items()})


def in_type_of(tensor: Any, array: np.ndarray) -> np.ndarray:
    """An array in row-major order and of a tensor's type: half-precision checkpoints load into float32 models."""
    return np.ascontiguousarray(array, dtype=str(tensor.dtype).rsplit(".", 1)[-1])


def _few(label: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return f"{len(keys)} {label} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}); "


def freeze(model: Any) -> Any:
    """Put a model into eval mode and stop the gradients of its parameters."""
    model.eval()
    for parameter in model.parameters():
        parameter.stop_gradient = True
    return model


def fingerprint(model: Any) -> str:
    """SHA-256 of all weights: tokenizers with one fingerprint give the same codes."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def load_tokenizer(source: str | Path, *, name: str | None = None, sha256: str | None = None) -> Any:
    """The trained tokenizer of a run folder, a .pdckpt or a weights file: a frozen VQKD in eval mode.

    name: the published architecture that a file must hold; None: it is recognised from the tensors.
    Raises CheckpointError for another kind, ConfigError for an unknown name.
    """
    if name is not None and name not in PUBLISHED:
        raise ConfigError(f"tokenizer.name (command line: --name) is {name!r}; expected one of {', '.join(PUBLISHED)}, "
                          "or nothing: a file is recognised by its tensors.")
    found = read_checkpoint(str(source), sha256=sha256, wanted=("tokenizer",))
    if found.config:
        config = settings_of(found)
        if not isinstance(config, TokenizerConfig):
            raise CheckpointError(f"{found.path}: this is a {config.kind!r} run, a tokenizer was expected. "
                                  "`beitv2 train-tokenizer` makes one.")
        model = build_tokenizer(config, teacher_width=_teacher_width(found))
        set_weights(model, found.weights, str(found.path))
    else:
        model = build_file(found, ("tokenizer",), build_published(name) if name is not None else None)
    if not model.quantize.codebook.numpy().any():
        raise CheckpointError(
            f"{found.path}: this tokenizer has no codes yet (step {found.step}, before the k-means that starts its "
            "codebook). Train it further, at least past health.unquantized_steps."
        )
    return freeze(model)


def _teacher_width(found: LoadedWeights) -> int:
    """The teacher's width: output channels of the decoder's projection.  The settings do not hold it."""
    biases = {key: value for key, value in found.weights.items() if re.fullmatch(r"decode_task_layer\.\d+\.bias", key)}
    if not biases:
        raise CheckpointError(f"{found.path}: no decode_task_layer among the weights; this is not a tokenizer.")
    return int(biases[max(biases)].shape[0])


def build_file(found: LoadedWeights, kinds: Sequence[str], model: Any = None) -> Any:
    """The model of a lone file that `read_checkpoint` read, frozen, in eval mode, if it is of one of these kinds.

    model: the model to fill; None builds one of the file's architecture.
    Raises CheckpointError naming the kind that is there, and values of the architecture that are not known.
    """
    held = None if found.model is None else found.model.kind
    if found.model is None or held not in kinds:
        raise CheckpointError(f"{found.path}: this is a {held or found.config.get('kind')} model, a "
                              f"{' or '.join(kinds)} model was expected.{_beside(found)}")
    if model is None:
        model = build_described(found.model.kind, found.model.architecture, found.path)
    set_weights(model, found.weights, str(found.path))
    return freeze(model)


def _beside(found: LoadedWeights) -> str:
    """Advice about tensors outside the common prefix of the model: they may be the head that was expected."""
    model = found.model
    if model is None or not model.prefix:
        return ""
    names = sorted(name for name in model.unmapped if not name.startswith(model.prefix))
    return "" if not names else (f" Beside '{model.prefix}' it has {', '.join(names[:4])}"
                                 f"{', ...' if len(names) > 4 else ''}: if they belong to it, save the file again with "
                                 f"one beginning before all names ('{model.prefix}head.weight').")


def load_mim(source: str | Path, *, hints: Hints | None = None) -> tuple[Any, Any]:
    """A pretrained backbone with its heads, frozen, in eval mode, and its settings.

    source: run folder or .pdckpt, with `PretrainConfig`; or a file of weights, with `FileConfig`.
    Raises CheckpointError for another kind.
    """
    found = read_checkpoint(str(source), wanted=("pretraining",), hints=hints)
    if not found.config:
        return build_file(found, ("pretraining",)), file_config(found)
    config = settings_of(found)
    if not isinstance(config, PretrainConfig):
        raise CheckpointError(f"{found.path}: this is a {config.kind!r} run, a pretraining run was expected.")
    num_codes = int(found.weights["lm_head.bias"].shape[0])
    model = build_mim(config.model, image_size=config.data.image_size, num_codes=num_codes)
    set_weights(model, found.weights, str(found.path))
    return freeze(model), config


def save_untrained(config: TokenizerConfig, teacher_width: int) -> Path:
    """Write a tokenizer with random weights and codes as step 0 of `config.output`; returns the run folder."""
    from .batches import seed_everything

    seed_everything(config.seed)
    quantizer = config.quantizer.model_copy(update={"kmeans_init": False})  # random codes, ready to be used
    health = config.health.model_copy(update={"unquantized_steps": 0})  # they would end with k-means
    config = config.model_copy(update={"quantizer": quantizer, "health": health})
    model = build_tokenizer(config, teacher_width=teacher_width)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    folder = Path(config.output)
    store = CheckpointStore(folder / "checkpoints")
    store.save(0, weights, {}, {}, config.resolved())
    write_text_atomically(folder / "config.yml", yaml.safe_dump(config.resolved(), sort_keys=False))
    return folder
