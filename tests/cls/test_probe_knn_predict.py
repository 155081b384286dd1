# SPDX-License-Identifier: Apache-2.0
"""Linear evaluation, nearest neighbours and prediction, as commands on small runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import paddle
import pytest
from cls_runs import run

from beitv2_cls.accuracy import draw_confusion
from beitv2_cls.assembly import build_linear_probe, load_backbone
from beitv2_cls.config import LinearProbeConfig
from beitv2_cls.data import neighbour_sets
from beitv2_cls.linear_probe import LinearProbes
from beitv2_core.config import load_config
from beitv2_core.data import DigitScenes
from beitv2_core.errors import BEiTError, ConfigError
from beitv2_core.models.backbone import BEiTBackbone

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PROBE = CONFIGS / "cls/linear_probe_digit_scenes.yml"
TINY = ["model.width=24", "data.size=96", "train.batch_size=16", "train.log_every=5", "validation.size=40",
        "optim.steps=10", "optim.warmup_steps=2", "pretrained.weights=null"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    run("finetune", CONFIGS / "cls/digit_scenes.yml", "--set", *TINY, f"output={folder}")
    return folder


def trunk():
    paddle.seed(0)
    return BEiTBackbone(image_size=16, patch_size=8, width=12, depth=2, num_heads=2, use_shared_rel_pos_bias=True)


def test_every_classifier_learns_as_if_it_were_alone():
    """Losses are summed and rates are per classifier, so neighbours change nothing."""
    from beitv2_cls.linear_probe import LinearProbeTask
    from beitv2_core.data.views.classify_recipe import TrainBatch
    from beitv2_core.engine.optim import build_optimizer

    rng = np.random.default_rng(0)
    batches = [TrainBatch(rng.standard_normal((4, 3, 16, 16), dtype=np.float32), rng.integers(0, 3, 4), [])
               for _ in range(3)]

    def trained(layers, features, rates):
        probes = LinearProbes(trunk(), num_classes=3, layers=layers, features=features, rates=rates)
        for linear in probes.linear:
            linear.weight.set_value(paddle.ones_like(linear.weight) * 0.01)
        optimizer = build_optimizer("adamw", probes, lr=1e-2, weight_decay=1e-4, lr_scale=probes.rate_scale(1e-2))
        task = LinearProbeTask(probes)
        for step, batch in enumerate(batches):
            task.loss(batch, step=step)[0].backward()
            optimizer.step()
            optimizer.clear_grad()
        return {probe: linear.weight.numpy() for probe, linear in zip(probes.probes, probes.linear)}

    together = trained((0, 1), ("cls", "mean", "concat"), (1e-3, 1e-2))
    assert len(together) == 12
    for probe, weight in together.items():
        alone = trained((probe.layer,), (probe.feature,), (probe.lr,))[probe]
        np.testing.assert_allclose(weight, alone, rtol=1e-5, atol=1e-8, err_msg=str(probe))


def test_the_loss_that_is_logged_is_the_mean_of_those_that_are_summed():
    from beitv2_cls.linear_probe import LinearProbeTask
    from beitv2_core.data.views.classify_recipe import TrainBatch

    rng = np.random.default_rng(0)
    probes = LinearProbes(trunk(), num_classes=3, layers=(0, 1), features=("cls", "mean"))
    batch = TrainBatch(rng.standard_normal((4, 3, 16, 16), dtype=np.float32), rng.integers(0, 3, 4), [])
    loss, shown = LinearProbeTask(probes).loss(batch, step=0)
    assert float(shown["loss"]) == pytest.approx(float(loss) / 4, rel=1e-6)
    assert 0.9 < float(shown["loss"]) < 1.3, "near log 3 before any step"


def test_a_block_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match=r"probe.layers: \[0, 2\]; the trunk has blocks 0 .. 1"):
        LinearProbes(trunk(), num_classes=3, layers=(0, 2))


@pytest.mark.slow
def test_linear_probe_reports_every_classifier_and_resumes_exactly(tmp_path):
    output = run("linear-probe", PROBE, "--set", *TINY, f"output={tmp_path}/whole")
    rows = list(csv.DictReader(open(tmp_path / "whole/linear_probe.csv", encoding="utf-8")))
    assert len(rows) == 3 * 3 * 3
    best = max(float(row["top1"]) for row in rows)
    assert f"best: top-1 {100 * best:.2f} %" in output
    shown = [float(row["top1"]) for row in rows]
    assert shown == sorted(shown, reverse=True), "the best first"
    assert (tmp_path / "whole/figures/linear_probe.png").read_bytes()[:4] == b"\x89PNG"
    settings = load_config(PROBE, [*TINY, f"output={tmp_path}/parts"], LinearProbeConfig)
    build_linear_probe(settings).run(stop_after=4)
    loop = build_linear_probe(settings)
    loop.run(resume="auto")
    whole = build_linear_probe(settings.model_copy(update={"output": f"{tmp_path}/again"}))
    whole.run()
    for name, value in whole.task.model.state_dict().items():
        np.testing.assert_array_equal(loop.task.model.state_dict()[name].numpy(), value.numpy(), err_msg=name)


def test_linear_probe_without_validation_images_is_refused(tmp_path):
    for index in range(4):
        (tmp_path / f"train/class_{index % 2}").mkdir(parents=True, exist_ok=True)
        DigitScenes("train", size=4, image_size=32).load(index).image.save(
            tmp_path / f"train/class_{index % 2}/{index}.png")
    settings = [*TINY, "data.dataset=folder", f"data.root={tmp_path}/train", "data.size=null", "train.batch_size=2",
                f"output={tmp_path}/none"]
    with pytest.raises(BEiTError, match="validation.root.*needs validation images"):
        build_linear_probe(load_config(PROBE, settings, LinearProbeConfig))


def test_knn_of_a_classifiers_trunk(classifier):
    output = run("knn", classifier, "--data", "digit_scenes", "--train-size", "60", "--test-size", "20", "-k", "1",
                 "-k", "5")
    assert "60 images vote on 20, mean feature of 24 channels" in output
    assert "k = 1 " in output and "k = 5 " in output
    assert "different channels" not in run("knn", classifier, "--data", "digit_scenes", "--feature", "concat",
                                           "--train-size", "30", "--test-size", "10", "-k", "3")
    run("knn", classifier, "--data", "somewhere", code=2)


def test_knn_with_other_classes_in_the_test_folder_names_them(classifier, tmp_path):
    image = DigitScenes("train", size=1, image_size=32).load(0).image
    for place in ("a/cat", "a/dog", "b/cat", "b/fox"):
        (tmp_path / place).mkdir(parents=True)
        image.save(tmp_path / place / "x.png")
    output = run("knn", classifier, "--data", tmp_path / "a", "--test", tmp_path / "b", code=2)
    assert "'fox' is none of the 2 classes known (cat, dog; --test)" in " ".join(output.split())


def test_predict_gives_probabilities_in_order(classifier, tmp_path):
    scenes = DigitScenes("test", size=3, image_size=40)
    for index in range(3):
        scenes.load(index).image.save(tmp_path / f"{index}.png")
    lines = run("predict", classifier, tmp_path, "--json", "--top", "10").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    assert [Path(one["path"]).name for one in found] == ["0.png", "1.png", "2.png"]
    for one in found:
        shares = [entry["probability"] for entry in one["classes"]]
        assert shares == sorted(shares, reverse=True)
        assert abs(sum(shares) - 1) < 1e-4
    table = run("predict", classifier, tmp_path / "0.png")
    assert table.count(" %  ") == 5
    (tmp_path / "broken.png").write_bytes(b"not an image")
    assert "broken.png" in run("predict", classifier, tmp_path / "broken.png", code=2)


def test_drawn_test_images_are_those_of_the_run(tmp_path):
    """Two digits on larger images: `--data digit_scenes` is the test set that `evaluate` takes by itself."""
    run("finetune", CONFIGS / "cls/digit_scenes.yml", "--set", *TINY, f"output={tmp_path}/run", "optim.steps=6",
        "data.scene_digits=[2,3]", "data.scene_size=48", "data.scene_seed=3")
    for name, data in (("own", []), ("named", ["--data", "digit_scenes"])):
        run("evaluate", tmp_path / "run", "-o", tmp_path / name, *data)
    assert (tmp_path / "own/evaluation.json").read_text() == (tmp_path / "named/evaluation.json").read_text()
    known, asked = neighbour_sets(load_backbone(str(tmp_path / "run")).config, "digit_scenes", None, None, None,
                                  image_size=(32, 32), sizes=(5, 3))
    assert (len(known), len(asked)) == (5, 3) and known.load(0).image.size == (48, 48)
    assert neighbour_sets(None, "digit_scenes", None, None, None, image_size=(32, 16),
                          sizes=(1, 1))[0].load(0).image.size == (32, 32)


def test_evaluate_draws_the_confusions(classifier, tmp_path):
    run("evaluate", classifier, "-o", tmp_path)
    assert (tmp_path / "figures/confusion.png").read_bytes()[:4] == b"\x89PNG"


def test_many_classes_show_the_least_accurate(tmp_path):
    confusion = np.diag(np.arange(60))
    confusion[7] = 1
    draw_confusion(tmp_path / "x.png", confusion, [str(i) for i in range(60)], most=10)
    assert (tmp_path / "x.png").stat().st_size > 0


def test_a_run_without_a_backbone_is_named(tmp_path):
    with pytest.raises(BEiTError, match="nowhere"):
        load_backbone(str(tmp_path / "nowhere"))
