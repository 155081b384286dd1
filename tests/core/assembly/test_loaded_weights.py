# SPDX-License-Identifier: Apache-2.0
"""Whatever a path holds - run, checkpoint, converted, released or wrapped file - is read with what it knows."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from model_files import missing, models
from typer.testing import CliRunner

from beitv2_core import __version__, cli
from beitv2_core.assembly import architecture_of, load_mim, load_tokenizer
from beitv2_core.assembly.from_architecture import shapes_of
from beitv2_core.assembly.kinds import find_kind
from beitv2_core.assembly.loaded_weights import Hints, identify_weights, read_checkpoint, read_model, read_weights_for
from beitv2_core.assembly.models import build_mim
from beitv2_core.assembly.restore import FileConfig, build_file, read_config
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import PretrainConfig
from beitv2_core.conversion.convert import convert_file
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_core.weights.architecture import ShapeReader
from beitv2_core.weights.writers import write_paddle, write_torch


def one(goldens_dir, stem):
    model = next(m for m in models(goldens_dir) if m.fixture.stem == stem)
    if missing(model.kind):
        pytest.skip(missing(model.kind))
    return model


def wrapped(model, path, prefix="module._orig_mod.", container="state_dict"):
    write_torch(path, {prefix + name: array for name, array in model.state.items()}, container)
    return path


def run_of(folder, *, average=None, classes=None, **model):
    settings = {"width": 24, "depth": 3, "num_heads": 2, "patch_size": 8, "early_layers": 2, "head_layers": 1,
                "positions": "shared_relative", "norm_eps": 1e-5, "init_values": 0.2, **model}
    config = PretrainConfig.model_validate({
        "data": {"dataset": "folder", "root": "images", "image_size": [16, 32]}, "model": settings,
        "output": str(folder), "tokenizer": {"weights": "none"}, "mask": {"num_masked": 3, "min_block": 1},
        "optim": {"epochs": 1, "lr": 1e-3}, "train": {"batch_size": 2}})
    network = build_mim(config.model, image_size=config.data.image_size, num_codes=16)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    task = {"average": {name: array + 1 for name, array in weights.items()} if average else {}}
    if classes is not None:
        task["classes"] = classes
    CheckpointStore(folder / "checkpoints").save(1, weights, {}, {"task": task}, config.resolved())
    return folder, weights


def test_a_setting_of_a_newer_version_in_a_checkpoint_is_named_with_both_versions(tmp_path):
    folder, weights = run_of(tmp_path / "run")
    saved = read_checkpoint(str(folder))
    config = {**saved.config, "model": {**saved.config["model"], "registers": 4}}
    CheckpointStore(folder / "checkpoints").save(2, weights, {}, {"versions": {"beitv2-core": "9.1.0"}}, config)
    expected = rf"step_000002.*: model.registers: .*beitv2-core {__version__} does not know.*9\.1\.0.*Install"
    for read in (load_mim, read_config):
        with pytest.raises(ConfigError, match=expected):
            read(str(folder))


def command(*arguments, code=0):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result.output


# -- files wherever a run is taken ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["official", "wrapped", "converted"])
def test_a_tokenizer_file_needs_no_name_in_any_form(goldens_dir, tmp_path, form):
    model = one(goldens_dir, "vqkd")
    path = wrapped(model, tmp_path / "a.pth") if form == "wrapped" else model.write(tmp_path)
    if form == "converted":
        convert_file(path, tmp_path / "a.safetensors", hints=model.hints)
        path = tmp_path / "a.safetensors"
    found = read_checkpoint(str(path), hints=model.hints)
    tokenizer = build_file(found, ("tokenizer",))
    np.testing.assert_array_equal(tokenizer.quantize.codebook.numpy(), model.state["quantize.embedding.weight"])
    known = read_config(str(path))
    assert (known.kind, known.image_size, known.grid) == ("tokenizer", tokenizer.image_size, tokenizer.grid)
    if form == "converted":
        assert load_tokenizer(path).grid == tokenizer.grid


def test_heads_that_no_published_width_tells_are_asked_for_and_not_guessed(goldens_dir, tmp_path):
    model = one(goldens_dir, "vqkd")
    assert not any("table" in name for name in model.state)
    with pytest.raises(CheckpointError, match=r"model\.pth: num_heads .*--set num_heads=12"):
        load_tokenizer(model.write(tmp_path))
    convert_file(tmp_path / "model.pth", tmp_path / "x.safetensors", hints=Hints(values=model.hints.values))
    heads = load_tokenizer(tmp_path / "x.safetensors").encoder.blocks[0].attn.num_heads
    assert heads == model.hints.values["num_heads"]


def test_a_name_is_checked_and_another_kind_is_named(goldens_dir, tmp_path):
    path = one(goldens_dir, "finetune").write(tmp_path)
    with pytest.raises(ConfigError, match="'vqgan'.*vqkd_encoder_base"):
        load_tokenizer(path, name="vqgan")
    with pytest.raises(CheckpointError, match="this is a classifier model, a tokenizer model was expected"):
        load_tokenizer(path)
    with pytest.raises(CheckpointError, match="this is a classifier model, a pretraining model was expected"):
        load_mim(path)


def test_a_pretrained_backbone_is_loaded_from_a_file(goldens_dir, tmp_path):
    model = one(goldens_dir, "pretrain_cls_a")
    student, known = load_mim(wrapped(model, tmp_path / "a.ckpt"), hints=model.hints)
    assert isinstance(known, FileConfig) and known.kind == "pretrain" and known.grid == student.grid
    name = "blocks.0.norm1.weight"
    np.testing.assert_array_equal(student.state_dict()[name].numpy(), model.state[name])
    assert not student.training and all(parameter.stop_gradient for parameter in student.parameters())
    with pytest.raises(ConfigError, match="--data"):
        _ = known.data


def test_inspect_shows_any_file_and_says_where_it_found_the_model(goldens_dir, tmp_path):
    model = one(goldens_dir, "finetune")
    shown = command("inspect", wrapped(model, tmp_path / "a.pth"))
    assert "classifier" in shown and "'state_dict'" in shown and "module._orig_mod." in shown
    write_paddle(tmp_path / "other.pdparams", {"fc.weight": np.ones((2, 3), "f4")})
    shown = command("inspect", tmp_path / "other.pdparams")
    assert "kind: weights only" in shown and "fc.weight" in shown


@pytest.mark.parametrize(("wanted", "advised", "not_advised"), [
    (("pretraining", "classifier"), "beitv2 pretrain", "train-tokenizer"),
    (("tokenizer",), "beitv2 train-tokenizer", "beitv2 pretrain"),
    (("segmentation",), "beitv2 segment train", "train-tokenizer"), (("classifier",), "beitv2 finetune", "nothing"),
    ((), "beitv2 pretrain", "nothing")])
def test_a_path_with_nothing_advises_the_command_that_makes_such_a_run(wanted, advised, not_advised):
    if wanted and missing(wanted[0]):
        pytest.skip(missing(wanted[0]))
    with pytest.raises(CheckpointError, match="runs/nope") as caught:
        read_checkpoint("runs/nope", wanted=wanted)
    assert advised in str(caught.value) and not_advised not in str(caught.value)


def test_weights_of_anybodys_parts_are_fitted_to_the_names_of_their_model(tmp_path):
    names = ["backbone.cls_token", "head.conv.weight"]
    state = {f"module.{name}": np.full(2, i, "f4") for i, name in enumerate(names)}
    write_paddle(tmp_path / "a.pdparams", {**state, "module.rest": np.ones(1, "f4")})
    found = read_weights_for(names, tmp_path / "a.pdparams")
    assert set(found) == {*names, "rest"} and found["head.conv.weight"][0] == 1


# -- runs -------------------------------------------------------------------------------------------------------------


def test_averaged_weights_of_a_run_are_taken_where_asked_for(tmp_path):
    folder, weights = run_of(tmp_path / "averaged", average=True)
    name = "blocks.0.norm1.weight"
    np.testing.assert_array_equal(read_checkpoint(str(folder)).weights[name], weights[name])
    np.testing.assert_array_equal(read_checkpoint(str(folder), hints=Hints(ema=True)).weights[name], weights[name] + 1)
    command("convert", folder, tmp_path / "x.safetensors", "--ema")
    np.testing.assert_array_equal(read_model(tmp_path / "x.safetensors").weights[name], weights[name] + 1)
    plain, _ = run_of(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="no averaged weights"):
        read_checkpoint(str(plain), hints=Hints(ema=True))


def test_class_names_come_from_the_checkpoint_or_else_from_the_run_folder(tmp_path):
    folder, _ = run_of(tmp_path / "run", classes=["cat", "dog"])
    assert read_checkpoint(str(folder)).classes == ["cat", "dog"]
    older, _ = run_of(tmp_path / "older")
    assert read_checkpoint(str(older)).classes is None
    (older / "classes.json").write_text('["猫", "dog"]', encoding="utf-8")
    assert read_checkpoint(str(older / "checkpoints" / "step_000001.pdckpt")).classes == ["猫", "dog"]
    (older / "classes.json").write_text("[", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"classes\.json"):
        read_checkpoint(str(older))


# -- the trunk's settings ---------------------------------------------------------------------------------------------


def test_a_run_gives_its_trunks_settings_and_so_does_every_file_of_it(tmp_path):
    folder, _ = run_of(tmp_path / "run")
    convert_file(folder, tmp_path / "a.safetensors")
    convert_file(folder, tmp_path / "a.pth", "official")
    checkpoint = folder / "checkpoints" / "step_000001.pdckpt"
    for source in (folder, checkpoint, tmp_path / "a.safetensors", tmp_path / "a.pth"):
        trunk = architecture_of(source, hints=Hints(values={"early_layers": 2}) if source.suffix == ".pth" else None)
        known = {"width": 24, "depth": 3, "num_heads": 2, "patch_size": 8, "mlp_ratio": 4.0, "qkv_bias": True,
                 "positions": "relative", "norm_eps": 1e-5, "init_values": 0.2}
        if source.suffix == ".pth":  # which no file of others says
            known.pop("norm_eps")
            known["init_values"] = 0.1
        assert trunk.settings == known
        assert (trunk.kind, trunk.image_size) == ("pretraining", (16, 32))


def test_what_is_left_out_is_filled_and_what_contradicts_is_named_with_both_values(tmp_path):
    folder, _ = run_of(tmp_path / "run")
    trunk = architecture_of(folder)
    filled = trunk.fill({"depth": 3, "width": None, "drop_path": 0.1}, "model.")
    assert filled["width"] == 24 and filled["drop_path"] == 0.1 and filled["positions"] == "relative"
    options = trunk.fill_options({"image_size": 64}, "model.backbone.")
    assert options["use_rel_pos_bias"] and not options["use_shared_rel_pos_bias"] and options["image_size"] == 64
    trunk.fill({"positions": "shared_relative", "init_values": 1e-5, "patch_size": [8, 8]}, "model.")
    for given, key, came, own in (({"width": 32}, "model.width", "32", "24"),
                                  ({"size": "base"}, "model.size", "'base'", "24"),
                                  ({"positions": "absolute"}, "model.positions", "'absolute'", "relative"),
                                  ({"init_values": None}, "model.init_values", "None", "0.2"),
                                  ({"patch_size": 16}, "model.patch_size", "16", "8"),
                                  ({"norm_eps": 1e-6}, "model.norm_eps", "1e-06", "1e-05"),
                                  ({"mlp_ratio": 2}, "model.mlp_ratio", "2", "4.0")):
        with pytest.raises(ConfigError) as caught:
            trunk.fill(given, "model.")
        assert all(part in str(caught.value) for part in (key, came, own, str(folder)))
    assert trunk.check_image_size(None, "pretrained.image_size") == trunk.check_image_size([16, 32], "x") == (16, 32)
    with pytest.raises(ConfigError, match=r"pretrained.image_size: it is 224.*\[16, 32\]"):
        trunk.check_image_size(224, "pretrained.image_size")


def test_a_tokenizer_and_nothing_have_no_trunk_to_start_from(goldens_dir, tmp_path):
    with pytest.raises(CheckpointError, match="this is a tokenizer model"):
        architecture_of(one(goldens_dir, "vqkd").write(tmp_path))
    with pytest.raises(CheckpointError, match="beitv2 pretrain"):
        architecture_of(tmp_path / "nope")


# -- conversion -------------------------------------------------------------------------------------------------------


def deeper(model, depth=6):
    """A segmenter of more blocks than taps: which four are tapped is not in its weights."""
    state = dict(model.state)
    for block in range(4, depth):
        state.update({name.replace("blocks.3.", f"blocks.{block}."): array for name, array in model.state.items()
                      if ".blocks.3." in name})
    return state


def test_taps_that_cannot_be_told_are_asked_for_written_down_and_said(goldens_dir, tmp_path):
    write_torch(tmp_path / "seg.pth", deeper(one(goldens_dir, "upernet_model")), "state_dict")
    shown = command("convert", tmp_path / "seg.pth", tmp_path / "x.safetensors", code=2)
    assert "--set out_indices=3,5,7,11" in shown and not (tmp_path / "x.safetensors").exists()
    command("convert", tmp_path / "seg.pth", tmp_path / "x.safetensors", "--set", "out_indices=0,2,3,5")
    assert read_model(tmp_path / "x.safetensors").architecture["out_indices"] == [0, 2, 3, 5]
    shown = command("convert", tmp_path / "seg.pth", tmp_path / "y.safetensors", "--set", "out_indices=0,2,3,6", code=2)
    assert "[0, 2, 3, 6]" in shown and "0 .. 5" in shown
    if not missing("segmentation"):
        command("verify", tmp_path / "x.safetensors", "--against", tmp_path / "seg.pth")
    command("convert", tmp_path / "x.safetensors", tmp_path / "back.pth", "--to", "official")


@pytest.mark.parametrize(("given", "message"), [
    (["num_heads"], "expected NAME=VALUE"),
    (["num_heads=0"], "num_heads=0: cannot be read.*num_heads=12"),
    (["num_heads=many"], "num_heads=many: cannot be read.*attention heads"),
    (["early_layers=9"], "early_layers: not a value of a classifier model. Known: num_heads=12: attention heads"),
    (["num_heads=3", "num_heads=4"], "num_heads is given twice"),
])
def test_a_value_that_the_kind_does_not_have_or_cannot_read_is_refused(goldens_dir, tmp_path, given, message):
    source = one(goldens_dir, "finetune").write(tmp_path)
    options = [part for value in given for part in ("--set", value)]
    shown = command("convert", source, tmp_path / "x.safetensors", *options, code=2)
    assert re.search(message, shown) and not (tmp_path / "x.safetensors").exists()


def test_a_converted_file_holds_its_values_and_takes_no_others(goldens_dir, tmp_path):
    source, ours = one(goldens_dir, "finetune").write(tmp_path), tmp_path / "x.safetensors"
    command("convert", source, ours)
    shown = command("convert", ours, tmp_path / "y.pth", "--to", "official", "--set", "num_heads=3", code=2)
    assert "Leave out --set" in shown and not (tmp_path / "y.pth").exists()


def test_the_published_taps_are_taken_for_the_published_segmenter_alone_and_said(goldens_dir):
    model = one(goldens_dir, "upernet_model")
    kind, small = find_kind("segmentation"), identify_weights(model.state, model.hints).architecture
    architecture = {**small, "backbone": {**small["backbone"], "width": 768, "depth": 12, "num_heads": 12}}
    weights = {name: np.broadcast_to(np.zeros((), "f4"), shape)
               for name, shape in shapes_of(kind, architecture).items()}
    reader = ShapeReader(weights, origin="official")
    assert kind.read(reader)["out_indices"] == [3, 5, 7, 11]
    assert any("out_indices=3,5,7,11" in line and "--set out_indices=" in line for line in reader.assumed)
    assert kind.read(ShapeReader(weights))["out_indices"] is None
    given = kind.read(ShapeReader(weights, origin="official", hints={"out_indices": (2, 5, 8, 11)}))
    assert given["out_indices"] == [2, 5, 8, 11]


def test_class_names_go_into_the_file_and_through_transformers_and_back(goldens_dir, tmp_path):
    model = one(goldens_dir, "finetune")
    count = len(model.state["head.bias"])
    names = [f"class {i} é" for i in range(count)]
    (tmp_path / "names.txt").write_text("\ufeff" + "\n".join(names) + "\n\n", encoding="utf-8")
    shown = command("convert", model.write(tmp_path), tmp_path / "x.safetensors", "--classes", tmp_path / "names.txt")
    assert f"{count} class names" in shown
    command("convert", tmp_path / "x.safetensors", tmp_path / "hub", "--to", "huggingface")
    assert json.loads((tmp_path / "hub" / "config.json").read_text(encoding="utf-8"))["id2label"]["1"] == names[1]
    command("convert", tmp_path / "hub", tmp_path / "y.safetensors")
    for path in ("x.safetensors", "hub", "y.safetensors"):
        found = read_checkpoint(str(tmp_path / path))
        assert found.classes == names and found.model.kind == "classifier"
        assert read_config(str(tmp_path / path)).classes == names
    command("convert", tmp_path / "model.pth", tmp_path / "plain", "--to", "huggingface")
    assert read_checkpoint(str(tmp_path / "plain")).classes is None
    (tmp_path / "names.txt").write_text("one\n", encoding="utf-8")
    shown = command("convert", tmp_path / "model.pth", tmp_path / "z.safetensors", "--classes", tmp_path / "names.txt",
                    code=2)
    assert f"1 class names (1 different) for a model of {count}" in " ".join(shown.split())
    assert not (tmp_path / "z.safetensors").exists()


def test_class_names_without_a_place_in_the_format_are_told_and_refused_where_given(goldens_dir, tmp_path):
    model = one(goldens_dir, "finetune")
    count = len(model.state["head.bias"])
    (tmp_path / "names.txt").write_text("".join(f"class {i}\n" for i in range(count)), encoding="utf-8")
    command("convert", model.write(tmp_path), tmp_path / "x.safetensors", "--classes", tmp_path / "names.txt")
    shown = " ".join(command("convert", tmp_path / "x.safetensors", tmp_path / "x.pth", "--to", "official").split())
    assert f"; {count} class names, for which this format has no place, were left out" in shown
    assert f", {count} class names" not in shown
    shown = command("convert", tmp_path / "x.safetensors", tmp_path / "y.pth", "--to", "official", "--classes",
                    tmp_path / "names.txt", code=2)
    assert "--classes" in shown and "huggingface" in shown and not (tmp_path / "y.pth").exists()


def test_convert_chooses_the_average_where_asked_and_says_what_was_left(goldens_dir, tmp_path):
    import pickle

    model = one(goldens_dir, "finetune")
    averaged = {f"module.{name}": array + 1 if array.dtype.kind == "f" else array
                for name, array in model.state.items()}
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"model": model.state, "state_dict_ema": averaged}, 4))
    shown = command("convert", tmp_path / "a.pdparams", tmp_path / "x.safetensors")
    assert "'model'" in shown and "state_dict_ema" in shown
    shown = command("convert", tmp_path / "a.pdparams", tmp_path / "y.safetensors", "--ema")
    assert "'state_dict_ema'" in shown and "'module.'" in shown
    name = "blocks.0.norm1.weight"
    plain, average = (read_model(tmp_path / file).weights[name] for file in ("x.safetensors", "y.safetensors"))
    np.testing.assert_array_equal(average, plain + 1)
    if not missing("classifier"):
        command("verify", tmp_path / "y.safetensors", "--against", tmp_path / "a.pdparams", "--ema")
        command("verify", tmp_path / "y.safetensors", "--against", tmp_path / "a.pdparams", code=1)


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_a_teacher_is_read_from_a_wrapped_file(goldens_dir, tmp_path, kind):
    from beitv2_core.teachers import build_teacher

    model = next(m for m in models(goldens_dir) if m.kind == kind)
    patch = next(array for array in model.state.values() if array.ndim == 4).shape[-1]
    sides = {"image_size": 4 * patch, "patch_size": patch, "num_heads": model.hints.values["num_heads"]}
    plain, taken_off = (build_teacher(kind, weights=str(path), **sides) for path in
                        (model.write(tmp_path), wrapped(model, tmp_path / "w.pth", "model.module.")))
    for name, value in plain.state_dict().items():
        np.testing.assert_array_equal(taken_off.state_dict()[name].numpy(), value.numpy())
