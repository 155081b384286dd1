"""Trained models from a run folder, a checkpoint or a file of published weights."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..checkpoint.store import CheckpointStore
from ..config import PretrainConfig, TokenizerConfig, parse_config
from ..errors import CheckpointError, ConfigError
from ..models.vqkd import PUBLISHED, build_published
from .described import build_described
from .found import Found, checkpoint_folder, read_checkpoint
from .models import build_mim, build_tokenizer

def read_config(source: str) -> Any:
    """The settings a run or checkpoint was made with; None for a lone weights file."""
    folder = checkpoint_folder(Path(source))
    if folder is None:
        return None
    return parse_config(_read_yaml(folder / "config.yml"), source=f"{folder}/config.yml")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}.") from None


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
    """An array in row-major order and in a tensor's type: a checkpoint in half precision fills a model in single."""
    return np.ascontiguousarray(array, dtype=str(tensor.dtype).rsplit(".", 1)[-1])


def _few(label: str, keys: list[str]) -> str:
    if not keys:
        return ""
    return f"{len(keys)} {label} ({', '.join(keys[:4])}{', ...' if len(keys) > 4 else ''}); "


def freeze(model: Any) -> Any:
    """Put a model into eval mode and take its gradients away."""
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

    name: which published architecture a lone weights file holds; a checkpoint and a converted file need none.
    """
    found = read_checkpoint(str(source), sha256=sha256)
    if found.config:
        config = parse_config(found.config, source=str(found.path))
        if not isinstance(config, TokenizerConfig):
            raise CheckpointError(f"{found.path}: this is a {config.kind!r} run, a tokenizer was expected.")
        model = build_tokenizer(config, teacher_width=_teacher_width(found))
    elif found.model is not None and name is None:
        if found.model.kind != "tokenizer":
            raise CheckpointError(f"{found.path}: this is a {found.model.kind} model, a tokenizer was expected.")
        model = build_described("tokenizer", found.model.architecture)
    else:
        if name is None or name not in PUBLISHED:
            raise ConfigError(
                f"{found.path}: weights without settings; which tokenizer is this? {name!r} came; expected one of "
                f"{', '.join(PUBLISHED)} as tokenizer.name (command line: --name)."
            )
        model = build_published(name)
    set_weights(model, found.weights, str(found.path))
    if not model.quantize.codebook.numpy().any():
        raise CheckpointError(
            f"{found.path}: this tokenizer has no codes yet (step {found.step}, before the k-means that starts its "
            "codebook). Train it further, at least past health.unquantized_steps."
        )
    return freeze(model)


def _teacher_width(found: Found) -> int:
    """Output channels of the decoder's projection: the settings name the teacher, the weights know its width."""
    biases = {key: value for key, value in found.weights.items() if re.fullmatch(r"decode_task_layer\.\d+\.bias", key)}
    if not biases:
        raise CheckpointError(f"{found.path}: no decode_task_layer among the weights; this is not a tokenizer.")
    return int(biases[max(biases)].shape[0])


def load_mim(source: str | Path) -> tuple[Any, PretrainConfig]:
    """The pretrained backbone of a run folder or .pdckpt, frozen, in eval mode, and its settings."""
    found = read_checkpoint(str(source))
    if not found.config:
        raise CheckpointError(f"{found.path}: weights without settings; give a pretraining run folder or a .pdckpt.")
    config = parse_config(found.config, source=str(found.path))
    if not isinstance(config, PretrainConfig):
        raise CheckpointError(f"{found.path}: this is a {config.kind!r} run, a pretraining run was expected.")
    num_codes = int(found.weights["lm_head.bias"].shape[0])
    model = build_mim(config.model, image_size=config.data.image_size, num_codes=num_codes)
    set_weights(model, found.weights, str(found.path))
    return freeze(model), config


def restore_model(source: str | Path) -> Any:
    """The model of any run folder or .pdckpt, whatever its kind."""
    config = read_config(str(source))
    return load_mim(source)[0] if isinstance(config, PretrainConfig) else load_tokenizer(source)


def save_untrained(config: TokenizerConfig, teacher_width: int) -> Path:
    """Write a tokenizer with random weights and codes as step 0 of `config.output`; returns the run folder."""
    from .plan import seed_everything

    seed_everything(config.seed)
    quantizer = config.quantizer.model_copy(update={"kmeans_init": False})  # random codes, ready to be used
    health = config.health.model_copy(update={"unquantized_steps": 0})  # they would end with k-means
    config = config.model_copy(update={"quantizer": quantizer, "health": health})
    model = build_tokenizer(config, teacher_width=teacher_width)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    folder = Path(config.output)
    store = CheckpointStore(folder / "checkpoints")
    store.save(0, weights, {}, {}, config.resolved())
    (folder / "config.yml").write_text(yaml.safe_dump(config.resolved(), sort_keys=False), encoding="utf-8")
    return folder
