# SPDX-License-Identifier: Apache-2.0
"""Collapses made on purpose are named within 10 % of the run, in its log and by the verdict; a healthy run is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from beitv2_core.assembly import build_training
from beitv2_core.assembly.restore import save_untrained
from beitv2_core.config import load_config
from beitv2_core.evaluation.verdict import verdict

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STEPS = 1000
COMMON = [f"optim.steps={STEPS}", "optim.warmup_steps=20", "train.batch_size=16", "train.log_every=10",
          "train.save_every=10000"]
TOKENIZER = ["encoder.width=24", "encoder.depth=1", "encoder.num_heads=2", "decoder.width=24", "decoder.num_heads=2"]
PRETRAIN = ["model.width=24", "model.num_heads=2", "model.depth=2", "model.early_layers=null",
            "model.positions=absolute", "monitor={every: 20, images: 64}"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    save_untrained(load_config(CONFIGS / "tokenizer/digit_scenes.yml", [*TOKENIZER, f"output={folder}"]), 49)
    return folder


@pytest.fixture(scope="module")
def one_colour(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_colour")
    for number in range(48):
        Image.new("RGB", (32, 32), (90, 90, 90)).save(folder / f"{number:02d}.png")
    return ["data={dataset: folder, root: " + str(folder) + ", image_size: 32, held_out: 16}"]


def stopped(stage, folder, changes, *, after=STEPS // 10):
    """The verdict on a run of 1000 steps after a tenth of it."""
    small = TOKENIZER if stage == "tokenizer" else PRETRAIN
    config = load_config(CONFIGS / stage / "digit_scenes.yml", [*COMMON, *small, *changes, f"output={folder}"])
    build_training(config).run(stop_after=after)
    return verdict(folder)


def test_a_codebook_without_kmeans_collapses_and_is_named(tmp_path, caplog):
    found = stopped("tokenizer", tmp_path / "run", [
        "quantizer.kmeans_init=false", "health.unquantized_steps=0", "health.revive_after=null", "optim.lr=3e-3"])
    assert found.state == "codebook collapsed", found
    assert "quantizer.kmeans_init=true" in found.sentences[0] and "of 64 codes used" in found.sentences[0]
    assert sum("codebook collapsed" in one.getMessage() for one in caplog.records) == 1


def test_a_learning_rate_too_high_is_named(tmp_path, tokens, caplog):
    found = stopped("pretrain", tmp_path / "run", [f"tokenizer.weights={tokens}", "optim.lr=0.5"])
    assert found.state == "learning rate too high", found
    assert "Lower optim.lr" in found.sentences[0]
    assert sum("learning rate too high" in one.getMessage() for one in caplog.records) == 1


def test_masks_of_everything_are_named_before_the_first_step(tmp_path, tokens, caplog):
    found = stopped("pretrain", tmp_path / "run", [f"tokenizer.weights={tokens}", "mask.num_masked=15"], after=1)
    assert found.state == "masks hide nearly everything" and "15 of 16" in found.sentences[0]
    assert "mask.num_masked=6" in caplog.text


def test_images_of_one_colour_are_named_in_both_stages(tmp_path, tokens, one_colour):
    assert stopped("tokenizer", tmp_path / "codes", one_colour).state == "images look alike"
    found = stopped("pretrain", tmp_path / "run", [*one_colour, f"tokenizer.weights={tokens}"])
    assert found.state == "images look alike", found


def test_healthy_runs_are_called_healthy_and_say_nothing_else(tmp_path, caplog):
    codes = stopped("tokenizer", tmp_path / "tokenizer", ["health.unquantized_steps=40"])
    assert codes.state == "healthy", codes
    found = stopped("pretrain", tmp_path / "pretrain", [f"tokenizer.weights={tmp_path / 'tokenizer'}",
                                                        "optim.lr=3e-3"])
    assert found.state == verdict(tmp_path).state == "healthy", found
    assert not [one for one in caplog.records if one.levelname == "WARNING" and "at step" in one.getMessage()]
