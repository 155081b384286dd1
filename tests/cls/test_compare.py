# SPDX-License-Identifier: Apache-2.0
"""`beitv2 compare` on a folder: what it trains on and is measured on, which labels are few, what it says meanwhile."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from cls_runs import CONFIG, paint, run

from beitv2_cls import compare
from beitv2_cls.compare import draw_few, find_sets, fine_tune_all, frozen_features, rows_of
from beitv2_cls.data import even_shares
from beitv2_core.errors import BEiTError


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for part, count in (("train", 8), ("val", 4)):
        paint(folder / part, count, name=f"{{}} {part}.png")
    return folder


def settings_of(images: Path, *more: str) -> list[str]:
    return ["data.dataset=folder", f"data.root={images}/train", "data.size=null", "data.image_size=32",
            f"validation.root={images}/val", "model.width=24", "model.depth=2", "model.num_heads=2",
            "train.batch_size=6", "train.log_every=2", "optim.steps=4", "optim.warmup_steps=1", *more]


@pytest.fixture(scope="module")
def pretrained(images, tmp_path_factory) -> Path:
    """Another fine-tuned run stands for a pretraining."""
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    run("finetune", CONFIG, "--set", *settings_of(images), "pretrained.weights=null", f"output={folder}")
    return folder


def sets_of(images, pretrained, folder, *more, few_labels=6):
    return find_sets(CONFIG, settings_of(images, *more), str(pretrained), folder, few_labels=few_labels, few_steps=2)


def test_what_is_measured_is_never_trained_on(images, pretrained, tmp_path):
    sets = sets_of(images, pretrained, tmp_path)
    assert (len(sets.train), len(sets.test)) == (24, 12)
    for changed, said in (("validation.root=null", "validation.root"), (f"validation.root={images}/train", "24 of 24"),
                          (f"validation.root={images}/val/../train", "24 of 24")):
        with pytest.raises(BEiTError, match=said):
            sets_of(images, pretrained, tmp_path, changed)


@pytest.mark.parametrize("count", [2, 24, 400])
def test_few_labels_that_the_data_cannot_give_are_refused(images, pretrained, tmp_path, count):
    with pytest.raises(BEiTError, match=f"--few-labels {count}.*24 images.*3 .one of each class. to 23"):
        sets_of(images, pretrained, tmp_path, few_labels=count)


@pytest.mark.parametrize("changed, said", [
    ((), "--few-labels 5, .*train.batch_size: 6 images .* has 5"),
    (("train.batch_size=3", "train.total_batch=6"), "--few-labels 5, .*train.total_batch: 6 images .* has 5"),
    (("train.batch_size=5", "optim.warmup_steps=3"), "--few-labels 5, --few-steps 2: .*warm-up of 3 steps"),
])
def test_few_labels_that_cannot_be_trained_are_refused_before_anything_is(images, pretrained, tmp_path, changed, said):
    with pytest.raises(BEiTError, match=said):
        sets_of(images, pretrained, tmp_path, *changed, few_labels=5)


def test_few_labels_are_even_over_the_classes_and_the_seed_draws_them():
    labels = np.repeat([0, 1, 2, 3], [50, 50, 3, 50])
    drawn = [draw_few(labels, 4, 42, seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 42 and np.bincount(labels[drawn[0]]).tolist() == [13, 13, 3, 13]
    assert even_shares(np.array([9, 9, 9]), 10).tolist() == [4, 3, 3]
    assert even_shares(np.array([1, 9, 2]), 100).tolist() == [1, 9, 2]


@pytest.mark.slow
def test_a_comparison_on_a_folder_uses_few_labels_and_tells_how_far_it_is(images, pretrained, tmp_path, caplog):
    sets = sets_of(images, pretrained, tmp_path)
    for name in ("beitv2_core", "beitv2_cls"):
        logging.getLogger(name).propagate = True
        caplog.set_level(logging.INFO, logger=name)
    table = fine_tune_all(sets, CONFIG, str(pretrained), tmp_path, seeds=1, few_labels=6, few_steps=2,
                          settings=settings_of(images))
    assert set(table) == {"all", "6"} and all(len(values) == 1 for row in table.values() for values in row.values())
    for said in ("compare: 4 runs", "compare: 4 of 4 runs finished", "pretrained_all_seed0: top-1"):
        assert said in caplog.text
    lines = (tmp_path / "few_labels_6_seed0.txt").read_text().splitlines()
    assert sorted(line.split("\t")[1] for line in lines) == ["cat", "cat", "dog", "dog", "fox", "fox"]
    for start in ("pretrained", "scratch"):
        log = (tmp_path / f"{start}_6_seed0/config.yml").read_text()
        assert "few_labels_6_seed0.txt" in log
        assert json.loads((tmp_path / f"{start}_6_seed0/classes.json").read_text()) == ["cat", "dog", "fox"]
    again = []
    before, compare.run_trial = compare.run_trial, lambda arguments, output: again.append(output)
    try:
        assert fine_tune_all(sets, CONFIG, str(pretrained), tmp_path, seeds=1, few_labels=6, few_steps=2,
                             settings=settings_of(images)) == table
        assert again == []
        fine_tune_all(sets, CONFIG, str(pretrained), tmp_path, seeds=1, few_labels=0, few_steps=2,
                      settings=settings_of(images, "optim.lr=1.0e-4"))
    finally:
        compare.run_trial = before
    assert len(again) == 2, "finished runs of other settings were taken for these"


@pytest.mark.slow
def test_a_finished_run_brought_from_another_comparison_is_not_trained_again(images, pretrained, tmp_path, monkeypatch):
    def top1(folder):
        return fine_tune_all(sets_of(images, pretrained, folder), CONFIG, str(pretrained), folder, seeds=1,
                             few_labels=0, few_steps=2, settings=settings_of(images))["all"]

    wanted, trained = top1(tmp_path / "one"), []
    shutil.copytree(tmp_path / "one" / "scratch_all_seed0", tmp_path / "other" / "scratch_all_seed0")
    run_trial = compare.run_trial
    monkeypatch.setattr(compare, "run_trial",
                        lambda arguments, output: (trained.append(output.name), run_trial(arguments, output)))
    assert top1(tmp_path / "other") == wanted
    assert trained == ["pretrained_all_seed0"]


def test_frozen_features_are_of_the_settings_own_sets(images, pretrained, tmp_path, monkeypatch):
    sets = sets_of(images, pretrained, tmp_path)
    seen = []
    measure = compare.eval_batches
    monkeypatch.setattr(compare, "eval_batches",
                        lambda part, *args, **more: (seen.append(part), measure(part, *args, **more))[1])
    found = frozen_features(sets, str(pretrained), train_images=6, test_images=9)
    assert [len(part) for part in seen] == [6, 9, 6, 9]
    assert all(len(set(part.labels.tolist())) == 3 for part in seen), "the first files are one class"
    assert found["pretrained"]["linear probe"] == 1.0 and set(found["random"]) == set(found["pretrained"])


def test_knn_and_linear_probe_refuse_to_measure_on_what_they_learnt_from(images, pretrained, tmp_path):
    shown = run("knn", pretrained, "--data", images / "train", "--test", images / "train", code=2)
    assert "24 of 24" in shown and "--test" in shown
    probe = CONFIG.with_name("linear_probe_digit_scenes.yml")
    settings = [*settings_of(images), "pretrained.weights=null", f"output={tmp_path}/probe"]
    shown = run("linear-probe", probe, "--set", *settings, f"validation.root={images}/train", code=2)
    assert "24 of 24" in shown and "validation.root" in shown
    (tmp_path / "list.txt").write_text("cat/0 val.png\tcat\ndog/0 val.png\tdog\n")
    shown = run("knn", pretrained, "--data", images / "val", "--test", images / "val", "--test-list-file",
                tmp_path / "list.txt", code=2)
    assert "2 of 2" in shown


def test_knn_shows_random_weights_beside_and_names_its_own_options(images, pretrained):
    shown = run("knn", pretrained, "--data", images / "train", "--test", images / "val", "-k", "1", "--random")
    row = next(line for line in shown.splitlines() if line.startswith("k = 1"))
    assert row.count("%") == 2 and "random weights" in row
    assert "--test" in run("knn", pretrained, "--data", images / "train", "--test", images / "nowhere", code=2)
    assert "--data" in run("knn", pretrained, "--data", images / "nowhere", "--test", images / "val", code=2)


def test_knn_numbers_fewer_classes_by_those_that_vote(images, pretrained, tmp_path):
    (tmp_path / "two.txt").write_text("fox/0 val.png\tfox\ndog/1 val.png\tdog\n")
    shown = run("knn", pretrained, "--data", images / "train", "--test", images / "val", "--test-list-file",
                tmp_path / "two.txt", "-k", "3")
    assert "24 images vote on 2" in shown and "100.00 %" in shown


@pytest.mark.parametrize("values, shown", [([0.5], "50.0 %"), ([0.5, 0.7], "60.0 +- 10.0 %")])
def test_a_spread_is_shown_of_several_seeds_only(values, shown):
    rows = rows_of({"all": {"pretrained": values, "scratch": [value - 0.1 for value in values]}},
                   {"pretrained": {}, "random": {}})
    assert rows[0][1] == shown and rows[0][3] == "+10.0"
