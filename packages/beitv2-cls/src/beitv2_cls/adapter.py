# SPDX-License-Identifier: Apache-2.0
"""BEiT v2 inside PaddleClas, without editing it: models by name, and our parts where PaddleClas's are wrong.

From the wheel (`paddleclas`), `register()` makes the models known to `paddleclas.ppcls.arch.build_model`.  In a source
checkout (`ppcls`) it also adds operators, a loss and an optimizer by name, and replaces two functions of the engine:
- `RandCropImage`, `ResizeImage` draw or round otherwise than torchvision: `BEiTv2RandomCrop`, `BEiTv2EvalCrop`;
- `CELoss` without epsilon takes the softmax of soft labels, wrong for mixed images: `BEiTv2SoftTargetLoss`;
- `AdamWDL` decays weights twice and drops the clipping, `clip_norm` is per tensor: `BEiTv2AdamW`;
- `load_dygraph_pretrain` runs what a file asks it to and ignores missing keys: `load_pretrained`, for our models only;
- `ParallelEnv().device_id` does not exist on the CPU, so two processes cannot evaluate there: given a value.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import random
import types
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import paddle.nn as nn
from PIL import Image

from beitv2_cls.classifier import BEiTClassifier
from beitv2_cls.losses import soft_cross_entropy
from beitv2_core.assembly.restore import read_checkpoint
from beitv2_core.assembly.transfer import transfer_trunk
from beitv2_core.commands.checkout import missing_package
from beitv2_core.config.sections import SIZES
from beitv2_core.data import SampleRng
from beitv2_core.data.views.transforms import EvalCrop, RandomResizedCrop
from beitv2_core.engine.optim import build_optimizer, layer_decay_scale
from beitv2_core.engine.step import clip_by_global_norm
from beitv2_core.errors import CheckpointError, ConfigError, MissingDependencyError
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.rel_pos_index import EXTRA_ROWS

LAYER_SCALE = {"base": 0.1, "large": 1e-5}
MODELS = {f"BEiTv2_{size}_patch16_{pixels}": (size, pixels) for size in ("base", "large") for pixels in (224, 384)}
#: settings of `Arch` besides PaddleClas's own; `norm` follows from the pooling
KNOWN = {name for owner in (BEiTClassifier, BEiTBackbone)
         for name, parameter in inspect.signature(owner.__init__).parameters.items()
         if parameter.kind is parameter.KEYWORD_ONLY} - {"num_classes", "drop_path", "norm"}


# -- models -----------------------------------------------------------------------------------------------------------


def build_arch(size: str, pixels: int, /, *, pretrained: Any = False, class_num: int = 1000,
               drop_path_rate: float = 0.0, **options: Any) -> BEiTClassifier:
    """The published classifier as PaddleClas's `Arch` section builds it: images (B, 3, H, W) -> logits (B, class_num).

    size: "base" or "large"; pretrained: path of a pretraining or fine-tuned checkpoint (`load_pretrained`), False or
    None for none.  `use_ssld` of PaddleClas's factories is accepted where it is off.  Other options are
    `BEiTClassifier`'s and replace the published ones; `num_classes` is another spelling of `class_num`.
    Raises ConfigError for `pretrained: True` (PaddleClas hosts no weights of these models) and for unknown options.
    """
    if options.pop("use_ssld", False):
        raise ConfigError("Arch.use_ssld: there are no SSLD weights of BEiT v2. Remove the setting.")
    if pretrained is True:
        raise ConfigError("Arch.pretrained is True, but PaddleClas hosts no BEiT v2 weights. Give the path of a "
                          "checkpoint instead.")
    class_num = options.pop("num_classes", class_num)
    unknown = sorted(set(options) - KNOWN)
    if unknown:
        raise ConfigError(f"Arch: unknown settings {', '.join(unknown)}. Known: class_num, drop_path_rate, pretrained, "
                          f"{', '.join(sorted(KNOWN))}.")
    width, depth, heads = SIZES[size]
    settings = {"image_size": pixels, "patch_size": 16, "width": width, "depth": depth, "num_heads": heads,
                "init_values": LAYER_SCALE[size], "use_rel_pos_bias": True, "drop_path": drop_path_rate, **options}
    model = BEiTClassifier(num_classes=class_num, **settings)
    if pretrained:
        load_pretrained(model, str(pretrained))
    return model


def load_pretrained(model: BEiTClassifier, path: str, *, fresh_head: bool = True) -> list[str]:
    """Load a pretraining or a fine-tuned checkpoint strictly; returns the names that were not loaded.

    path: run folder, .pdckpt, .safetensors, .pth, .pdparams, or PaddleClas's spelling without ".pdparams".  Position
    terms are fitted to the model's size.  fresh_head: the head may be missing, as in a pretraining checkpoint; False
    where the model is going to be measured.  Nothing in the file is executed.
    Raises CheckpointError listing what is missing, left over or of another shape.
    """
    source = f"{path}.pdparams" if not Path(path).exists() and Path(f"{path}.pdparams").is_file() else path
    found = read_checkpoint(source)
    weights = found.weights
    has_head = "head.weight" in weights
    if not has_head and not fresh_head:
        raise CheckpointError(f"{source}: it has no classifier head; a fine-tuned model was expected. Fine-tune it "
                              "first, or give the fine-tuned checkpoint.")
    grid = found.grid or grid_in(weights, source)
    if has_head:
        classes = int(weights["head.weight"].shape[-1])
        if classes != model.num_classes:
            raise CheckpointError(f"{source}: its head has {classes} classes, the model has {model.num_classes}. Set "
                                  f"Arch.class_num={classes}, or give the pretraining checkpoint to start a new head.")
        return transfer_trunk(model, weights, source, source_grid=grid, fresh=(), drop=())
    return transfer_trunk(model, weights, source, source_grid=grid)


def grid_in(weights: Mapping[str, np.ndarray], source: str) -> tuple[int, int]:
    """The square grid of patches that the position terms of a checkpoint were made for; (1, 1) where it has none."""
    for name, array in weights.items():
        side = 1.0
        if name.endswith("relative_position_bias_table"):
            side = (math.sqrt(array.shape[0] - EXTRA_ROWS) + 1) / 2
        elif name == "pos_embed":
            side = math.sqrt(array.shape[1] - 1)
        else:
            continue
        if side != int(side):
            raise CheckpointError(f"{source}: {name} {tuple(array.shape)} is not of a square grid of patches, and the "
                                  "file does not tell which grid. Load it from its run folder.")
        return int(side), int(side)
    return 1, 1


FACTORIES = {name: partial(build_arch, size, pixels) for name, (size, pixels) in MODELS.items()}


# -- parts of the training --------------------------------------------------------------------------------------------


class SoftTargetLoss(nn.Layer):
    """Cross-entropy with soft targets (B, C), or with labels (B, 1) smoothed by `epsilon`, as {"CELoss": loss}.

    Soft targets are taken as they are but for `epsilon`, which smooths them too, as timm's Mixup does before mixing.
    Source: timm SoftTargetCrossEntropy, LabelSmoothingCrossEntropy.
    """

    def __init__(self, epsilon: float = 0.0):
        super().__init__()
        if not 0 <= epsilon < 1:
            raise ConfigError(f"BEiTv2SoftTargetLoss.epsilon is {epsilon}; expected at least 0 and less than 1.")
        self.epsilon = epsilon

    def forward(self, logits: paddle.Tensor, target: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """The mean over the batch."""
        classes = logits.shape[-1]
        if target.shape[-1] != classes or target.dtype in (paddle.int32, paddle.int64):
            target = nn.functional.one_hot(target.reshape([-1]), classes)
        target = target.astype("float32") * (1 - self.epsilon) + self.epsilon / classes
        return {"CELoss": soft_cross_entropy(logits, target)}


class LayerDecayAdamW:
    """AdamW with the published parameter groups (layer decay, no decay of biases and norms) and global-norm clipping.

    clip_global_norm: greatest norm of all gradients together, None for none.  PaddleClas calls it with its model list.
    """

    def __init__(self, learning_rate: Any, *, layer_decay: float = 1.0, weight_decay: float = 0.05,
                 beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
                 clip_global_norm: float | None = None, grad_clip: Any = None):
        if grad_clip is not None:
            raise ConfigError("Optimizer.clip_norm clips each tensor by itself in PaddleClas. Use clip_global_norm.")
        self.learning_rate, self.layer_decay, self.weight_decay = learning_rate, layer_decay, weight_decay
        self.betas, self.epsilon, self.clip_global_norm = (beta1, beta2), epsilon, clip_global_norm

    def __call__(self, model_list: list[Any]) -> Any:
        """The optimizer of the one BEiT v2 model in the list."""
        models = [model for model in model_list if isinstance(model, BEiTClassifier)]
        if len(models) != 1:
            raise ConfigError(f"Optimizer BEiTv2AdamW: {len(models)} BEiT v2 models in the Arch; exactly one is "
                              "expected.")
        model = models[0]
        optimizer = build_optimizer("adamw", model, lr=self.learning_rate, weight_decay=self.weight_decay,
                                    betas=self.betas, eps=self.epsilon, no_decay=model.no_weight_decay(),
                                    lr_scale=layer_decay_scale(model.depth, self.layer_decay))
        if self.clip_global_norm is not None:
            update, limit = optimizer.step, self.clip_global_norm

            def clipped_step() -> None:
                # Paddle's own grad_clip takes the norm of each parameter group by itself.
                clip_by_global_norm([parameter for parameter in model.parameters() if parameter.grad is not None],
                                    limit)
                update()

            optimizer.step = clipped_step
        return optimizer


class RandomCropOperator:
    """torchvision's RandomResizedCrop in a PaddleClas pipeline: PIL image -> uint8 (size, size, 3).

    Draws from Python's global generator, as PaddleClas's own operators do.
    """

    def __init__(self, size: int, *, scale: Sequence[float] = (0.08, 1.0), interpolation: str = "bicubic"):
        self.crop = RandomResizedCrop(size, scale=(scale[0], scale[1]), interpolation=interpolation)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Cut and resize one image."""
        return np.asarray(self.crop(image.convert("RGB"), SampleRng.from_seed(random.getrandbits(32))))


