# SPDX-License-Identifier: Apache-2.0
"""Training through the command line: exact resume, evaluations, what is kept, and what is refused by name."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from e2e_runs import assert_same_end, final
from PIL import Image
from seg_runs import ADE, segment, train, write_ade20k

from beitv2_core.assembly.restore import read_checkpoint
from beitv2_core.errors import ConfigError
from beitv2_seg.assembly import build_segmentation, load_segmentor, plan_accumulation
from beitv2_seg.config import find_config, read_config_file
from beitv2_seg.paddleseg.training_parts import learning_rates
from beitv2_seg.reading.evaluate import Evaluation
from beitv2_seg.reading.metrics import Scores


def test_a_run_stopped_and_resumed_ends_as_the_uninterrupted_one_to_the_bit(tmp_path):
    opts = ["model.backbone.drop_path=0.3", "total_batch=8", DRAWING]
    flags = {"iters": 6, "output": str(tmp_path / "parts"), "run.save_interval": 2, "run.use_ema": True,
             "run.do_eval": True}
    train(tmp_path / "whole", "--use_ema", "--do_eval", opts=opts)
    from seg_runs import DIGITS

    settings = read_config_file("digit_scenes", opts=[*DIGITS, *opts], flags=flags)
    build_segmentation(settings).run(resume=None, stop_after=3)
    paddle.rand([7])  # resuming must not depend on what was drawn in between
    build_segmentation(settings).run(resume="auto")
    assert_same_end(tmp_path / "whole", tmp_path / "parts")


#: transforms that draw from the global generators, as PaddleSeg's do
DRAWING = ("train_dataset.transforms=[{type: BEiTv2RandomFlip}, {type: BEiTv2PhotoMetricDistortion}, {type: "
           "BEiTv2Normalize}]")


def test_samples_do_not_depend_on_the_number_of_workers(tmp_path):
    for workers in (0, 2):
        train(tmp_path / str(workers), "--num_workers", workers, opts=[DRAWING])
    assert_same_end(tmp_path / "0", tmp_path / "2")


def test_evaluations_keep_the_best_weights_as_paddleseg_reads_them(tmp_path):
    output = train(tmp_path, "--do_eval", "--use_ema")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    values = [line["miou"] for line in lines if "miou" in line]
    assert len(values) == 3 and "best_miou" in output and "ema_best_miou" in output
    summary = json.loads((tmp_path / "summary.json").read_text())["final"]
    assert summary["best_miou"] == max(values)
    best = read_checkpoint(str(tmp_path / "best_model" / "model.pdparams"))
    assert set(best.weights) == set(final(tmp_path).weights)
    last = read_checkpoint(str(tmp_path / "iter_6" / "model.pdparams")).weights
    np.testing.assert_array_equal(last["decode_head.conv_seg.weight"],
                                  final(tmp_path).weights["decode_head.conv_seg.weight"])
    assert (tmp_path / "ema_best_model" / "ema_model.pdparams").is_file()
    assert (tmp_path / "figures" / "curves.png").is_file()


def test_early_stopping_ends_the_run_after_a_checkpoint(tmp_path, monkeypatch):
    same = Evaluation(Scores(np.ones(11), np.ones(11), 0.5, 0.5, 0.5), np.eye(11, dtype=np.int64), 5)
    monkeypatch.setattr("beitv2_seg.assembly.training.evaluate", lambda *arguments, **options: same)
    train(tmp_path, "--do_eval", "--early_stop_intervals", 1)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["total_steps"]) == (4, 6)
    assert final(tmp_path).step == 4


def test_a_folder_with_checkpoints_is_not_written_over(tmp_path):
    train(tmp_path)
    before = final(tmp_path).weights
    assert "already holds step_000006.pdckpt" in train(tmp_path, code=2)
    assert "no such checkpoint" in train(tmp_path / "new", "--resume_model", tmp_path / "nothing.pdckpt", code=2)
    for name, value in final(tmp_path).weights.items():
        np.testing.assert_array_equal(value, before[name])


def test_resuming_with_other_settings_is_refused_by_name(tmp_path):
    train(tmp_path, "--resume_model", "auto", opts=["optimizer.layer_decay=0.7"])
    output = train(tmp_path, "--resume_model", "auto", opts=["optimizer.layer_decay=0.5"], code=2)
    assert "optimizer.layer_decay: 0.7 -> 0.5" in output


def test_a_non_finite_loss_stops_the_run_and_keeps_checkpoint_and_batch(tmp_path):
    output = train(tmp_path, "--learning_rate", 1e38, code=1)
    assert "The last checkpoint is intact" in output
    assert list(tmp_path.glob("failing_batch_step_*.npz"))


@pytest.mark.parametrize(("opts", "message"), [
    (["model.backbone.drop_pth=0.1"], "model.backbone.drop_pth: unknown key. Did you mean 'drop_path'?"),
    (["modell.channels=3"], "modell: unknown key"),
    (["model.backbone.type=BEiTv3"], "model.backbone.type: 'BEiTv3' is no known component. Did you mean 'BEiTv2'?"),
    (["model.num_classes=7"], "model.num_classes: 7, but train_dataset (BEiTv2DigitScenes) has 11 classes"),
    (["model.backbone.image_size=60"], "60x60 pixels is not a whole number of 8x8 patches"),
    (["train_dataset.transforms=[{type: BEiTv2RandomCrop, crop_size: [48, 48]}]"],
     "train_dataset.transforms[0].crop_size: [48, 48] (height, width), but model.backbone.image_size is [64, 64]"),
    (["test_config.is_slide=true"], "test_config.crop_size: required"),
    (["loss.coef=[1.0]"], "loss.coef: 1 weights for 2 losses"),
    (["train_dataset.mode=val"], "train_dataset.mode: 'val'; PaddleSeg gives labels"),
    (["total_batch=6"], "total_batch: 6 is not a multiple of 4 images x 1 process(es)"),
    (["lr_scheduler.total_iters=9"], "lr_scheduler.total_iters: 9, but the run has iters: 6"),
    (["optimizer.layer_decay=0"], "layer_decay is 0"),
])
def test_impossible_settings_are_named_and_nothing_is_written(tmp_path, opts, message):
    assert message in train(tmp_path / "run", opts=opts, code=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("flags", "message"), [
    (["--amp_level", "O2"], "would not equal the uninterrupted one"),
    (["--data_format", "NHWC"], "no such layout"),
    (["--use_multilabel"], "one class a pixel"),
    (["--to_static_training"], "cannot turn this model's training forward into a static graph"),
    (["--early_stop_intervals", 2], "early stopping needs evaluations"),
])
def test_flags_that_cannot_hold_are_refused_by_name(tmp_path, flags, message):
    assert message in train(tmp_path / "run", *flags, code=2)


def test_the_optimizers_state_is_divided_by_yaml_option_or_flag_and_off_unless_asked(tmp_path):
    """YAML 1.1 reads a bare off as false."""
    given = tmp_path / "given.yml"
    given.write_text(f"_base_: {find_config('digit_scenes')}\nrun: {{sharding: stage1}}\n")
    assert read_config_file("digit_scenes").run.sharding == "off"
    assert read_config_file("digit_scenes", opts=["run.sharding=off"]).run.sharding == "off"
    assert read_config_file(str(given)).run.sharding == "stage1"
    with pytest.raises(ConfigError, match="run.sharding: 'stage3' came.*'off', 'stage1' or 'stage2'"):
        read_config_file("digit_scenes", opts=["run.sharding=stage3"])
    for name, given_by, wanted in (("flag", ["--sharding", "stage1"], "stage1"), ("neither", [], "off")):
        train(tmp_path / name, "--iters", 2, *given_by)
        assert final(tmp_path / name).config["run"]["sharding"] == wanted


def test_settings_of_the_run_hold_unless_a_flag_is_given(tmp_path):
    train(tmp_path, "--iters", 2, "--seed", 5,
          opts=["run.sharding=stage2", "run.use_ema=true", "run.seed=3"])
    run = final(tmp_path).config["run"]
    assert (run["sharding"], run["use_ema"], run["seed"]) == ("stage2", True, 5)


def test_mixed_precision_without_a_gpu_is_refused_with_its_key_and_a_dry_run_says_so(tmp_path):
    if paddle.is_compiled_with_cuda():
        pytest.skip("a GPU has mixed precision")
    assert "run.precision=fp32" in train(tmp_path / "run", "--precision", "fp16", code=2)
    shown = train(tmp_path / "run", "--precision", "fp16", "--dry-run")
    assert "run.precision=fp16: only a GPU computes float16." in shown
    assert not (tmp_path / "run").exists()


def test_a_bare_name_is_found_among_the_packaged_configs_and_a_wrong_one_lists_them():
    assert find_config("beitv2_upernet.yml") == find_config("beitv2_upernet")
    with pytest.raises(ConfigError, match=r"Did you mean beitv2_upernet.yml\?"):
        find_config("beitv2_upernett.yml")


def test_the_recipe_sees_16_images_an_update_on_any_number_of_processes_until_a_flag_says_otherwise():
    recipe = read_config_file("beitv2_upernet")
    assert [plan_accumulation(recipe, processes) for processes in (1, 2, 4, 8)] == [8, 4, 2, 1]
    assert plan_accumulation(read_config_file("beitv2_upernet", flags={"batch_size": 1}), 1) == 1


def test_iters_sets_the_length_of_the_schedule_as_flag_and_as_option():
    for settings in (read_config_file("beitv2_upernet", flags={"iters": 3}),
                     read_config_file("beitv2_upernet", opts=["iters=3"])):
        rates = learning_rates(settings.lr_scheduler, settings.iters)
        assert len(rates) == 3 and rates[0] == pytest.approx(5e-5 * 1e-6)


# -- ADE20K, read by PaddleSeg's own data set ------------------------------------------------------------------------

def train_ade(root, folder, *more, opts=(), code=0):
    pytest.importorskip("paddleseg", reason="ADE20K's reader is PaddleSeg's")
    roots = [f"{part}.dataset_root={root}" for part in ("train_dataset", "val_dataset")]
    crop = ["model.backbone.image_size=64", "train_dataset.transforms=[{type: BEiTv2RatioRangeResize, scale: [256, "
            "64]}, {type: BEiTv2RandomCrop, crop_size: [64, 64]}, {type: BEiTv2PhotoMetricDistortion}, {type: "
            "BEiTv2Normalize}, {type: BEiTv2Pad, size: [64, 64]}]", "val_dataset.transforms=[{type: BEiTv2Resize, "
            "scale: [256, 64]}, {type: BEiTv2Normalize}]", "test_config.crop_size=[64, 64]",
            "test_config.stride=[43, 43]"]
    return segment("train", "--config", "beitv2_upernet.yml", "--device", "cpu", "--save_dir", folder, "--iters", 3,
                   "--batch_size", 2, "--log_iters", 1, *more, "--opts", *ADE, *crop, *roots, *opts, code=code)


@pytest.fixture
def ade20k(tmp_path):
    for part in ("training", "validation"):
        write_ade20k(tmp_path / "ade", part=part)
    return tmp_path / "ade"


def test_the_recipe_trains_evaluates_and_predicts_on_ade20k(ade20k, tmp_path):
    train_ade(ade20k, tmp_path / "run", "--do_eval")
    output = segment("evaluate", "--model_path", tmp_path / "run", "--windows", 2)
    assert "mIoU" in output and "classes absent from labels and predictions are left out" in output
    table = (tmp_path / "run" / "per_class_iou.csv").read_text().splitlines()
    assert len(table) == 151 and table[1].startswith("0,wall,")
    output = segment("predict", "--model_path", tmp_path / "run", "--image_path", ade20k / "images",
                     "--save_dir", tmp_path / "found")
    assert (tmp_path / "found" / "legend.png").is_file() and output.count("pseudo_color_prediction") == 6
    assert load_segmentor(str(tmp_path / "run")).classes[:2] == ["wall", "building"]


def test_a_missing_and_a_half_ade20k_name_the_layout_and_what_was_found(ade20k, tmp_path):
    output = train_ade(tmp_path / "nowhere", tmp_path / "run", code=2)
    assert "images/training/*.jpg" in output and "no such folder" in output
    next((ade20k / "annotations" / "training").iterdir()).unlink()
    assert "1 of 3 samples have no label file" in train_ade(ade20k, tmp_path / "run", code=2)
    for path in (ade20k / "annotations" / "training").iterdir():
        path.unlink()
    (ade20k / "annotations" / "training").rmdir()
    output = train_ade(ade20k, tmp_path / "run", code=2)
    assert "images/training: 3 files; annotations/training: missing" in output
    assert not (tmp_path / "run").exists()


def test_a_corrupt_image_is_named_and_replaced_and_too_many_stop_the_run(ade20k, tmp_path):
    broken = sorted((ade20k / "images" / "training").iterdir())[0]
    broken.write_bytes(b"not an image")
    assert train_ade(ade20k, tmp_path / "run", "--max_corrupt", 0.5) is not None
    assert final(tmp_path / "run").step == 3
    output = train_ade(ade20k, tmp_path / "other", code=2)
    assert broken.name in output and broken.name in (tmp_path / "other" / "corrupt_files.txt").read_text()


def test_labels_of_another_size_or_above_the_classes_are_named_with_their_file(ade20k, tmp_path):
    for path in (ade20k / "annotations" / "training").iterdir():
        Image.fromarray(np.full((70, 90), 200, dtype=np.uint8)).save(path)
    output = train_ade(ade20k, tmp_path / "run", code=2)
    assert "ADE_val_0000000" in output and "a label is 199, the model has 150 classes" in output
    for path in (ade20k / "annotations" / "training").iterdir():
        Image.fromarray(np.ones((70, 91), dtype=np.uint8)).save(path)
    output = train_ade(ade20k, tmp_path / "run2", code=2)
    assert "ADE_val_0000000" in output and "Image and label must have the same size" in output


def test_a_batch_without_labelled_pixels_trains_with_loss_zero(ade20k, tmp_path):
    for path in (ade20k / "annotations" / "training").iterdir():
        Image.fromarray(np.zeros((70, 90), dtype=np.uint8)).save(path)
    train_ade(ade20k, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines] == [0.0] * 3


def test_a_checkpoint_of_another_kind_is_named(tmp_path):
    train(tmp_path / "run")
    opts = [f"model.backbone.pretrained={tmp_path / 'run'}"]
    assert "this is a 'segment' run; segmentation starts from" in train(tmp_path / "other", opts=opts, code=2)
    assert "weights without settings" in segment(
        "evaluate", "--model_path", tmp_path / "run" / "iter_6" / "model.pdparams", code=2)


def test_a_warm_up_longer_than_the_run_is_said(tmp_path, command_log):
    train(tmp_path / "long", "--dry-run", opts=["lr_scheduler.warmup=5"])
    assert "is not over" not in command_log.text
    train(tmp_path / "short", "--dry-run", opts=["lr_scheduler.warmup=100"])
    assert "warm-up of 100 iterations is not over after the run's 6" in command_log.text
