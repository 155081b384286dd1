# SPDX-License-Identifier: Apache-2.0
"""What `beitv2 serve` shows of a fine-tuning run: the answers of `beitv2 predict`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from beitv2_cls.plugins.view import classifier_view
from beitv2_core import cli
from beitv2_core.commands.serve import build_views
from beitv2_core.data import DigitScenes
from beitv2_core.errors import CheckpointError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TINY = ["model.width=24", "data.size=96", "train.batch_size=16", "validation.size=40", "optim.steps=6",
        "optim.warmup_steps=2", "pretrained.weights=null", "validation.crop_share=0.8"]
TOKENIZER = ["encoder.width=24", "encoder.depth=1", "decoder.width=24", "quantizer.num_codes=16",
             "health.unquantized_steps=0", "health.revive_after=null"]
runner = CliRunner()


def run(*arguments) -> str:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("view")
    run("finetune", CONFIGS / "cls/digit_scenes.yml", "--set", *TINY, f"output={folder}/finetune")
    run("init-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "--set", *TOKENIZER, f"output={folder}/tokenizer")
    return folder


def test_the_five_likeliest_classes_are_those_of_the_command_predict(runs, tmp_path):
    image = DigitScenes("test", size=3, image_size=50).load(2).image.crop((0, 0, 50, 36))
    image.save(tmp_path / "x.png")
    lines = run("predict", runs / "finetune", tmp_path / "x.png", "--json").splitlines()
    expected = next(json.loads(line) for line in lines if line.startswith("{"))["classes"]
    result = classifier_view(str(runs / "finetune")).show(image)
    assert [one.name for one in result.classes] == [one["name"] for one in expected]
    assert [one.probability for one in result.classes] == pytest.approx([one["probability"] for one in expected],
                                                                       abs=1e-6)
    assert len(result.classes) == 5


def test_a_fine_tuning_run_is_served_alone_and_together_with_a_tokenizer(runs):
    alone = build_views(str(runs / "finetune"), None, None, None, 0)
    assert [view.name for view in alone] == ["classes"]
    both = build_views(str(runs / "finetune"), str(runs / "tokenizer"), None, "digit_scenes", 5)
    assert [view.name for view in both] == ["classes", "codes"]
    assert both[1].show(Image.new("RGB", (40, 40))).gallery_images == 5


def test_a_run_of_another_kind_is_refused(runs):
    with pytest.raises(CheckpointError, match="tokenizer"):
        classifier_view(str(runs / "tokenizer"))
