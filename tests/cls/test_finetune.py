# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning from a pretraining run: exact resume, measurement, and every bad input named before training starts."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml
from cls_runs import run

from beitv2_cls.config import FinetuneConfig, LinearProbeConfig
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import load_config
from beitv2_core.data import DigitScenes
from beitv2_core.errors import BEiTError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TINY = ["model.width=24", "data.size=96", "train.batch_size=16", "train.log_every=3", "validation.size=40",
        "optim.steps=12", "optim.warmup_steps=2", "validation.every_epochs=1"]


def finetune(folder, *settings, code=0):
    return run("finetune", CONFIGS / "cls/digit_scenes.yml", "--set", *TINY, f"output={folder}", *settings, code=code)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    small = ["data.size=64", "train.batch_size=16", "optim.warmup_steps=2"]
    run("train-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "--set", *small, f"output={folder}/tokenizer",
        "encoder.width=24", "decoder.width=24", "optim.steps=8", "health.unquantized_steps=4")
    run("pretrain", CONFIGS / "pretrain/digit_scenes.yml", "--set", *small, f"tokenizer.weights={folder}/tokenizer",
        f"output={folder}/pretrain", "model.width=24", "optim.steps=4")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    scenes = DigitScenes("train", size=60, image_size=32)
    for index in range(len(scenes)):
        sample = scenes.load(index)
        place = folder / ("train" if index % 3 else "val") / f"class_{sample.label % 2}"
        place.mkdir(parents=True, exist_ok=True)
        sample.image.save(place / f"{index}.png")
    return folder


def folder_settings(images):
    return ["data.dataset=folder", f"data.root={images}/train", "data.size=null", "train.batch_size=8",
            f"validation.root={images}/val"]


def final(folder):
    store = CheckpointStore(Path(folder) / "checkpoints")
    return store.load(store.latest())


def lines_of(folder) -> dict[int, dict]:
    """The lines of metrics.jsonl by step."""
    return {line["step"]: line for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())}


@pytest.mark.slow
def test_a_stopped_and_resumed_run_equals_the_uninterrupted_one(pretrained, tmp_path):
    settings = [f"pretrained.weights={pretrained}/pretrain", "augment.mixup=0.8", "augment.cutmix=1.0",
                "augment.policy=rand-m9-mstd0.5-inc1", "augment.erase_prob=0.5", "model.drop_path=0.1",
                "ema_decay=0.9", "train.save_every=5"]
    finetune(tmp_path / "whole", *settings)
    from beitv2_cls.assembly import build_finetuning

    config = load_config(CONFIGS / "cls/digit_scenes.yml", [*TINY, *settings, f"output={tmp_path}/parts"],
                         FinetuneConfig)
    build_finetuning(config).run(stop_after=7)
    finetune(tmp_path / "parts", *settings)
    one, other = final(tmp_path / "whole"), final(tmp_path / "parts")
    for kind in ("weights", "optimizer"):
        for name, array in getattr(one, kind).items():
            np.testing.assert_array_equal(array, getattr(other, kind)[name], err_msg=name)
    np.testing.assert_equal(one.state["task"], other.state["task"])
    lines = [lines_of(tmp_path / name) for name in ("whole", "parts")]
    for step in (6, 12):  # the ends of epochs; 6 is a log step, and nothing is measured twice
        assert lines[0][step]["ema_val_acc1"] == lines[1][step]["ema_val_acc1"]
    assert all("val_acc1" not in line for step, line in lines[0].items() if step not in (6, 12))
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("whole", "parts")]
    assert summaries[0]["final"] == summaries[1]["final"] == {
        name: value for name, value in lines[0][12].items() if "val_" in name}


