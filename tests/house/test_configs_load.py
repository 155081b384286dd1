# SPDX-License-Identifier: Apache-2.0
"""Every YAML in the tree loads, and the recipes hold the numbers the paper's authors trained with."""

from __future__ import annotations

from pathlib import Path

import pytest

from beitv2_core.config import load_config
from beitv2_core.config.load import read_tree

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted(CONFIGS.rglob("*.yml"))
SEG = [path for path in FILES if path.parent.name == "seg"]
RUNS = [path for path in FILES if path.parent.name in ("tokenizer", "pretrain", "cls")]
#: not the paper's: names of the files of small images
SMALL = ("digit_scenes", "cifar10", "tiny_imagenet20", "camvid")


def label(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def load(name: str):
    path = CONFIGS / name
    given = ["data.root=images"]
    if path.parent.name == "pretrain":
        given.append("tokenizer.weights=run")
    elif "vqkd" in path.name:
        given.append("teacher.weights=file.pt")
    elif path.parent.name == "cls" and "digit_scenes" not in path.name:
        given.append("pretrained.weights=run")
    return load_config(path, given)


@pytest.mark.parametrize("path", FILES, ids=label)
def test_every_yaml_reads_with_its_bases(path):
    tree, sources = read_tree(path)
    assert tree
    assert sources


@pytest.mark.parametrize("path", RUNS, ids=label)
def test_every_recipe_is_valid_and_opens_with_what_it_does_cost_result_and_command(path):
    config = load(label(path))
    kinds = {"cls": "linear_probe" if path.name.startswith("linear_probe") else "finetune"}
    assert config.kind == kinds.get(path.parent.name, path.parent.name)
    opening = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    command = "train-tokenizer" if config.kind == "tokenizer" else config.kind.replace("_", "-")
    for part in ("# Cost: ", "# Expect: ", f"beitv2 {command} configs/{label(path)}"):
        assert part in opening, f"{path.name} does not say {part!r}"


@pytest.mark.parametrize("path", SEG, ids=label)
def test_every_segmentation_recipe_is_valid_and_opens_with_what_it_does_cost_result_and_command(path):
    from beitv2_seg.config import read_config_file

    assert read_config_file(str(path)).kind == "segment"
    opening = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    for part in ("# Cost: ", "Expect: ", "# Run: "):
        assert part in opening, f"{path.name} does not say {part!r}"


@pytest.mark.parametrize("path", [p for p in RUNS if not any(name in p.name for name in SMALL)], ids=label)
def test_health_measures_are_off_in_the_paper_recipes(path):
    config = load(label(path))
    if config.kind == "tokenizer":
        health = config.health
        assert (health.unquantized_steps, health.kmeans_batches, health.revive_after) == (0, 1, None)


@pytest.mark.parametrize("name", ["1x768x12_clip", "3x768x12_clip", "1x768x12_dino"])
def test_the_published_tokenizers_are_configured_as_trained(name):
    config = load(f"tokenizer/vqkd_base_{name}.yml")
    assert (config.encoder.width, config.encoder.depth, config.encoder.positions) == (768, 12, "absolute")
    assert config.decoder.depth == int(name[0])
    assert config.teacher.name == name[-4:]
    assert (config.quantizer.num_codes, config.quantizer.code_dim, config.quantizer.decay) == (8192, 32, 0.99)
    assert (config.optim.lr, config.optim.lr_batch, config.optim.min_lr) == (5e-5, 128, 1e-5)
    assert (config.optim.betas, config.optim.weight_decay, config.optim.clip_norm) == ((0.9, 0.99), 1e-4, None)
    assert (config.optim.epochs, config.optim.warmup_epochs, config.train.total_batch) == (100, 10, 512)
    assert (config.data.crop_scale, config.data.color_jitter) == ((0.08, 1.0), 0.0)


@pytest.mark.parametrize(
    ("name", "depth", "early", "gamma", "drop_path", "beta2"),
    [
        ("base_300e", 12, 9, 0.1, 0.0, 0.98),
        ("base_1600e", 12, 9, 0.1, 0.1, 0.999),
        ("large_300e", 24, 21, 1e-5, 0.0, 0.98),
        ("large_1600e", 24, 21, 1e-5, 0.1, 0.999),
    ],
)
def test_the_published_pretraining_runs_are_configured_as_trained(name, depth, early, gamma, drop_path, beta2):
    config = load(f"pretrain/{name}.yml")
    model, optim = config.model, config.optim
    assert (model.depth, model.early_layers, model.head_layers, model.share_lm_head) == (depth, early, 2, True)
    assert (model.init_values, model.drop_path, model.positions) == (gamma, drop_path, "shared_relative")
    assert (config.mask.num_masked, config.mask.min_block, config.grid) == (75, 16, (14, 14))
    assert (optim.lr, optim.lr_batch, optim.betas[1], optim.clip_norm) == (1.5e-3, None, beta2, 3.0)
    assert (optim.weight_decay, optim.min_lr, optim.warmup_epochs) == (0.05, 1e-5, 10)
    assert optim.epochs == int(name.split("_")[1][:-1])
    assert config.train.total_batch == 2048
    assert (config.data.crop_scale, config.data.color_jitter) == ((0.2, 1.0), 0.4)


@pytest.mark.parametrize(
    ("name", "lr", "epochs", "warmup", "layer_decay", "drop_path", "mixes"),
    [
        ("base_300e", 5e-4, 100, 20, 0.65, 0.1, True),
        ("base_1600e", 5e-4, 100, 20, 0.6, 0.2, True),
        ("base_ft21k", 5e-5, 30, 20, 0.75, 0.1, False),
        ("large_300e", 5e-4, 50, 5, 0.8, 0.2, True),
        ("large_1600e", 2e-4, 50, 5, 0.8, 0.2, True),
        ("large_ft21k", 7e-5, 20, 5, 0.8, 0.25, False),
    ],
)
def test_the_published_fine_tuning_runs_are_configured_as_trained(
    name, lr, epochs, warmup, layer_decay, drop_path, mixes
):
    config = load(f"cls/finetune_{name}_in1k.yml")
    model, optim, augment = config.model, config.optim, config.augment
    assert (optim.lr, optim.lr_batch, optim.epochs, optim.warmup_epochs) == (lr, None, epochs, warmup)
    assert (config.layer_decay, model.drop_path) == (layer_decay, drop_path)
    assert (augment.mixup, augment.cutmix) == ((0.8, 1.0) if mixes else (0, 0))
    assert (augment.smoothing, augment.policy, augment.erase_prob) == (0.1, "rand-m9-mstd0.5-inc1", 0.25)
    assert (optim.weight_decay, optim.min_lr, optim.clip_norm, config.train.total_batch) == (0.05, 1e-6, None, 1024)
    assert (model.pooling, model.head_scale, model.positions) == ("mean", 0.001, "relative")
    assert (model.width, model.init_values) == ((768, 0.1) if name.startswith("base") else (1024, 1e-5))
    assert config.validation.crop_share == 0.875
