# SPDX-License-Identifier: Apache-2.0
"""What runs of the two core kinds cost, from their settings alone: no data, no weights, no model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Optional

from .. import _entry_points
from ..config import PretrainConfig, TokenizerConfig, explain_config
from ..config.sections import DataConfig, OptimConfig, TrainConfig, TrunkConfig
from ..errors import ConfigError
from ..models.vqkd import PUBLISHED
from ..pixels.size import pair
from ..planning.cost import FULL, Bricks, Cost, total
from ..planning.run import PlannedRun, Schedule
from .batches import plan_batches
from .data import build_dataset
from .restore import read_config

ENTRY_POINTS = "beitv2.plans"
STATES = {"adamw": 2, "adam": 2, "sgd": 1}
#: teachers of the published tokenizers, all ViT-B/16: width of their features, and of CLIP's last projection
TEACHER_WIDTHS = {"clip": 512, "dino": 768}
Trunk = Mapping[str, Any]


def planned_run(config: Any, *, images: Optional[int], devices: int) -> PlannedRun:
    """The costs of a run of any kind; other packages give theirs by the entry points 'beitv2.plans'.

    images: of the data set where it is not on this machine.  Raises ConfigError naming what is missing or does not
    divide, and the known kinds where no installed package can plan this one.
    """
    plans: dict[str, Callable[..., PlannedRun]] = {"tokenizer": _tokenizer, "pretrain": _pretraining}
    plan = _entry_points.load(ENTRY_POINTS, config.kind, plans, "costs of a kind of run")
    return plan(config, images=images, devices=devices)


def count_images(data: DataConfig, given: Optional[int]) -> int:
    """The images of the data: as given, as drawn, or as they lie in data.root; ConfigError where nothing tells."""
    if given is not None:
        return given
    if data.dataset == "folder" and not Path(str(data.root or "")).is_dir():
        raise ConfigError("data.root: there is no such folder here, so the number of images is not known. Add "
                          "--images N (ImageNet-1k: 1281167), or set data.root.")
    return len(build_dataset(data))


def schedule_of(optim: OptimConfig, train: TrainConfig, images: int, devices: int) -> Schedule:
    """The arithmetic of the training itself (`build.plan`)."""
    plan = plan_batches(optim, train, images, devices)
    return Schedule(plan.batch_size, devices, plan.accumulate, plan.total_batch, plan.total_steps, images,
                    plan.steps_per_epoch)


def trunk_cost(bricks: Bricks, trunk: TrunkConfig, grid: tuple[int, int], *, patch: int, channels: int = 3,
               norm: bool = True, **options: Any) -> Cost:
    """A trunk of these settings; patch: pixels of one patch."""
    return bricks.trunk(grid, patch=patch, channels=channels, width=trunk.width, depth=trunk.depth,
                        heads=trunk.num_heads, hidden=int(trunk.width * trunk.mlp_ratio), positions=trunk.positions,
                        qkv_bias=trunk.qkv_bias, layer_scale=bool(trunk.init_values), drop_path=trunk.drop_path,
                        norm=norm, **options)


def patch_area(patch_size: Any) -> int:
    """Pixels of a patch."""
    height, width = pair(patch_size)
    return height * width


def _tokenizer(config: TokenizerConfig, *, images: Optional[int], devices: int) -> PlannedRun:
    width = _teacher_width(config)

    def costs(bricks: Bricks) -> tuple[Cost, Cost]:
        encoder, decoder = tokenizer_costs(bricks, config, width)
        return encoder + decoder, _teacher_cost(bricks, config)

    count = count_images(config.data, images)
    return PlannedRun("tokenizer", schedule_of(config.optim, config.train, count, devices), costs,
                      beside=f"teacher {config.teacher.name}", states=STATES[config.optim.kind], amp=config.train.amp,
                      recompute=config.train.recompute, sharding=config.train.sharding)


def tokenizer_costs(bricks: Bricks, config: TokenizerConfig, teacher_width: int) -> tuple[Cost, Cost]:
    """(images to codes, codes to the teacher's features) of a tokenizer (`models.vqkd.VQKD`)."""
    grid, quantizer, encoder, decoder = config.grid, config.quantizer, config.encoder, config.decoder
    patches = grid[0] * grid[1]
    tokens, code = patches + 1, quantizer.code_dim
    to_codes = total(
        trunk_cost(bricks, encoder, grid, patch=patch_area(encoder.patch_size)),
        bricks.final_norm(tokens, encoder.width),
        *(bricks.in_full(part) for part in _projection(Bricks(), patches, encoder.width, code)),
        Cost(buffers=FULL * (quantizer.num_codes * (code + 1) + 1), forward=2.0 * patches * quantizer.num_codes * code,
             kept=4.0 * patches * code * FULL),
    )
    to_features = total(
        trunk_cost(bricks, decoder, grid, patch=1, channels=code),
        bricks.final_norm(tokens, decoder.width),
        *_projection(bricks, patches, decoder.width, teacher_width),
        Cost(kept=3.0 * patches * teacher_width * FULL),  # cosine: features, both divided by their lengths
    )
    # Unlike an image, the code map wants its gradient.
    return to_codes, to_features + Cost(backward=2.0 * patches * code * decoder.width)


def _projection(bricks: Bricks, rows: int, width: int, out: int) -> tuple[Cost, Cost]:
    return bricks.product(rows, width, width), bricks.product(rows, width, out)


def _pretraining(config: PretrainConfig, *, images: Optional[int], devices: int) -> PlannedRun:
    tokenizer, teacher_width = _find_tokenizer(config)
    model, num_codes = config.model, tokenizer.quantizer.num_codes
    asked = config.tokenizer.num_codes
    if asked is not None and asked != num_codes:
        raise ConfigError(f"tokenizer.num_codes: {asked}, but the tokenizer {config.tokenizer.weights} has "
                          f"{num_codes}. Correct one of them.")
    grid, masked = config.grid, config.mask.num_masked
    heads = 1 if model.early_layers is None else 2
    # The [CLS] head reads the trunk's class token too, and its patches from a block before the last, or from the last.
    read = None if model.early_layers == model.depth else masked + heads - 1

    def costs(bricks: Bricks) -> tuple[Cost, Cost]:
        trunk = trunk_cost(bricks, model, grid, patch=patch_area(model.patch_size), mask_token=True,
                           extra_blocks=model.head_layers if heads == 2 else 0, extra_drop_path=model.drop_path > 0,
                           read=read, extra_read=masked)
        head = total(bricks.final_norm(masked, model.width), bricks.product(masked, model.width, num_codes),
                     bricks.softmax_loss(masked, num_codes))
        trained = trunk + head
        if heads == 2:  # the second reading of the same or another classifier
            trained += replace(head, parameters=0 if model.share_lm_head else head.parameters + 2 * model.width)
        # `tokenize` leaves mixed precision; the decoder is loaded, not run.
        encoder, decoder = tokenizer_costs(Bricks(), tokenizer, teacher_width)
        return trained, bricks.in_full((encoder + Cost(parameters=decoder.parameters)).frozen())

    count = count_images(config.data, images)
    return PlannedRun("pretrain", schedule_of(config.optim, config.train, count, devices), costs, beside="tokenizer",
                      states=STATES[config.optim.kind], amp=config.train.amp, recompute=config.train.recompute,
                      sharding=config.train.sharding)


def _find_tokenizer(config: PretrainConfig) -> tuple[TokenizerConfig, int]:
    """Settings and teacher width of the tokenizer: of its run, its YAML file, or the published one of its name."""
    source = config.tokenizer
    path = Path(source.weights)
    if path.suffix in (".yml", ".yaml"):
        found = explain_config(path, (), TokenizerConfig).settings
        return found, _teacher_width(found)
    if path.suffix == ".pdckpt" and path.is_dir() or (path / "checkpoints").is_dir():
        found = read_config(source.weights)
        if not isinstance(found, TokenizerConfig):
            raise ConfigError(f"tokenizer.weights: {path} is a {found.kind!r} run; a tokenizer's is expected.")
        return found, _teacher_width(found)
    if source.name not in PUBLISHED:
        raise ConfigError(
            f"tokenizer.weights: {path} is no run here, and tokenizer.name is {source.name!r}, so its architecture is "
            f"not known. Set tokenizer.weights to its run or to its YAML file, or tokenizer.name to one of "
            f"{', '.join(PUBLISHED)}."
        )
    depth, width = PUBLISHED[source.name]
    trunk = {"size": "base", "positions": "absolute"}
    size = config.data.token_image_size or config.data.image_size
    return TokenizerConfig.model_validate({
        "output": "none", "data": {"dataset": "folder", "root": "none", "image_size": size},
        "optim": {"lr": 1.0, "steps": 1}, "train": {"batch_size": 1}, "teacher": {"name": "none"},
        "encoder": {**trunk, "patch_size": 16}, "decoder": {**trunk, "depth": depth}}), width


def _teacher_width(config: TokenizerConfig) -> int:
    name, options = config.teacher.name, config.teacher.options
    if name == "hog":
        from ..teachers import build_teacher

        return build_teacher("hog", image_size=config.data.image_size, patch_size=config.encoder.patch_size,
                             **options).width
    if name not in TEACHER_WIDTHS:
        raise ConfigError(f"teacher.name: what {name!r} costs is not known. Known: {', '.join(TEACHER_WIDTHS)}, hog.")
    return TEACHER_WIDTHS[name]


def _teacher_cost(bricks: Bricks, config: TokenizerConfig) -> Cost:
    """The published ViT-B/16 of that name on as many patches as the tokenizer's; HOG has no weights and little work."""
    name, grid = config.teacher.name, config.grid
    if name == "hog":
        return Cost()
    patches, width = grid[0] * grid[1], 768
    trunk = bricks.trunk(grid, patch=256, channels=3, width=width, depth=12, heads=12, hidden=4 * width,
                         positions="absolute", norm=True, layer_scale=False)
    # Queries, keys and values all have a bias there; the position table is the one of 14 x 14 patches.
    own = Cost(parameters=12 * width + (197 - patches - 1) * width)
    if name == "clip":  # no bias of the patches, a norm before the blocks, a projection after them
        own += Cost(parameters=-width + 2 * width) + bricks.product(patches, width, TEACHER_WIDTHS["clip"], bias=False)
    return (trunk + own).frozen()
