# SPDX-License-Identifier: Apache-2.0
"""Memory and compute of tokenizer and pretraining runs, from their settings: needs no data and no weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from .. import _entry_points
from ..config import PretrainConfig, TokenizerConfig, explain_config
from ..config.schema import grid_of
from ..config.sections import DataConfig, EncoderConfig, OptimConfig, TrainConfig, TrunkConfig
from ..errors import ConfigError
from ..models.vqkd import PUBLISHED, build_published
from ..pixels.size import pair
from ..planning.cost import FLOAT32_BYTES, Cost, LayerCosts, total
from ..planning.run import PlannedRun, Schedule
from ..teachers import FAMILIES
from ..teachers.clip import CLIPVisual, clip_architecture
from ..teachers.dino import DINOVisionTransformer
from ..teachers.efficientnet_lite import EfficientNetLite, EfficientNetLiteTeacher
from ..teachers.published import published_settings
from ..teachers.vit import TeacherViT, ViTSettings
from .batches import plan_batches
from .data import build_dataset
from .from_architecture import count_parameters
from .loaded_weights import stage_of
from .models import build_mim, build_teacher, build_tokenizer
from .restore import read_config

ENTRY_POINTS = "beitv2.plans"
STATES = {"adamw": 2, "adam": 2, "sgd": 1}


def planned_run(config: Any, *, images: Optional[int], devices: int) -> PlannedRun:
    """The costs of a run of any kind; other packages add theirs by the entry points 'beitv2.plans'.

    images: of the data set where it is not on this machine.  Raises ConfigError naming what is missing or does not
    divide, and the known kinds where no installed package can plan this one.
    """
    plans: dict[str, Callable[..., PlannedRun]] = {"tokenizer": _tokenizer, "pretrain": _pretraining}
    plan = _entry_points.load(ENTRY_POINTS, config.kind, plans, "costs of a kind of run")
    return plan(config, images=images, devices=devices)


def plan_pretraining(config: PretrainConfig, tokenizer: TokenizerConfig, *, images: int, devices: int) -> PlannedRun:
    """The costs of a pretraining run whose tokenizer is not trained yet: that of these settings."""
    return _pretraining(config, images=images, devices=devices, tokenizer=plan_tokenizer(tokenizer))


def count_images(data: DataConfig, given: Optional[int]) -> int:
    """Number of images: as given, else that of the data set; ConfigError where data.root is missing."""
    if given is not None:
        return given - (data.held_out or 0)
    if data.dataset == "folder" and not Path(str(data.root or "")).is_dir():
        raise ConfigError("data.root: there is no such folder here, so the number of images is not known. Add "
                          "--images N (ImageNet-1k: 1281167), or set data.root.")
    return len(build_dataset(data))


def schedule_of(optim: OptimConfig, train: TrainConfig, images: int, devices: int) -> Schedule:
    """The arithmetic of the training itself (`assembly.batches`)."""
    plan = plan_batches(optim, train, images, devices)
    return Schedule(plan.batch_size, devices, plan.accumulate, plan.total_batch, plan.total_steps, images,
                    plan.steps_per_epoch)


def trunk_cost(layers: LayerCosts, trunk: TrunkConfig, grid: tuple[int, int], *, patch: int, channels: int = 3,
               **options: Any) -> Cost:
    """A trunk of these settings; patch: pixels of one patch."""
    return layers.trunk(grid, patch=patch, channels=channels, width=trunk.width, depth=trunk.depth,
                        heads=trunk.num_heads, hidden=int(trunk.width * trunk.mlp_ratio), positions=trunk.positions,
                        layer_scale=bool(trunk.init_values), drop_path=trunk.drop_path, **options)


def patch_area(patch_size: Any) -> int:
    """Pixels of a patch."""
    height, width = pair(patch_size)
    return height * width


class TokenizerPlan(NamedTuple):
    """What the costs of a tokenizer depend on; grid: (rows, columns) of codes; build: the model itself."""

    encoder: EncoderConfig
    decoder: TrunkConfig
    num_codes: int
    code_dim: int
    teacher_width: int
    grid: tuple[int, int]
    build: Callable[[], Any]


def plan_tokenizer(config: TokenizerConfig) -> TokenizerPlan:
    """The tokenizer of the settings of its run."""
    width = _teacher_width(config)
    return TokenizerPlan(config.encoder, config.decoder, config.quantizer.num_codes, config.quantizer.code_dim, width,
                         config.grid, lambda: build_tokenizer(config, teacher_width=width))


def _tokenizer(config: TokenizerConfig, *, images: Optional[int], devices: int) -> PlannedRun:
    planned = plan_tokenizer(config)

    def costs(layers: LayerCosts) -> tuple[Cost, Cost]:
        encoder, decoder = tokenizer_costs(layers, planned)
        return encoder + decoder, _teacher_cost(layers, config)

    count = count_images(config.data, images)
    parameters = count_parameters(planned.build), count_parameters(lambda: _teacher_network(config))
    return PlannedRun("tokenizer", schedule_of(config.optim, config.train, count, devices), costs, parameters,
                      beside=f"teacher {config.teacher.name}", states=STATES[config.optim.kind], amp=config.train.amp,
                      recompute=config.train.recompute, sharding=config.train.sharding)


def tokenizer_costs(layers: LayerCosts, planned: TokenizerPlan) -> tuple[Cost, Cost]:
    """(images to codes, codes to the teacher's features) of a tokenizer (`models.vqkd.VQKD`)."""
    grid, encoder, decoder, code = planned.grid, planned.encoder, planned.decoder, planned.code_dim
    patches = grid[0] * grid[1]
    tokens = patches + 1
    to_codes = total(
        trunk_cost(layers, encoder, grid, patch=patch_area(encoder.patch_size)),
        layers.norm(tokens, encoder.width),
        *(layers.without_amp(part) for part in _projection(LayerCosts(), patches, encoder.width, code)),
        Cost(buffer_bytes=FLOAT32_BYTES * (planned.num_codes * (code + 1) + 1),
             forward_flop=2.0 * patches * planned.num_codes * code,
             kept_bytes=4.0 * patches * code * FLOAT32_BYTES),
    )
    to_features = total(
        trunk_cost(layers, decoder, grid, patch=1, channels=code),
        layers.norm(tokens, decoder.width),
        *_projection(layers, patches, decoder.width, planned.teacher_width),
        # Cosine: features, both divided by their lengths.
        Cost(kept_bytes=3.0 * patches * planned.teacher_width * FLOAT32_BYTES),
    )
    # Unlike an image, the code map needs a gradient.
    return to_codes, to_features + Cost(backward_flop=2.0 * patches * code * decoder.width)


def _projection(layers: LayerCosts, rows: int, width: int, out: int) -> tuple[Cost, Cost]:
    return layers.product(rows, width, width), layers.product(rows, width, out)


def _pretraining(config: PretrainConfig, *, images: Optional[int], devices: int,
                 tokenizer: Optional[TokenizerPlan] = None) -> PlannedRun:
    tokenizer = tokenizer or _find_tokenizer(config)
    model, num_codes = config.model, tokenizer.num_codes
    asked = config.tokenizer.num_codes
    if asked is not None and asked != num_codes:
        raise ConfigError(f"tokenizer.num_codes: {asked}, but the tokenizer {config.tokenizer.weights} has "
                          f"{num_codes}. Correct one of them.")
    grid, masked = config.grid, config.mask.num_masked
    heads = 1 if model.early_layers is None else 2
    # The [CLS] head reads the trunk's class token too, and its patches from a block before the last, or from the last.
    read = None if model.early_layers == model.depth else masked + heads - 1

    def costs(layers: LayerCosts) -> tuple[Cost, Cost]:
        trunk = trunk_cost(layers, model, grid, patch=patch_area(model.patch_size), mask_token=True,
                           extra_blocks=model.head_layers if heads == 2 else 0, extra_drop_path=model.drop_path > 0,
                           read=read, extra_read=masked)
        head = total(layers.norm(masked, model.width), layers.product(masked, model.width, num_codes),
                     layers.softmax_loss(masked, num_codes))
        trained = trunk + head
        if heads == 2:  # the second reading of the same or another classifier
            trained += head
        # `tokenize` leaves mixed precision; the decoder is loaded, not run.
        encoder, _ = tokenizer_costs(LayerCosts(), tokenizer)
        return trained, layers.without_amp(encoder.frozen())

    count = count_images(config.data, images)
    parameters = (
        count_parameters(lambda: build_mim(model, image_size=config.data.image_size, num_codes=num_codes)),
        count_parameters(tokenizer.build))
    return PlannedRun("pretrain", schedule_of(config.optim, config.train, count, devices), costs, parameters,
                      beside="tokenizer", states=STATES[config.optim.kind], amp=config.train.amp,
                      recompute=config.train.recompute, sharding=config.train.sharding)


def _find_tokenizer(config: PretrainConfig) -> TokenizerPlan:
    """The tokenizer of its run, of its YAML file, or the published one of its name."""
    source = config.tokenizer
    path = stage_of(source.weights, ("tokenizer",))
    if path.suffix in (".yml", ".yaml"):
        return plan_tokenizer(explain_config(path, (), TokenizerConfig).settings)
    if path.suffix == ".pdckpt" and path.is_dir() or (path / "checkpoints").is_dir():
        found = read_config(str(path))
        if not isinstance(found, TokenizerConfig):
            raise ConfigError(f"tokenizer.weights: {path} is a {found.kind!r} run; a tokenizer's is expected.")
        return plan_tokenizer(found)
    if source.name not in PUBLISHED:
        raise ConfigError(
            f"tokenizer.weights: {path} is no run here, and tokenizer.name is {source.name!r}, so its architecture is "
            f"not known. Set tokenizer.weights to its run or to its YAML file, or tokenizer.name to one of "
            f"{', '.join(PUBLISHED)}."
        )
    name = source.name
    depth, width = PUBLISHED[name]
    trunk = {"size": "base", "positions": "absolute"}
    encoder = EncoderConfig.model_validate(trunk)
    grid = grid_of(config.data.token_image_size or config.data.image_size, encoder.patch_size)
    return TokenizerPlan(encoder, TrunkConfig.model_validate({**trunk, "depth": depth}), 8192, 32, width, grid,
                         lambda: build_published(name))


def _teacher_width(config: TokenizerConfig) -> int:
    network = _published_sizes(config)
    return network.features if network is not None else int(_teacher_network(config).width)


def _published_sizes(config: TokenizerConfig) -> Optional[ViTSettings]:
    """The sizes of the teacher's vision transformer, None for a teacher that is none.

    Read from the weights file; clip and dino have those of the published ViT-B/16 where there is no such file here.
    """
    teacher, heads = config.teacher, config.teacher.options.get("num_heads")
    if teacher.name in FAMILIES:
        return published_settings(FAMILIES[teacher.name], teacher.weights, teacher.sha256, heads)
    if teacher.name not in ("clip", "dino"):
        return None
    base = ViTSettings(patch_size=16, width=768, depth=12, num_heads=12, hidden=3072, side=14,
                       out_width=512 if teacher.name == "clip" else None)
    if teacher.name == "dino" or not teacher.weights or not Path(teacher.weights).is_file():
        return base
    found = clip_architecture(teacher.weights, heads)
    sizes = {name: found[name] for name in ("patch_size", "width", "depth", "num_heads", "out_width")}
    return replace(base, **sizes, hidden=4 * found["width"], side=found["image_size"] // found["patch_size"])


def _teacher_network(config: TokenizerConfig) -> Any:
    """The network of the teacher's sizes, or the teacher itself where it is no published vision transformer."""
    sizes = _published_sizes(config)
    if config.teacher.name == "efficientnet_lite0":  # without its weights
        return EfficientNetLiteTeacher(EfficientNetLite(), image_size=config.data.image_size,
                                       patch_size=config.encoder.patch_size, **config.teacher.options)
    if sizes is None:
        return build_teacher(config.teacher, image_size=config.data.image_size, patch_size=config.encoder.patch_size)
    if config.teacher.name == "dino":
        return DINOVisionTransformer()
    if config.teacher.name == "clip":
        return CLIPVisual(image_size=(sizes.side or 1) * sizes.patch_size, patch_size=sizes.patch_size,
                          width=sizes.width, depth=sizes.depth, num_heads=sizes.num_heads, out_width=sizes.features)
    return TeacherViT(sizes)


def _teacher_cost(layers: LayerCosts, config: TokenizerConfig) -> Cost:
    """Cost of the teacher, a published vision transformer, on as many patches as the tokenizer has.

    HOG counts as nothing, and so does a file, which does not say; others, also of other packages, give theirs by a
    method `planned_cost(layers) -> Cost`.
    """
    vit, grid = _published_sizes(config), config.grid
    if vit is None:
        planned_cost = getattr(_teacher_network(config), "planned_cost", None)
        return Cost() if planned_cost is None else planned_cost(layers).frozen()
    patches = grid[0] * grid[1]
    tokens = patches + vit.class_token + vit.registers
    block = layers.block(tokens, vit.width, vit.num_heads, vit.hidden)
    if vit.gated:
        block += layers.product(tokens, vit.width, vit.hidden)
    projection = layers.product(patches, vit.width, vit.out_width) if vit.out_width else Cost()
    return (total(layers.product(patches, 3 * vit.patch_size**2, vit.width, first=True), *[block] * vit.depth)
            + projection).frozen()