@pytest.mark.slow
def test_a_trained_classifier_is_measured_the_same_whatever_the_batch(pretrained, tmp_path):
    finetune(tmp_path / "run", f"pretrained.weights={pretrained}/pretrain")
    shown = [run("evaluate", tmp_path / "run", "-b", size).splitlines()[0] for size in (1, 40)]
    assert shown[0] == shown[1]
    assert "40 images" in shown[0]
    measured = json.loads((tmp_path / "run/evaluation.json").read_text())
    rows = (tmp_path / "run/per_class.csv").read_text().splitlines()[1:]
    counts, shares = zip(*((int(row.split(",")[1]), float(row.split(",")[2])) for row in rows))
    assert len(rows) == 10
    assert sum(np.nan_to_num(shares) * counts) / 40 == pytest.approx(measured["top1"], abs=1e-5)
    (tmp_path / "classes.txt").write_text("3\n4\n")
    run("evaluate", tmp_path / "run", "--subset", tmp_path / "classes.txt", "-o", tmp_path / "subset")
    (tmp_path / "classes.txt").write_text("three\n")
    run("evaluate", tmp_path / "run", "--subset", tmp_path / "classes.txt", code=2)


def test_validation_values_are_told_and_logged_at_the_step_they_were_measured(tmp_path, caplog):
    """96 images in batches of 16: an epoch ends after 6 steps, which is no log step here."""
    from beitv2_cls.assembly import build_finetuning

    settings = [*TINY, "pretrained.weights=null", f"output={tmp_path}/run", "train.log_every=4", "optim.steps=8"]
    logging.getLogger("beitv2_core").propagate = True
    with caplog.at_level(logging.INFO, logger="beitv2_core"):
        summary = build_finetuning(load_config(CONFIGS / "cls/digit_scenes.yml", settings, FinetuneConfig)).run()
    lines = lines_of(tmp_path / "run")
    assert sorted(lines) == [4, 6, 8]
    assert [step for step in lines if "val_acc1" in lines[step]] == [6, 8]
    assert "step 6/8  measured: val_acc1" in caplog.text
    assert summary["final"]["val_loss"] == lines[8]["val_loss"] == summary["last"]["val_loss"]


