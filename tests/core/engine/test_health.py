# SPDX-License-Identifier: Apache-2.0
"""What a run's lines of metrics say: every collapse has its name and its advice, a healthy run has none."""

from __future__ import annotations

import json
import math

import pytest
import yaml

from beitv2_core.engine.health import HealthWatch, findings, information, read_rows
from beitv2_core.engine.trackers import TrackedRun
from beitv2_core.errors import DataError
from beitv2_core.evaluation.verdict import Verdict, on_test_images, verdict

DATA = {"image_size": 32}
TRAIN = {"batch_size": 64, "total_batch": None}
OPTIM = {"lr": 1e-3, "steps": 300, "warmup_steps": 30, "warmup_epochs": None}
TOKENIZER = {"kind": "tokenizer", "data": DATA, "train": TRAIN, "optim": OPTIM, "encoder": {"patch_size": 8},
             "quantizer": {"num_codes": 64, "kmeans_init": True}, "health": {"unquantized_steps": 0,
                                                                             "revive_after": None}}
PRETRAIN = {"kind": "pretrain", "data": DATA, "train": TRAIN, "optim": {**OPTIM, "steps": 600},
            "mask": {"num_masked": 6}, "model": {"patch_size": 8, "width": 96, "num_heads": 3},
            "tokenizer": {"weights": "nowhere"}}


def tokens(*usage, rec=0.25, perplexity=None):
    return [{"step": 20 * (i + 1), "loss": 0.4, "rec_loss": rec, "usage": used,
             "perplexity": 50 * used if perplexity is None else perplexity} for i, used in enumerate(usage)]


def pretraining(*losses, rank=8.0, acc=0.06, **values):
    return [{"step": 20 * (i + 1), "loss_mim": loss, "acc_mim": acc, "perplexity_targets": 56.0, "acc_commonest": 0.035,
             "rankme": rank, "alpha_req": 3.0, "lr": 1e-3, **values} for i, loss in enumerate(losses)]


def states(config, rows, tokenizer=()):
    return [found.state for found in findings(config, rows, tokenizer)]


def test_healthy_runs_have_no_finding():
    assert states(TOKENIZER, tokens(0.9, 1.0, 1.0, 0.98)) == []
    assert states(PRETRAIN, pretraining(4.2, 4.04, 3.95, 3.9, 3.8, 3.7)) == []
    assert states({"kind": "finetune"}, tokens(0.0)) == states({"seed": 1}, []) == []


def test_a_collapsed_codebook_is_dated_by_the_stretch_that_the_run_ends_with():
    (found,) = findings(TOKENIZER, tokens(0.1, 0.9, 0.1, 0.05, 3 / 64))
    assert (found.state, found.step) == ("codebook collapsed", 60)
    assert "3 of 64 codes used" in found.what and "health.revive_after=20" in found.advice
    assert states(TOKENIZER, tokens(0.1, 0.1, 0.9)) == [], "it recovered"
    assert states(TOKENIZER, tokens(0.9, 0.9, perplexity=2.0)) == ["codebook collapsed"], "one code takes nearly all"


def test_advice_against_collapse_names_what_is_not_done_yet():
    plain = {**TOKENIZER, "quantizer": {"num_codes": 64, "kmeans_init": False}}
    assert "quantizer.kmeans_init=true" in findings(plain, tokens(0.1, 0.1))[0].advice
    careful = {**TOKENIZER, "health": {"unquantized_steps": 5, "revive_after": 20}}
    assert "fewer codes" in findings(careful, tokens(0.1, 0.1))[0].advice


def test_unused_codes_mean_nothing_before_enough_were_counted():
    many = {**TOKENIZER, "quantizer": {"num_codes": 8192, "kmeans_init": True}}
    assert states(many, tokens(0.1)) == []


def test_a_loss_that_rises_is_named_with_its_lowest_value():
    rows = [{**row, "loss": loss} for row, loss in zip(tokens(*[1.0] * 8), [1, 0.5, 0.3, 0.3, 0.3, 0.9, 0.9, 0.9])]
    assert states(TOKENIZER, rows) == ["loss rises"]


def test_images_that_are_alike_are_told_from_codes_that_are():
    assert states(TOKENIZER, tokens(0.1, 0.1, rec=0.001)) == ["images look alike"]
    easy = pretraining(4.0, 0.1, 0.05, 0.01, acc=0.99)
    assert states(PRETRAIN, easy) == ["codes say nothing"]
    assert states(PRETRAIN, easy, tokens(0.2, rec=0.001)) == ["images look alike"]
    assert states(PRETRAIN, pretraining(4.0, 0.1, 0.05, acc=0.99, rank=1.0)) == ["images look alike"]


def test_masks_of_everything_are_named_without_a_step():
    hidden = {**PRETRAIN, "mask": {"num_masked": 15}}
    (found,) = findings(hidden, [])
    assert found.state == "masks hide nearly everything" and "mask.num_masked=6" in found.advice