class EvalCropOperator:
    """The published evaluation crop in a PaddleClas pipeline: PIL image -> uint8 (size, size, 3).

    The short side becomes size / crop_share, the long side is rounded down, the centre is kept.
    """

    def __init__(self, size: int, *, crop_share: float = 0.875, interpolation: str = "bicubic"):
        self.crop = EvalCrop(size, crop_share=crop_share, interpolation=interpolation)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize and cut one image."""
        return np.asarray(self.crop(image.convert("RGB")))


# -- registration -----------------------------------------------------------------------------------------------------


def register() -> list[str]:
    """Register with each PaddleClas that can be imported; returns the modules that were extended.

    That is the wheel (`paddleclas.ppcls.arch`), and a checkout on the path (`ppcls.arch`), whose root holds a file
    paddleclas.py that is not the wheel.  Calling it again changes nothing.
    Raises MissingDependencyError where neither can be imported, ConfigError where a name is taken.
    """
    found = [package for package in ("paddleclas.ppcls", "ppcls") if _holds_models(package)]
    if not found:
        spec = importlib.util.find_spec("paddleclas")
        seen = f" {spec.origin} is found instead, which is not PaddleClas." if spec is not None else ""
        raise MissingDependencyError(
            f"PaddleClas is not installed.{seen} Type: pip install 'beitv2-cls[ppcls]', or run a checkout's script: "
            "python -m beitv2_cls PADDLECLAS/tools/train.py -c CONFIG")
    try:
        return [register_in(package) for package in found]
    except ModuleNotFoundError as error:
        raise missing_package(error, "PaddleClas") from error


def _holds_models(package: str) -> bool:
    """Whether a package can be imported and holds models.  Nothing is imported."""
    top, *below = package.split(".")
    spec = importlib.util.find_spec(top)
    places = spec.submodule_search_locations if spec is not None else None
    return any(Path(place, *below, "arch", "__init__.py").is_file() for place in places or ())


def register_in(package: str, *, fresh_head: bool = True) -> str:
    """Register with one PaddleClas, `ppcls` or `paddleclas.ppcls`; returns the module of its models.

    fresh_head: whether `Global.pretrained_model` may lack the head (training).
    """
    arch = importlib.import_module(f"{package}.arch")
    for name, factory in FACTORIES.items():
        taken = getattr(arch, name, factory)
        if taken is not factory:
            raise ConfigError(f"{arch.__name__} already has a model named {name!r} ({taken!r}). Remove one of the "
                              "two: ours would hide it from every config that names it.")
        setattr(arch, name, factory)
    if package == "ppcls":
        _register_engine(fresh_head)
    return arch.__name__


def _register_engine(fresh_head: bool) -> None:
    loss = importlib.import_module("ppcls.loss")
    loss.BEiTv2SoftTargetLoss = SoftTargetLoss  # type: ignore[attr-defined]  # CombinedLoss looks names up there
    operators = importlib.import_module("ppcls.data.preprocess")
    operators.BEiTv2RandomCrop = RandomCropOperator  # type: ignore[attr-defined]
    operators.BEiTv2EvalCrop = EvalCropOperator  # type: ignore[attr-defined]
    optimizers = importlib.import_module("ppcls.optimizer.optimizer")
    optimizers.BEiTv2AdamW = LayerDecayAdamW  # type: ignore[attr-defined]
    engine = importlib.import_module("ppcls.engine.engine")
    theirs = getattr(engine.load_dygraph_pretrain, "theirs", engine.load_dygraph_pretrain)
    engine.load_dygraph_pretrain = _strict(theirs, fresh_head)  # type: ignore[attr-defined]
    _give_processes_a_device(importlib.import_module("ppcls.engine.evaluation.classification"))


def _strict(theirs: Callable[..., None], fresh_head: bool) -> Callable[..., None]:
    def load_dygraph_pretrain(model: Any, pretrained_path: str, **options: Any) -> None:
        parts = model if isinstance(model, list) else [model]
        ours = [part for part in parts if isinstance(part, BEiTClassifier)]
        for part in ours:
            load_pretrained(part, pretrained_path, fresh_head=fresh_head)
        if not ours:
            theirs(model, pretrained_path, **options)

    load_dygraph_pretrain.theirs = theirs  # type: ignore[attr-defined]
    return load_dygraph_pretrain


def _give_processes_a_device(module: types.ModuleType) -> None:
    """`ParallelEnv().device_id` raises AttributeError without a GPU; the evaluation only reads it, so 0 will do."""
    class Distributed:
        def __getattr__(self, name: str) -> Any:
            return getattr(paddle.distributed, name)

        @staticmethod
        def ParallelEnv() -> Any:  # noqa: N802  the name PaddleClas calls
            return types.SimpleNamespace(device_id=paddle.distributed.get_rank())

    class Paddle:
        distributed = Distributed()

        def __getattr__(self, name: str) -> Any:
            return getattr(paddle, name)

    if paddle.device.get_device() == "cpu":
        module.paddle = Paddle()  # type: ignore[attr-defined]