def tables_of(optimizer, model) -> set[tuple[str, float]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {(names[id(parameter)], group["weight_decay"]) for group in optimizer._param_groups
            for parameter in group["params"] if names[id(parameter)].endswith("position_bias_table")}


@pytest.mark.parametrize("decays, decay", [("true", 0.3), ("false", 0.0)])
def test_position_tables_decay_unless_the_setting_spares_them(tmp_path, decays, decay):
    from beitv2_cls.assembly import finetuning_parts

    settings = [*TINY, "pretrained.weights=null", f"output={tmp_path}/run", f"optim.decay_rel_pos_bias={decays}"]
    parts = finetuning_parts(load_config(CONFIGS / "cls/digit_scenes.yml", settings, FinetuneConfig))
    assert tables_of(parts.optimizer, parts.task.model) == {
        (f"blocks.{i}.attn.relative_position_bias_table", decay) for i in range(3)}


def test_only_fine_tuning_has_the_setting_that_spares_position_tables(tmp_path):
    said = run("linear-probe", CONFIGS / "cls/linear_probe_digit_scenes.yml", "--set", "optim.decay_rel_pos_bias=false",
               f"output={tmp_path}", code=2)
    assert "decay_rel_pos_bias" in said


@pytest.mark.parametrize("command, config", [("finetune", "digit_scenes"),
                                             ("linear-probe", "linear_probe_digit_scenes")])
def test_a_dry_run_takes_one_step_and_writes_nothing(tmp_path, command, config):
    shown = run(command, CONFIGS / f"cls/{config}.yml", "--dry-run", "--set", *TINY, "pretrained.weights=null",
                f"output={tmp_path}/run")
    assert "one step: loss" in shown and "total batch: 16" in shown
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_class_folders_train_and_measure(images, tmp_path):
    finetune(tmp_path / "run", "pretrained.weights=null", *folder_settings(images))
    assert json.loads((tmp_path / "run/classes.json").read_text()) == ["class_0", "class_1"]
    assert "top-1" in run("evaluate", tmp_path / "run", "--data", images / "val")


def refused(images, message, *changes):
    from beitv2_cls.assembly import build_finetuning

    settings = [*TINY, "pretrained.weights=null", *folder_settings(images), f"output={images}/none", *changes]
    with pytest.raises(BEiTError, match=message):
        build_finetuning(load_config(CONFIGS / "cls/digit_scenes.yml", settings, FinetuneConfig))
    assert not (images / "none").exists()


def test_bad_data_is_named_before_training(images, tmp_path):
    refused(images, "a single class", f"data.root={images}/val/class_0/..", f"data.list_file={one_class(images)}")
    refused(images, "num_classes is 7, .* has 2", "model.num_classes=7")
    (tmp_path / "other" / "class_9").mkdir(parents=True)
    next((images / "val/class_0").iterdir()).rename(tmp_path / "other/class_9/x.png")
    refused(images, r"class_9.*class_0, class_1; validation.root", f"validation.root={tmp_path}/other")


def listed(images, name, labels) -> str:
    """A list file over the validation images with these labels in turn."""
    paths = sorted(path.relative_to(images / "val").as_posix() for path in (images / "val").rglob("*.png"))
    lines = [f"{path} {labels[i % len(labels)]}\n" for i, path in enumerate(paths)]
    (images / name).write_text("".join(lines))
    return str(images / name)


def test_list_files_name_empty_classes_unknown_labels_and_classes_not_measured(images, caplog):
    root = [f"data.root={images}/val", f"validation.root={images}/val"]
    refused(images, r"no image of class 1 \(1 in all\)", *root, "validation.root=null",
            f"data.list_file={listed(images, 'gap.txt', [0, 2])}")
    refused(images, r"fox.*cat, dog; validation.list_file", *root,
            f"data.list_file={listed(images, 'train.txt', ['cat', 'dog'])}",
            f"validation.list_file={listed(images, 'val.txt', ['dog', 'fox'])}")
    from beitv2_cls.assembly import build_data

    settings = [*TINY, "pretrained.weights=null", *folder_settings(images), *root, f"output={images}/none",
                f"data.list_file={listed(images, 'three.txt', [0, 1, 2])}",
                f"validation.list_file={listed(images, 'two.txt', [0, 2])}"]
    build_data(load_config(CONFIGS / "cls/digit_scenes.yml", settings, FinetuneConfig))
    assert "no image of 1 class(es) (1)" in caplog.text and "not measured" in caplog.text


def test_a_fine_tuned_model_hands_on_its_norm_and_its_head_where_the_classes_agree(images, tmp_path):
    from beitv2_cls.assembly import build_classifier, build_finetuning, load_trunk

    settings = [*TINY, "pretrained.weights=null", *folder_settings(images), "optim.steps=2", "optim.warmup_steps=1",
                f"output={tmp_path}/first"]
    loop = build_finetuning(load_config(CONFIGS / "cls/digit_scenes.yml", settings, FinetuneConfig))
    loop.run()
    before = loop.task.model.state_dict()
    settings = [*settings, f"pretrained.weights={tmp_path}/first", f"output={tmp_path}/second"]
    config = load_config(CONFIGS / "cls/digit_scenes.yml", settings, FinetuneConfig)
    for classes, kept in ((2, True), (5, False)):
        model = build_classifier(config, classes)
        load_trunk(model, config)
        np.testing.assert_array_equal(model.fc_norm.weight.numpy(), before["fc_norm.weight"].numpy())
        assert (list(model.head.weight.shape) == list(before["head.weight"].shape)
                and np.array_equal(model.head.weight.numpy(), before["head.weight"].numpy())) == kept


def one_class(images) -> Path:
    names = sorted(path.name for path in (images / "val/class_0").iterdir())
    (images / "list.txt").write_text("".join(f"class_0/{name} cat\n" for name in names))
    return images / "list.txt"


def test_a_checkpoint_of_another_kind_or_size_is_named(pretrained, images):
    refused(images, "this is a tokenizer model", f"pretrained.weights={pretrained}/tokenizer")
    refused(images, r"model.width: it is 48, .*/pretrain has width 24", f"pretrained.weights={pretrained}/pretrain",
            "model.width=48")
    refused(images, "pretrained.image_size: it is 64, .* 32 pixels", f"pretrained.weights={pretrained}/pretrain",
            "pretrained.image_size=64")
    refused(images, "nope: no such run folder.*beitv2 pretrain", "pretrained.weights=runs/nope")


def test_the_trunk_is_taken_from_the_pretraining_run(pretrained, tmp_path):
    """Nothing of the trunk is written; the shared position bias of pretraining becomes one table a block."""
    plain = tmp_path / "plain.yml"
    text = (CONFIGS / "cls/digit_scenes.yml").read_text().replace("../_base_", f"{CONFIGS}/_base_")
    kept = text.split("\n")
    start = kept.index("model:")
    plain.write_text("\n".join([*kept[:start], "model: {drop_path: 0.1}", *kept[start + 6:]]))
    settings = [*[one for one in TINY if not one.startswith("model.")], f"output={tmp_path}/run"]
    weights = f"pretrained.weights={pretrained}/pretrain"
    config = load_config(plain, [*settings, weights], FinetuneConfig)
    model = config.model
    assert (model.width, model.depth, model.num_heads, model.patch_size) == (24, 3, 3, 8)
    assert (model.positions, model.init_values, model.drop_path) == ("relative", None, 0.1)
    from beitv2_cls.assembly import finetuning_parts

    tables = [name for name in finetuning_parts(config).task.model.state_dict() if name.endswith("position_bias_table")]
    assert tables == [f"blocks.{i}.attn.relative_position_bias_table" for i in range(3)]
    saved = config.resolved()
    saved["pretrained"]["weights"] = "gone"
    assert FinetuneConfig(**saved).model == model, "a run's own settings are whole without the pretraining run"
    for changed, said in (("model.depth=2", "model.depth: it is 2, .* has depth 3"),
                          ("pretrained.emma=true", "pretrained.emma: unknown key"),
                          (f"pretrained.weights={pretrained}/tokenizer", "pretrained.weights: .*a tokenizer model")):
        with pytest.raises(BEiTError, match=said) as error:
            load_config(plain, [*settings, weights, changed], FinetuneConfig)
        assert "{" not in str(error.value), "the settings are not poured out"
    with pytest.raises(BEiTError, match="pretrained.weights.*nope.*model.width"):
        load_config(plain, [*settings, "pretrained.weights=nope"], FinetuneConfig)


@pytest.mark.parametrize("config, kind", [("digit_scenes", FinetuneConfig),
                                          ("linear_probe_digit_scenes", LinearProbeConfig)])
def test_settings_without_a_model_section_take_the_whole_trunk(pretrained, tmp_path, config, kind):
    plain = tmp_path / "plain.yml"
    settings = load_config(CONFIGS / f"cls/{config}.yml", TINY, kind).resolved()
    del settings["model"]
    plain.write_text(yaml.safe_dump(settings))
    model = load_config(plain, [f"pretrained.weights={pretrained}/pretrain"], kind).model
    assert (model.width, model.depth, model.num_heads, model.patch_size, model.positions) == (24, 3, 3, 8, "relative")


def test_averaged_weights_of_a_wrapped_file_are_started_from_where_asked_for(pretrained, tmp_path):
    import pickle

    from beitv2_cls.assembly import build_finetuning
    from beitv2_core.assembly.restore import read_checkpoint

    weights = read_checkpoint(str(pretrained / "pretrain")).weights
    name = "blocks.0.norm1.weight"
    averaged = {f"module.{key}": array + 1 if key == name else array for key, array in weights.items()}
    path = tmp_path / "both.pdparams"
    path.write_bytes(pickle.dumps({"model": dict(weights), "model_ema": averaged}, 4))
    converted = tmp_path / "average.safetensors"
    run("convert", path, converted, "--ema", "--set", "early_layers=2")
    for ema, expected in ((None, weights[name]), (False, weights[name]), (True, weights[name] + 1)):
        settings = [*TINY, f"output={tmp_path / str(ema)}", f"pretrained.weights={path}",
                    f"pretrained.ema={'null' if ema is None else str(ema).lower()}"]
        loop = build_finetuning(load_config(CONFIGS / "cls/digit_scenes.yml", settings, FinetuneConfig))
        np.testing.assert_array_equal(loop.task.model.state_dict()[name].numpy(), expected)