def test_a_rate_too_high_is_told_from_one_too_low_and_from_warming_up():
    assert states(PRETRAIN, pretraining(4.2, 4.3, 4.2, 4.1, 4.11, 4.2, 4.13)) == ["learning rate too high"]
    assert states(PRETRAIN, pretraining(4.2, 4.15, 4.12, 4.09, 4.07, 4.05)) == ["learns too slowly"]
    assert states(PRETRAIN, pretraining(4.2, 4.15)) == [], "still warming up"
    without = [{name: row[name] for name in ("step", "loss_mim", "acc_mim")} for row in
               pretraining(4.2, 4.3, 4.2, 4.1, 4.11, 4.2, 4.13)]
    assert states(PRETRAIN, without) == []
    assert states(PRETRAIN, without, tokens(1.0, perplexity=56.0)) == ["learning rate too high"]


def test_features_of_one_direction_are_a_collapse():
    assert states(PRETRAIN, pretraining(4.0, 3.9, 3.8, 3.8, 3.7, rank=1.4)) == ["features collapsed"]


def test_every_finding_is_warned_of_once_also_by_a_run_that_is_continued(tmp_path, caplog):
    rows = tokens(0.1, 0.1, 0.1, 0.1)
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:1]))
    watch = HealthWatch(TrackedRun(tmp_path, 20, TOKENIZER))
    for row in rows[1:]:
        watch.log(row["step"], {name: value for name, value in row.items() if name != "step"})
    assert [one.levelname for one in caplog.records] == ["WARNING"] and "codebook collapsed" in caplog.text


@pytest.fixture
def run(tmp_path):
    def made(name, config, rows):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yml").write_text(yaml.safe_dump(config))
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 9, "lo')
        return folder
    return made


def test_the_verdict_of_both_stages_names_the_first_that_is_wrong(run, tmp_path):
    run("tokenizer", TOKENIZER, tokens(0.1, 0.1, 0.1))
    second = run("pretrain", PRETRAIN, pretraining(*[3.9] * 20))
    found = verdict(tmp_path)
    assert found.state == "codebook collapsed" and len(found.sentences) == 2
    assert found.text().startswith("verdict: codebook collapsed\n  tokenizer: codebook collapsed at step 20: ")
    healthy = verdict(second)
    assert healthy.state == "healthy" and "RankMe 8.0 of 96" in healthy.sentences[0]
    assert "1.7 x the commonest code" in healthy.sentences[0]
    assert "0.13 of 4.03 nats of a hidden code known" in healthy.sentences[0]


@pytest.mark.parametrize(("images", "accuracy", "state", "advice"), [
    (5, 0.10, "too few test images to tell", "give at least 20"), (200, 0.06, "no better than guessing on test images",
                                                                    "learnt by heart"), (200, 0.3, "healthy", "")])
def test_training_images_alone_make_no_run_healthy(run, images, accuracy, state, advice):
    alone = verdict(run("pretrain", PRETRAIN, pretraining(*[3.9] * 20)))
    report = {"images": images, "masked_code_accuracy": {
        "heads": {"mim": accuracy, "cls": accuracy / 2}, "most_frequent_share": 0.2, "patches": 6 * images}}
    found = on_test_images(alone, report)
    assert found.state == state and "in training" in found.sentences[0]
    assert f"on {images} test images: {accuracy:.1%} of {6 * images:,} hidden codes" in found.sentences[-1]
    assert advice in found.sentences[-1]
    collapsed = Verdict("codebook collapsed", ["why"])
    assert on_test_images(collapsed, report).state == "codebook collapsed"


def test_information_is_the_entropy_of_the_codes_minus_the_loss():
    assert information({"loss_mim": 3.0, "perplexity_targets": math.exp(4)}) == pytest.approx(1.0)
    assert information({"loss_mim": 3.0}, tokens(1.0, perplexity=math.exp(3.5))) == pytest.approx(0.5)
    assert information({"loss_mim": 3.0}) is None and information({"rankme": 3.0}, tokens(1.0)) is None


def test_a_finished_run_too_short_to_tell_is_not_told_to_train_on(run):
    rows = pretraining(4.1)
    steps = int(rows[-1]["step"])
    found = verdict(run("pretrain", {**PRETRAIN, "optim": {**PRETRAIN["optim"], "steps": steps}}, rows))
    assert found.state == "too early to tell" and f"step {steps} of {steps}. So short a run" in found.sentences[0]


def test_a_verdict_waits_for_a_tenth_of_the_run_and_knows_a_loss_that_was_not_finite(run, tmp_path):
    folder = run("pretrain", PRETRAIN, pretraining(4.1, 4.0))
    assert verdict(folder).state == "too early to tell" and "Train on" in verdict(folder).sentences[0]
    (folder / "failing_batch_step_33_rank_0.npz").write_bytes(b"")
    assert verdict(folder).state == "loss is not finite" and "step 33" in verdict(folder).sentences[0]
    with pytest.raises(DataError, match="no settings of a run"):
        verdict(tmp_path / "none")
    with pytest.raises(DataError, match="not of a tokenizer"):
        verdict(run("other", {"kind": "finetune"}, []))
    assert read_rows(tmp_path / "none.jsonl") == []
