# SPDX-License-Identifier: Apache-2.0
"""BEiT v2 in PaddleClas: by name in the wheel, and through the unmodified scripts of a checkout (`PADDLECLAS_HOME`)."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
from typer.testing import CliRunner

from beitv2_cls import adapter
from beitv2_cls.__main__ import PADDLECLAS
from beitv2_cls.classifier import BEiTClassifier
from beitv2_core import cli
from beitv2_core.data import DigitScenes
from beitv2_core.errors import CheckpointError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
YAML = ROOT / "configs/cls/ppcls/beitv2_base_patch16_224_finetune.yaml"
HOME = os.environ.get("PADDLECLAS_HOME")
TINY = {"width": 24, "depth": 2, "num_heads": 2}
checkout = pytest.mark.skipif(not HOME, reason="PADDLECLAS_HOME does not name a PaddleClas checkout")


def tiny(**options) -> BEiTClassifier:
    return adapter.build_arch("base", 224, class_num=4, **TINY, **options)


# -- the wheel --------------------------------------------------------------------------------------------------------


def test_the_wheel_builds_every_model_by_its_name():
    pytest.importorskip("paddleclas", reason="the PaddleClas wheel is not installed")
    import beitv2_cls

    assert "paddleclas.ppcls.arch" in beitv2_cls.register()
    from paddleclas.ppcls.arch import build_model

    for name, (_, pixels) in adapter.MODELS.items():
        model = build_model({"Arch": {"name": name, "class_num": 7, **TINY}})
        model.eval()
        assert model(paddle.zeros([1, 3, pixels, pixels])).shape == [1, 7]


def test_published_sizes_are_those_of_the_paper():
    for name, width, depth, heads in (("BEiTv2_base_patch16_224", 768, 12, 12),
                                      ("BEiTv2_large_patch16_384", 1024, 24, 16)):
        size, pixels = adapter.MODELS[name]
        assert adapter.SIZES[size] == (width, depth, heads)
        assert pixels == int(name[-3:])


# -- loading ----------------------------------------------------------------------------------------------------------


def saved(model, path, drop=()):
    paddle.save({name: value for name, value in model.state_dict().items() if not name.startswith(tuple(drop))},
                str(path))


def test_a_fine_tuned_file_is_loaded_whole_and_strictly(tmp_path):
    source, target = tiny(), tiny()
    saved(source, tmp_path / "whole.pdparams")
    assert adapter.load_pretrained(target, str(tmp_path / "whole")) == []
    for name, value in source.state_dict().items():
        np.testing.assert_array_equal(target.state_dict()[name].numpy(), value.numpy(), err_msg=name)
    saved(source, tmp_path / "part.pdparams", drop=["blocks.1.mlp.fc1.weight"])
    with pytest.raises(CheckpointError, match=r"part.pdparams: .*missing.*blocks.1.mlp.fc1.weight"):
        adapter.load_pretrained(tiny(), str(tmp_path / "part.pdparams"))
    with pytest.raises(CheckpointError, match="its head has 4 classes, the model has 5"):
        adapter.load_pretrained(adapter.build_arch("base", 224, class_num=5, **TINY), str(tmp_path / "whole.pdparams"))


def test_a_pretraining_file_leaves_the_head_fresh_and_is_refused_for_measuring(tmp_path):
    saved(tiny(), tmp_path / "trunk.pdparams", drop=["head.", "fc_norm."])
    fresh = adapter.load_pretrained(tiny(), str(tmp_path / "trunk.pdparams"))
    assert fresh == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    with pytest.raises(CheckpointError, match="no classifier head"):
        adapter.load_pretrained(tiny(), str(tmp_path / "trunk.pdparams"), fresh_head=False)


def test_position_tables_are_fitted_to_the_models_size(tmp_path):
    saved(tiny(), tmp_path / "small.pdparams")
    large = adapter.build_arch("base", 384, class_num=4, pretrained=str(tmp_path / "small.pdparams"), **TINY)
    assert large.state_dict()["blocks.0.attn.relative_position_bias_table"].shape[0] == (2 * 24 - 1) ** 2 + 3


def test_arch_takes_its_options_under_either_name_and_refuses_unknown_ones():
    assert tiny(image_size=32).grid == (2, 2)
    assert adapter.build_arch("base", 224, num_classes=6, **TINY).num_classes == 6
    with pytest.raises(ConfigError, match="unknown settings drop_rte.*Known: .*depth"):
        tiny(drop_rte=0.1)


def test_a_model_of_the_same_name_is_not_hidden(monkeypatch):
    arch = pytest.importorskip("paddleclas.ppcls.arch", reason="the PaddleClas wheel is not installed")
    monkeypatch.setattr(arch, "BEiTv2_base_patch16_224", object(), raising=False)
    with pytest.raises(ConfigError, match="already has a model named 'BEiTv2_base_patch16_224'"):
        adapter.register()
    monkeypatch.undo()
    adapter.register()
    adapter.register()  # twice changes nothing


def test_what_paddleclas_offers_and_we_do_not_is_refused():
    with pytest.raises(ConfigError, match="hosts no BEiT v2 weights"):
        tiny(pretrained=True)
    with pytest.raises(ConfigError, match="no SSLD weights"):
        tiny(use_ssld=True)
    with pytest.raises(ConfigError, match="clip_global_norm"):
        adapter.LayerDecayAdamW(1e-3, grad_clip=object())


# -- training parts ---------------------------------------------------------------------------------------------------


def test_soft_targets_are_not_softmaxed_again():
    logits = paddle.to_tensor([[2.0, 0.0, -1.0]])
    target = paddle.to_tensor([[0.7, 0.3, 0.0]])
    expected = -(paddle.nn.functional.log_softmax(logits) * target).sum()
    np.testing.assert_allclose(float(adapter.SoftTargetLoss()(logits, target)["CELoss"]), float(expected), rtol=1e-6)
    label = paddle.to_tensor([[1]])
    smoothed = paddle.to_tensor([[0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3]])
    expected = -(paddle.nn.functional.log_softmax(logits) * smoothed).sum()
    np.testing.assert_allclose(float(adapter.SoftTargetLoss(0.1)(logits, label)["CELoss"]), float(expected), rtol=1e-6)


def test_the_optimizer_clips_the_norm_of_all_gradients_together():
    model = tiny()
    optimizer = adapter.LayerDecayAdamW(1e-3, layer_decay=0.6, clip_global_norm=0.5)([paddle.nn.Layer(), model])
    (model(paddle.randn([1, 3, 224, 224])).sum() * 100).backward()
    optimizer.step()
    squares = sum(float((parameter.grad ** 2).sum()) for parameter in model.parameters()
                  if parameter.grad is not None)
    np.testing.assert_allclose(squares ** 0.5, 0.5, rtol=1e-4)
    scales = {round(group["learning_rate"], 4) for group in optimizer._param_groups}
    assert scales == {round(0.6 ** n, 4) for n in range(4)}
    with pytest.raises(ConfigError, match="0 BEiT v2 models"):
        adapter.LayerDecayAdamW(1e-3)([paddle.nn.Linear(1, 1)])


# -- a checkout -------------------------------------------------------------------------------------------------------


def test_a_path_that_is_no_checkout_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        PADDLECLAS.checkout_of(tmp_path / "tools/train.py")
    (tmp_path / "train.py").write_text("")
    with pytest.raises(ConfigError, match="not a script of a PaddleClas checkout.*git clone"):
        PADDLECLAS.checkout_of(tmp_path / "train.py")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    scenes = DigitScenes("train", size=24, image_size=90)
    lists: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(len(scenes)):
        sample, split = scenes.load(index), "train" if index % 3 else "val"
        name = f"{split}/class_{sample.label % 4}/{index}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        sample.image.crop((0, 0, 90, 61 + index)).save(folder / name)
        lists[split].append(f"{name} {sample.label % 4}\n")
    for split, lines in lists.items():
        (folder / f"{split}.txt").write_text("".join(lines))
    return folder


def script(name, images, output, *options, launcher=(), folder=HOME):
    given = {"Global.device": "cpu", "Global.output_dir": output, "Arch.class_num": 4, "AMP.use_amp": False,
             **{f"Arch.{key}": value for key, value in TINY.items()}}
    for part, split in (("Train", "train"), ("Eval", "val")):
        given.update({f"DataLoader.{part}.dataset.image_root": images,
                      f"DataLoader.{part}.dataset.cls_label_path": images / f"{split}.txt",
                      f"DataLoader.{part}.sampler.batch_size": 4, f"DataLoader.{part}.loader.num_workers": 0})
    entry = [str(Path(adapter.__file__).with_name("__main__.py"))] if launcher else ["-m", "beitv2_cls"]
    tool = os.path.relpath(Path(HOME) / "tools" / f"{name}.py", folder)
    command = [sys.executable, *launcher, *entry, tool, "-c", str(YAML)]
    for key, value in given.items():
        command += ["-o", f"{key}={value}"]
    for option in options:
        command += ["-o", option]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=400)
    return done.returncode, done.stdout + done.stderr


def ran(*arguments, **options) -> str:
    code, said = script(*arguments, **options)
    assert code == 0, said[-3000:]
    return said


@checkout
@pytest.mark.slow
def test_train_resume_eval_infer_and_export_with_unmodified_scripts(images, tmp_path):
    saved(tiny(), tmp_path / "trunk.pdparams", drop=["head.", "fc_norm."])
    said = ran("train", images, tmp_path / "out", "Global.epochs=1", "Optimizer.lr.warmup_epoch=0",
               f"Global.pretrained_model={tmp_path}/trunk")
    assert "[Train][Epoch 1/1][Avg]" in said
    output = tmp_path / "out"
    said = ran("train", images, tmp_path / "out", "Global.epochs=2", "Optimizer.lr.warmup_epoch=0",
               f"Global.checkpoints={output}/latest", folder=tmp_path)
    assert "[Train][Epoch 2/2][Avg]" in said and "[Train][Epoch 1/2][Avg]" not in said
    said = ran("eval", images, tmp_path / "out", f"Global.pretrained_model={output}/latest", folder=tmp_path)
    assert "[Eval][Epoch 0][Avg]" in said
    said = ran("infer", images, tmp_path / "out", f"Global.pretrained_model={output}/latest",
               f"Infer.infer_imgs={images}/val/class_0", "Infer.PostProcess.topk=2",
               "Infer.PostProcess.class_id_map_file=null", folder=tmp_path)
    assert "class_ids" in said
    ran("export_model", images, tmp_path / "out", f"Global.pretrained_model={output}/latest",
        f"Global.save_inference_dir={tmp_path}/inference", folder=Path(HOME) / "ppcls")
    assert list((tmp_path / "inference").glob("inference.pdiparams"))
    code, said = script("eval", images, tmp_path / "out", f"Global.pretrained_model={tmp_path}/trunk")
    assert code != 0 and "no classifier head" in said


@checkout
@pytest.mark.slow
def test_paddleclas_and_our_loop_agree_to_the_image(images, tmp_path):
    """The same weights on the same folder: PaddleClas's tools/eval.py, by one and two processes, and `evaluate`."""
    settings = ["model.width=24", "model.depth=2", "model.num_heads=2", "model.patch_size=16", "model.init_values=0.1",
                "data.dataset=folder", f"data.root={images}/train", "data.size=null", "data.image_size=224",
                f"validation.root={images}/val", "validation.crop_share=0.875", "train.batch_size=8",
                "optim.steps=4", "optim.warmup_steps=1", "optim.lr=0.02", "pretrained.weights=null",
                f"output={tmp_path}/run"]
    runner = CliRunner()
    for arguments in (["finetune", str(ROOT / "configs/cls/digit_scenes.yml"), "--set", *settings],
                      ["evaluate", f"{tmp_path}/run", "-o", f"{tmp_path}/measured"]):
        result = runner.invoke(cli.app, arguments)
        assert result.exit_code == 0, result.output
    ours = json.loads((tmp_path / "measured/evaluation.json").read_text())
    weights = f"Global.pretrained_model={tmp_path}/run"
    theirs = ran("eval", images, tmp_path / "out", weights)
    top1 = float(re.findall(r"\[Eval\]\[Epoch 0\]\[Avg\].*top1: ([0-9.]+)", theirs)[-1])
    assert round(top1 * ours["images"]) == round(ours["top1"] * ours["images"])
    loss = float(re.findall(r"CELoss: ([0-9.]+)", theirs)[-1])
    np.testing.assert_allclose(loss, ours["loss"], atol=2e-5)
    launcher = ("-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo",
                "--log_dir", str(tmp_path / "logs"))
    ran("eval", images, tmp_path / "out", weights, launcher=launcher)
    both = (tmp_path / "logs/workerlog.0").read_text()
    assert float(re.findall(r"\[Avg\].*top1: ([0-9.]+)", both)[-1]) == pytest.approx(top1, abs=1e-5)
