# SPDX-License-Identifier: Apache-2.0
"""The commands one after the other on a few drawn images: each leaves what the next one reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.data import DigitScenes

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL = ["data.size=64", "train.batch_size=16", "train.log_every=4", "train.save_every=6", "optim.warmup_steps=2"]
runner = CliRunner()
pytestmark = pytest.mark.slow


def run(*arguments, code=0):
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = [*SMALL, f"output={folder}/tokenizer", "optim.steps=12", "health.unquantized_steps=4"]
    run("train-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "--set", *small)
    small = [*SMALL, f"tokenizer.weights={folder}/tokenizer", f"output={folder}/pretrain", "optim.steps=8"]
    run("pretrain", CONFIGS / "pretrain/digit_scenes.yml", "--set", *small)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    scenes = DigitScenes("test", size=9, image_size=48)
    for index in range(len(scenes)):
        scenes.load(index).image.save(folder / f"{index}.png")
    return folder


def test_a_run_folder_holds_settings_metrics_and_checkpoints(runs):
    for name in ("tokenizer", "pretrain"):
        assert (runs / name / "config.yml").is_file()
        lines = (runs / name / "metrics.jsonl").read_text().splitlines()
        assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)
        assert list((runs / name / "checkpoints").glob("step_*.pdckpt"))


def test_codes_do_not_depend_on_the_batch_size_and_one_image_is_shown(runs, images, tmp_path):
    for batch_size in (1, 4):
        run("tokenize", images, "-t", runs / "tokenizer", "-o", tmp_path / f"{batch_size}.npz", "-b", batch_size)
    alone, together = (np.load(tmp_path / f"{size}.npz")["codes"] for size in (1, 4))
    assert alone.shape == (9, 4, 4)
    assert np.array_equal(alone, together)
    shown = run("tokenize", images / "3.png", "-t", runs / "tokenizer", "-o", tmp_path / "one.npz").splitlines()
    grid = [[int(word) for word in line.split()] for line in shown if line.replace(" ", "").isdigit()]
    assert grid == alone[3].tolist()


def test_a_dry_run_prints_the_arithmetic_and_writes_nothing(runs, tmp_path):
    settings = [*SMALL, f"output={tmp_path}/none", f"tokenizer.weights={runs}/tokenizer", "train.total_batch=32"]
    shown = run("pretrain", CONFIGS / "pretrain/digit_scenes.yml", "--dry-run", "--set", *settings)
    for part in ("total batch: 32 = 16 images x 1 process(es) x 2 accumulated", "steps per epoch: 2", "activations"):
        assert part in shown
    assert not (tmp_path / "none").exists()


def test_inspect_shows_kind_step_and_tensors(runs):
    shown = run("inspect", runs / "tokenizer")
    assert "kind: tokenizer" in shown
    assert "step: 12" in shown
    assert "quantize.codebook" in shown


def test_the_codebook_of_a_run_is_measured_and_drawn(runs):
    run("codebook", runs / "tokenizer", "--limit", 40, "--data", "digit_scenes")
    measured = json.loads((runs / "tokenizer/codebook/codebook.json").read_text())
    assert sum(measured["counts"]) == 40 * 16
    assert 1 <= measured["perplexity"] <= 64
    for figure in ("code_histogram.png", "code_gallery.png"):
        assert (runs / "tokenizer/codebook" / figure).stat().st_size > 1000


def test_the_report_holds_every_number_and_figure(runs):
    run("report", runs / "tokenizer", runs / "pretrain", "--images", 40, "--train-images", 60)
    summary = json.loads((runs / "pretrain/summary.json").read_text())["report"]
    assert set(summary["masked_code_accuracy"]["heads"]) == {"mim", "cls"}
    assert summary["masked_code_accuracy"]["patches"] == 40 * 6
    assert summary["linear_probe"]["gain"] == pytest.approx(
        summary["linear_probe"]["pretrained"] - summary["linear_probe"]["random"]
    )
    assert all(Path(figure).is_file() for figure in summary["figures"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.image_size=64"], "this tokenizer reads 32x32 pixels"),
        (["model.patch_size=16", "mask.num_masked=1", "mask.min_block=1"], "the tokenizer gives (4, 4) codes"),
        (["tokenizer.num_codes=128"], "codebook is (64, 16), the config asks for (128, 16)"),
        (["train.total_batch=24"], "24 is not a multiple of 16"),
    ],
)
def test_a_tokenizer_or_batch_that_does_not_fit_is_refused_before_training(runs, tmp_path, settings, message):
    settings = [*SMALL, f"tokenizer.weights={runs}/tokenizer", f"output={tmp_path}/none", *settings]
    result = runner.invoke(cli.app, ["pretrain", str(CONFIGS / "pretrain/digit_scenes.yml"), "--set", *settings])
    assert result.exit_code == 2
    output = result.output
    try:
        output += result.stderr
    except ValueError:
        pass
    assert message in output


def test_the_weights_of_another_kind_of_run_are_refused(runs, images, tmp_path):
    arguments = ["tokenize", str(images), "-t", str(runs / "pretrain"), "-o", str(tmp_path / "x.npz")]
    result = runner.invoke(cli.app, arguments)
    assert result.exit_code == 2
