# SPDX-License-Identifier: Apache-2.0
"""Model cards: a head that Hugging Face reads, what is known of the run, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.assembly.cards import write_run_card
from beitv2_core.assembly.origins import facts_of_run
from beitv2_core.cards import CARD, MARK, head_of, without_folders
from beitv2_core.errors import ConfigError
from beitv2_core.teachers import LEARNT_FROM, TEACHERS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CONFIG = {"kind": "pretrain", "data": {"dataset": "folder", "root": "/home/somebody/birds"}, "optim": {"lr": 1e-3}}
SUMMARY = {"steps": 20, "seconds": 3.5, "last": {"loss": 2.25, "lr": 0.1}, "images": 4321}
REPORT = {"images": 512, "codebook": {"codes_used": 60, "num_codes": 64, "perplexity": 41.5},
          "masked_code_accuracy": {"heads": {"last": 0.125}},
          "linear_probe": {"pretrained": 0.75, "random": 0.5, "train_images": 1024},
          "verdict": {"sentences": ["The codebook is used.", "Features are of rank 40."]}}


@pytest.fixture()
def run(tmp_path):
    folder = tmp_path / "birds_run"
    folder.mkdir()
    (folder / "config.yml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    (folder / "environment.json").write_text(json.dumps({"device": "cpu", "python": "3.11.7"}), encoding="utf-8")
    return folder


def read(folder) -> tuple[dict, str]:
    text = (folder / CARD).read_text(encoding="utf-8")
    return head_of(text), text


def test_a_card_names_data_training_and_limits_and_no_licence_that_nobody_gave(run):
    assert write_run_card(run) == run / CARD
    head, text = read(run)
    assert head["license"] == "unknown" and head["library_name"] == "beitv2-core"
    assert head["pipeline_tag"] == "image-feature-extraction" and "beit-v2" in head["tags"]
    assert "model-index" not in head and "datasets" not in head and "Nothing was measured." in text
    for said in ("# birds_run", "`birds`: 4,321 images", "| at the end: loss | 2.25 |", "| device | cpu |", "lr: 0.001",
                 "## Limits", "Of these weights: unknown"):
        assert said in text
    assert "/home/somebody" not in text


def test_what_a_report_measured_is_among_the_results(run):
    (run / "summary.json").write_text(json.dumps({**SUMMARY, "report": REPORT}), encoding="utf-8")
    write_run_card(run)
    text = read(run)[1]
    for row in ("| codes used | 60 of 64 | 512 test images |",
                "| masked-code accuracy, last | 12.5 % | 512 test images |",
                "| linear probe, top-1 | 75.0 % | 512 test images, fitted on 1024 |",
                "The codebook is used. Features are of rank 40."):
        assert row in text


def test_a_card_names_the_models_the_run_read_and_the_teacher_they_learnt_from(run, tmp_path):
    tokenizer = tmp_path / "codes_of_birds"
    (tokenizer / "checkpoints").mkdir(parents=True)
    (tokenizer / "config.yml").write_text(yaml.safe_dump({
        "kind": "tokenizer", "data": {"dataset": "folder", "root": "/images/nests"},
        "teacher": {"name": "efficientnet_lite0", "weights": None}}), encoding="utf-8")
    settings = {**CONFIG, "tokenizer": {"weights": str(tokenizer)}}
    (run / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    write_run_card(run)
    text = read(run)[1]
    assert "- Codes to predict, from the tokenizer: `codes_of_birds`, trained on images of `nests`." in text
    assert "`efficientnet_lite0`; its published weights were trained with ImageNet-1k and its class labels" in text
    assert "/images" not in text


@pytest.mark.parametrize("weights", ["/weights/codes.pth", "https://example.org/codes.pth"])
def test_of_a_lone_file_a_card_says_that_nothing_more_is_known(run, weights):
    (run / "config.yml").write_text(yaml.safe_dump({**CONFIG, "tokenizer": {"weights": weights}}), encoding="utf-8")
    write_run_card(run)
    text = read(run)[1]
    assert "from the tokenizer: `codes.pth`; this card knows nothing more of it." in text


def test_runs_that_name_each_other_end_the_story(run):
    settings = {**CONFIG, "tokenizer": {"weights": str(run)}}
    (run / "checkpoints").mkdir()
    (run / "config.yml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    write_run_card(run)
    assert read(run)[1].count("`birds_run`") == 2


def test_every_teacher_with_published_weights_says_what_it_learnt_from():
    assert set(LEARNT_FROM) == set(TEACHERS) - {"file"}


def test_what_the_owner_gives_stays_when_the_card_is_written_again(run):
    done = CliRunner().invoke(cli.app, ["card", str(run), "--license", "other", "--license-name", "House rules",
                                        "--dataset", "somebody/birds"])
    assert done.exit_code == 0, done.output
    write_run_card(run)
    head, text = read(run)
    assert (head["license"], head["license_name"], head["datasets"]) == ("other", "House rules", ["somebody/birds"])
    assert "Of these weights: House rules." in text


def test_another_licence_takes_the_name_and_the_address_of_the_one_before_away(run):
    other = ["--license", "other", "--license-name", "House rules", "--license-link", "https://example.org/rules"]
    for words in (other, ["--license", "mit"]):
        done = CliRunner().invoke(cli.app, ["card", str(run), *words])
        assert done.exit_code == 0, done.output
    head, text = read(run)
    assert head["license"] == "mit" and not {"license_name", "license_link"} & set(head)
    assert "Of these weights: mit." in text


@pytest.mark.parametrize(("words", "message"), [
    (["--license-link", "https://example.org"], "--license-link: belongs to --license other"),
    (["--license", "My Licence"], "expected a name of small letters"), (["--license", "other"], "belong together"),
    (["--license-name", "House rules"], "belong together")])
def test_a_licence_that_cannot_be_is_refused(run, words, message):
    done = CliRunner().invoke(cli.app, ["card", str(run), *words])
    assert done.exit_code == 2 and message in done.output
    assert not (run / CARD).exists()


def test_a_page_of_somebodys_own_stays(run):
    (run / CARD).write_text("# Mine\n", encoding="utf-8")
    assert write_run_card(run) is None and (run / CARD).read_text() == "# Mine\n"
    done = CliRunner().invoke(cli.app, ["card", str(run), "--license", "mit"])
    assert done.exit_code == 2 and "by hand" in done.output


BROKEN = {"a broken head": lambda page: page.write_text(f"---\nlicense: [mit\n---\n{MARK}\n", encoding="utf-8"),
          "a folder of that name": lambda page: page.mkdir(),
          "a report of another form": lambda page: (page.parent / "summary.json").write_text('{"report": {"a": 1}}')}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_card_that_cannot_be_written_costs_no_run_its_end(run, caplog, broken):
    from beitv2_core.assembly.training import card_of_images

    BROKEN[broken](run / CARD)
    summary = json.loads((run / "summary.json").read_text())
    card_of_images(7)(SimpleNamespace(path=run), summary)
    assert summary["images"] == 7
    [line] = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert f"{run / CARD}: the model card could not be written, all else was" in line and "beitv2 card RUN" in line


@pytest.mark.parametrize(("broken", "said"), [
    ("a broken head", "its head is no YAML"), ("a folder of that name", "the card could not be written")])
def test_the_command_says_why_a_card_cannot_be_written(run, broken, said):
    BROKEN[broken](run / CARD)
    done = CliRunner().invoke(cli.app, ["card", str(run)])
    assert done.exit_code == 2 and f"{run / CARD}: {said}" in done.output


@pytest.mark.parametrize("settings", [b"kind: two_stages\n", b"kind: \xff\n"])
def test_settings_that_are_not_whole_are_no_run(run, settings):
    (run / "config.yml").write_bytes(settings)
    done = CliRunner().invoke(cli.app, ["card", str(run)])
    assert done.exit_code == 2 and "no run folder" in done.output


def test_a_run_that_trains_no_model_has_no_card(run, tmp_path):
    (run / "config.yml").write_text("kind: linear_probe\n", encoding="utf-8")
    assert write_run_card(run) is None and facts_of_run("linear_probe") is None
    assert write_run_card(tmp_path) is None
    done = CliRunner().invoke(cli.app, ["card", str(tmp_path)])
    assert done.exit_code == 2 and "Give the folder of a training run" in done.output


def test_the_folder_of_both_stages_tells_of_the_backbone_and_the_verdict(run, tmp_path):
    whole = tmp_path / "both"
    (whole / "pretrain").mkdir(parents=True)
    (whole / "pretrain/environment.json").write_text('{"device": "gpu:0"}')
    (whole / "config.yml").write_text(yaml.safe_dump({"kind": "two_stages", "tokenizer": {}, "pretrain": CONFIG}))
    (whole / "summary.json").write_text(json.dumps({
        "stages": {"pretrain": SUMMARY}, "report": REPORT, "seconds": {"total": 60.0},
        "verdict": {"state": "healthy", "sentences": ["All is well."]}}))
    write_run_card(whole)
    text = read(whole)[1]
    for said in ("# both", "All is well.", "| device | gpu:0 |", "4,321 images", "| updates | 20 |"):
        assert said in text
    assert "'total'" not in text
    (tmp_path / "tokens").mkdir()  # the stage's own settings name the tokenizer that was trained; those of both cannot
    (tmp_path / "tokens/config.yml").write_text(yaml.safe_dump({
        "kind": "tokenizer", "teacher": {"name": "efficientnet_lite0"}, "data": {"dataset": "folder", "root": "a/b"}}))
    (whole / "pretrain/config.yml").write_text(yaml.safe_dump({
        **CONFIG, "tokenizer": {"weights": str(tmp_path / "tokens")}}))
    write_run_card(whole)
    text = read(whole)[1]
    assert "from the tokenizer: `tokens`" in text and "Teacher of the tokenizer: `efficientnet_lite0`" in text
    assert "its class labels: this is not self-supervised" in text


def test_a_broken_head_is_an_error_and_a_list_of_tar_files_loses_its_folders(run):
    with pytest.raises(ConfigError, match="its head is no YAML"):
        head_of(f"---\na: [1\n---\n{MARK}\n")
    assert without_folders({"root": ["/a/b/x.tar", "y.tar"]}) == {"root": ["x.tar", "y.tar"]}


def test_a_saved_model_has_the_card_of_its_run_and_hands_it_on(digit_run, tmp_path):
    import beitv2_core as beitv2

    write_run_card(digit_run, given={"license": "mit"})
    beitv2.load(digit_run).save_pretrained(tmp_path / "saved")
    head, text = read(tmp_path / "saved")
    assert head["license"] == "mit" and "# saved" in text and "drawn by the code: 64 images" in text
    beitv2.load(tmp_path / "saved").save_pretrained(tmp_path / "again")
    assert read(tmp_path / "again") == (head, text)
    (tmp_path / "cardless" / CARD).mkdir(parents=True)
    beitv2.load(tmp_path / "saved").save_pretrained(tmp_path / "cardless")
    assert (tmp_path / "cardless/model.safetensors").is_file()
    steps = sorted((digit_run / "checkpoints").iterdir())
    beitv2.load(steps[0]).save_pretrained(tmp_path / "earlier")  # the end of the run says nothing of it
    assert len(steps) == 2 and "at the end: loss" in text and "at the end" not in read(tmp_path / "earlier")[1]


@pytest.fixture(scope="module")
def digit_run(tmp_path_factory):
    """A tokenizer that was trained for two steps."""
    import beitv2_core as beitv2

    folder = tmp_path_factory.mktemp("runs") / "tokens"
    beitv2.pretrain(CONFIGS / "tokenizer/digit_scenes.yml", folder, progress=False, set={
        "data.size": 64, "train.batch_size": 8, "optim.steps": 2, "optim.warmup_steps": 1, "train.save_every": 1,
        "encoder.width": 24, "decoder.width": 24, "quantizer.num_codes": 16, "encoder.depth": 1,
        "health.unquantized_steps": 0, "health.kmeans_batches": 1})
    return folder


def test_a_run_writes_its_card_and_counts_its_images(digit_run):
    head, text = read(digit_run)
    assert head["tags"][-1] == "image-tokenizer" and "64 images" in text
    assert json.loads((digit_run / "summary.json").read_text())["images"] == 64
