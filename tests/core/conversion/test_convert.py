# SPDX-License-Identifier: Apache-2.0
"""Every kind through every format and back bit for bit; loaders take what comes out; mistakes are refused by name."""

from __future__ import annotations

import json

import numpy as np
import paddle
import pytest
from model_files import assert_same_tensors, missing, models
from typer.testing import CliRunner

from beitv2_core import __version__, cli
from beitv2_core.assembly.kinds import find_kind
from beitv2_core.assembly.restore import load_tokenizer, read_checkpoint
from beitv2_core.assembly.trunk import architecture_of
from beitv2_core.conversion.convert import TARGETS, Hints, convert_file, read_model
from beitv2_core.conversion.verify import build, outputs_of
from beitv2_core.errors import CheckpointError, ConfigError
from beitv2_core.models.mim import BEiTForMaskedImageModeling
from beitv2_core.weights.architecture import NEEDED
from beitv2_core.weights.kind import IMAGE_FORMATS
from beitv2_core.weights.reading.foreign import read_tensors
from beitv2_core.weights.writers import write_safetensors, write_torch

#: formats a fixture's architecture cannot have, besides those its kind has not
IMPOSSIBLE = {("finetune_abs", "paddleclas"), ("pretrain_cls_a", "huggingface"), ("pretrain_cls_b", "huggingface")}


def one(goldens_dir, stem):
    model = next(m for m in models(goldens_dir) if m.fixture.stem == stem)
    if missing(model.kind):
        pytest.skip(missing(model.kind))
    return model


def place(folder, to):
    return folder / (f"{to}{TARGETS[to].suffix}")


def test_official_to_ours_to_official_loses_no_bit(model, tmp_path):
    # What a released file holds besides: a teacher, a scaling layer, training state of half precision.
    beside = {"teacher_model.norm.weight": np.ones(3, "f4"), "scaling_layer.shift": np.zeros((1, 3, 1, 1), "f4"),
              "half": np.ones(3, np.float16)}
    state = {**model.state, **beside}
    write_torch(tmp_path / "model.pth", state, "model")
    done = convert_file(tmp_path / "model.pth", tmp_path / "ours.safetensors", hints=model.hints)
    assert (done.kind, done.origin) == (model.kind, "official")
    assert done.unmapped >= len(beside)
    convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "official")
    assert_same_tensors(read_tensors(tmp_path / "back.pth")[0], state)
    found = read_model(tmp_path / "ours.safetensors")
    assert set(read_checkpoint(str(tmp_path / "ours.safetensors")).weights) == set(found.weights)


def test_every_format_that_kinds_have_can_be_written():
    assert set(TARGETS) == set(IMAGE_FORMATS)


@pytest.mark.parametrize("to", sorted({*TARGETS} - {"ours", "official"}))
def test_every_format_and_back_loses_no_bit(model, tmp_path, to):
    source = model.write(tmp_path)
    possible = to in find_kind(model.kind).formats and (model.fixture.stem, to) not in IMPOSSIBLE
    target = place(tmp_path, to)
    if not possible:
        with pytest.raises(CheckpointError, match="Possible: ours, official"):
            convert_file(source, target, to, hints=model.hints)
        assert not target.exists()
        return
    convert_file(source, target, to, hints=model.hints)
    convert_file(target, tmp_path / "ours.safetensors", hints=model.hints)
    weights = read_model(source, model.hints).weights
    assert_same_tensors(read_model(tmp_path / "ours.safetensors").weights, weights)
    convert_file(tmp_path / "ours.safetensors", tmp_path / "again" / target.name, to)
    file = "model.safetensors" if to == "huggingface" else ""
    assert_same_tensors(read_tensors(tmp_path / "again" / target.name / file)[0], read_tensors(target / file)[0])
    convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "official")
    back = read_tensors(tmp_path / "back.pth")[0]
    assert set(back) == set(model.state)
    for name, array in model.state.items():  # index buffers are made anew, with the same numbers
        assert np.array_equal(back[name], array), name


def test_a_folder_for_timm_is_read_back_with_its_heads_and_class_names(goldens_dir, tmp_path):
    """That timm gives the same answers is in tests/neighbours."""
    model = one(goldens_dir, "finetune")
    source = model.write(tmp_path)
    before = read_model(source, model.hints)
    names = [f"class {number}" for number in range(before.architecture["num_classes"])]
    convert_file(source, tmp_path / "folder", "timm", hints=model.hints, classes=names)
    again = read_model(tmp_path / "folder")
    assert (again.origin, list(again.classes)) == ("timm", names)
    assert again.architecture["num_heads"] == before.architecture["num_heads"]
    assert_same_tensors(again.weights, before.weights)
    with pytest.raises(CheckpointError, match=r"ending in \.safetensors.*folder.s without an ending"):
        convert_file(source, tmp_path / "folder.v2", "timm", hints=model.hints)
    (tmp_path / "file").write_text("somebody's")
    with pytest.raises(CheckpointError, match="is a file"):
        convert_file(source, tmp_path / "file", "timm", hints=model.hints)
    with pytest.raises(ConfigError, match="--classes"):
        convert_file(source, tmp_path / "lone.safetensors", "timm", hints=model.hints, classes=names)


def test_half_precision_stays_and_still_fills_a_model(goldens_dir, tmp_path):
    model = one(goldens_dir, "finetune")
    state = {name: array.astype(np.float16) if array.dtype == np.float32 else array
             for name, array in model.state.items()}
    write_torch(tmp_path / "half.pth", state, "model")
    convert_file(tmp_path / "half.pth", tmp_path / "ours.safetensors")
    found = read_model(tmp_path / "ours.safetensors")
    assert {str(array.dtype) for array in found.weights.values()} == {"float16"}
    network = build(found, "half")
    assert {str(value.dtype).rsplit(".", 1)[-1] for value in network.state_dict().values()} == {"float32"}
    convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pth", "official")
    assert_same_tensors(read_tensors(tmp_path / "back.pth")[0], state)


def test_a_key_bias_and_an_unused_projection_come_back_too(goldens_dir, tmp_path):
    from beitv2_core.weights.writers import write_paddle

    model = one(goldens_dir, "finetune")
    convert_file(model.write(tmp_path), tmp_path / "x.pdparams", "paddleclas")
    state = {name: np.array(array) for name, array in read_tensors(tmp_path / "x.pdparams")[0].items()}
    width = len(state["blocks.0.attn.qkv.bias"]) // 3
    state["blocks.0.attn.qkv.bias"][width:2 * width] = 0.5
    state["proj"] = np.ones(4, np.float32)
    write_paddle(tmp_path / "biased.pdparams", state)
    convert_file(tmp_path / "biased.pdparams", tmp_path / "ours.safetensors")
    convert_file(tmp_path / "ours.safetensors", tmp_path / "back.pdparams", "paddleclas")
    assert_same_tensors(read_tensors(tmp_path / "back.pdparams")[0], state)


def test_a_tokenizer_is_loaded_from_a_converted_file_without_its_name(goldens_dir, tmp_path):
    model = one(goldens_dir, "vqkd")
    convert_file(model.write(tmp_path), tmp_path / "ours.safetensors", hints=model.hints)
    tokenizer = load_tokenizer(tmp_path / "ours.safetensors")
    np.testing.assert_array_equal(tokenizer.quantize.codebook.numpy(), model.state["quantize.embedding.weight"])


@pytest.mark.parametrize(("stem", "name"), [("clip", "clip"), ("dino", "dino")])
def test_a_teacher_is_built_from_a_converted_file(goldens_dir, tmp_path, stem, name):
    from beitv2_core.teachers import build_teacher

    model = next(m for m in models(goldens_dir) if m.kind == name)
    source = model.write(tmp_path)
    convert_file(source, tmp_path / "ours.safetensors", hints=model.hints)
    patch = read_model(tmp_path / "ours.safetensors").architecture["patch_size"]
    patch = patch if isinstance(patch, int) else patch[0]
    images = paddle.rand([1, 3, 4 * patch, 4 * patch])
    answers = [build_teacher(name, weights=str(path), image_size=4 * patch, patch_size=patch,
                             num_heads=model.hints.values["num_heads"])(images).numpy()
               for path in (source, tmp_path / "ours.safetensors")]
    np.testing.assert_array_equal(*answers)


def test_a_trunk_alone_answers_as_in_its_model(goldens_dir, tmp_path):
    model = one(goldens_dir, "pretrain_cls_a")
    source = model.write(tmp_path)
    convert_file(source, tmp_path / "trunk.safetensors", backbone=True, hints=model.hints)
    trunk, whole = (read_model(path, model.hints) for path in (tmp_path / "trunk.safetensors", source))
    assert trunk.kind == "backbone" and not any("lm_head" in name or "cls_pt" in name for name in trunk.weights)
    assert trunk.architecture["use_rel_pos_bias"] and not trunk.architecture["use_shared_rel_pos_bias"]
    images = np.random.RandomState(0).standard_normal((2, 3, *trunk.architecture["image_size"])).astype(np.float32)
    got = outputs_of("backbone", build(trunk, "trunk"), [images])["features"]
    network = build(whole, "whole")
    assert isinstance(network, BEiTForMaskedImageModeling)
    expected = network.normalise(network.forward_tokens(paddle.to_tensor(images))[0])[:, 0].numpy()
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("size", [(48, 48), (48, 64), (16, 64)])
def test_another_image_size_gives_tables_of_that_window(goldens_dir, tmp_path, size):
    for stem in ("finetune", "finetune_abs", "vqkd", "pretrain_cls_a", "upernet_model"):
        model = one(goldens_dir, stem)
        source, target = model.write(tmp_path), tmp_path / f"{stem}.safetensors"
        patch = model.state[next(n for n in model.state if n.endswith("patch_embed.proj.weight"))].shape[-1]
        wanted = tuple(pixels * patch // 8 for pixels in size)
        convert_file(source, target, image_size=wanted, hints=model.hints, force=True)
        found = read_model(target)
        network = build(found, stem)  # strict: every table has the shape of that window
        trunk = getattr(network, "encoder", None) or getattr(network, "backbone", None) or network
        assert trunk.image_size == wanted
        assert not any(name.endswith("relative_position_index") for name in found.unmapped)
        back = tmp_path / f"{stem}.pth"
        convert_file(target, back, "official")  # the windows are found again from the index beside each table
        tables = [array for name, array in found.weights.items() if name.endswith(("table", "pos_embed"))]
        assert tables
        sizes = None if any("relative" in name for name in found.weights) else wanted
        again = read_model(back, model.hints._replace(size=sizes))
        assert_same_tensors(again.weights, found.weights)


def test_a_size_that_is_no_whole_number_of_patches_is_refused(goldens_dir, tmp_path):
    model = one(goldens_dir, "finetune")
    with pytest.raises(ConfigError, match="--image-size 50,48: no whole number of patches"):
        convert_file(model.write(tmp_path), tmp_path / "x.safetensors", image_size=(50, 48))


def test_targets_are_protected(goldens_dir, tmp_path):
    model = one(goldens_dir, "finetune")
    source, target = model.write(tmp_path), tmp_path / "x.safetensors"
    convert_file(source, target)
    before = target.read_bytes()
    for arguments, message in [
        ((source, target), "exists already.*--force"), ((target, target, "ours"), "this is the source itself"),
        ((source, tmp_path / "x.bin"), r"ending in \.safetensors"), ((tmp_path / "none.pth", target), "no such run"),
        ((source, tmp_path, "ours"), "ending in"), ((source, target, "huggingface"), "is a file"),
    ]:
        with pytest.raises(CheckpointError, match=message):
            convert_file(*arguments)
    with pytest.raises(ConfigError, match="--to onnx: expected one of|--to 'onnx'"):
        convert_file(source, target, "onnx")
    assert target.read_bytes() == before
    convert_file(source, target, force=True)
    assert target.read_bytes() == before


def test_a_damaged_description_is_refused(goldens_dir, tmp_path):
    model = one(goldens_dir, "finetune")
    convert_file(model.write(tmp_path), tmp_path / "x.safetensors")
    tensors, rest = read_tensors(tmp_path / "x.safetensors")
    described = json.loads(rest["architecture"])
    changes = [{"depth": 10**9}, {"image_size": [10**6, 10**6]}, {"patch_size": [0, 0]}, {"width": "x"},
               {"num_heads": -1}, {"depth": 1e308},
               {"width": 10**9}]  # before: minutes, all memory, or an error without the file's name
    for change, message in [({"architecture": "{}"}, "description is damaged"), ({"kind": "gan"}, "kind 'gan'"),
                            ({"schema_version": "9"}, "version 9"),
                            *(({"architecture": json.dumps({**described, **one})}, "") for one in changes)]:
        write_safetensors(tmp_path / "y.safetensors", tensors, {**rest, **change})
        for read in (read_model, lambda path: read_checkpoint(str(path))):
            with pytest.raises(CheckpointError, match=rf"y\.safetensors: .*{message}"):
                read(tmp_path / "y.safetensors")


def rewritten(path, change):
    """The converted file with `change(architecture)` as its description, and the description before."""
    tensors, rest = read_tensors(path)
    architecture = json.loads(rest["architecture"])
    changed = json.loads(rest["architecture"])
    change(changed)
    write_safetensors(path, tensors, {**rest, "architecture": json.dumps(changed)})
    return architecture


def test_a_keyword_that_came_after_a_file_means_what_models_were_before_it(model, tmp_path):
    """Of every kind: a file that lacks keywords is read as one that has them with their defaults."""
    kind = find_kind(model.kind)
    path = tmp_path / "ours.safetensors"
    convert_file(model.write(tmp_path), path, hints=model.hints)

    def as_before(architecture):
        for part in kind.trunks or ("",):
            inside = architecture[part] if part else architecture
            later = set(inside) - {*NEEDED, *kind.untold, *kind.trunks}
            assert later
            for name in later:
                del inside[name]

    whole = rewritten(path, as_before)
    found = read_model(path)
    assert found.architecture == whole
    build(found, str(path))
    if kind.backbone is not None:
        assert architecture_of(path).options["norm_eps"] == 1e-6


def test_a_keyword_of_a_newer_version_is_named_with_both_versions(model, tmp_path):
    kind = find_kind(model.kind)
    path = tmp_path / "ours.safetensors"
    convert_file(model.write(tmp_path), path, hints=model.hints)
    tensors, rest = read_tensors(path)
    write_safetensors(path, tensors, {**rest, "version": "9.1.0"})
    for part in dict.fromkeys(("", *kind.trunks)):
        whole = rewritten(path, lambda architecture, part=part:
                          (architecture[part] if part else architecture).update(registers=4))
        keyword = f"{part}.registers" if part else "registers"
        both = rf"ours\.safetensors: {keyword}: .*{kind.package} {__version__} does not know.*9\.1\.0.*Install"
        with pytest.raises(CheckpointError, match=both):
            read_model(path)
        rewritten(path, lambda architecture, whole=whole: (architecture.clear(), architecture.update(whole)))
    read_model(path)


def test_the_block_of_the_cls_head_is_asked_for(goldens_dir, tmp_path):
    model = one(goldens_dir, "pretrain_cls_a")
    heads = {"num_heads": model.hints.values["num_heads"]}
    convert_file(model.write(tmp_path), tmp_path / "x.safetensors", hints=Hints(values=heads))
    with pytest.raises(CheckpointError, match="--set early_layers=9"):
        build(read_model(tmp_path / "x.safetensors"), "x")


def test_the_commands_convert_prove_and_notice_a_change(goldens_dir, tmp_path):
    model = one(goldens_dir, "finetune")
    source = model.write(tmp_path)

    def run(*arguments, code=0):
        result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output
        return result.output

    shown = run("convert", source, tmp_path / "x.safetensors")
    assert "classifier, official" in shown and "55 tensors" in shown
    shown = run("verify", tmp_path / "x.safetensors", "--against", source)
    assert "FAIL" not in shown and f"{len(model.state)} tensors of the file, converted back" in shown
    run("convert", source, tmp_path / "x.safetensors", code=2)
    shown = run("inspect", tmp_path / "x.safetensors")
    assert "kind: classifier, converted from official" in shown and "num_heads: 3" in shown
    changed = {**model.state, "blocks.0.attn.q_bias": model.state["blocks.0.attn.v_bias"],
               "blocks.0.attn.v_bias": model.state["blocks.0.attn.q_bias"]}
    write_torch(tmp_path / "changed.pth", changed, "model")
    run("convert", tmp_path / "changed.pth", tmp_path / "x.safetensors", "--force")
    shown = run("verify", tmp_path / "x.safetensors", "--against", source, code=1)
    assert "FAIL" in shown and "blocks.0.attn" in shown
    run("convert", source, tmp_path / "r.safetensors", "--image-size", "48,64")
    run("verify", tmp_path / "r.safetensors", "--against", source)
    run("convert", source, tmp_path / "z.safetensors", "--image-size", "x", code=2)


def test_a_run_is_written_for_others_with_the_settings_it_was_trained_with(tmp_path):
    from beitv2_core.assembly.models import build_mim
    from beitv2_core.checkpoint.store import CheckpointStore
    from beitv2_core.config import PretrainConfig

    model = {"width": 24, "depth": 3, "num_heads": 2, "patch_size": 8, "early_layers": 2, "head_layers": 1,
             "positions": "shared_relative", "norm_eps": 1e-5}
    config = PretrainConfig.model_validate({
        "data": {"dataset": "folder", "root": "images", "image_size": [16, 32]},
        "model": model, "output": str(tmp_path / "run"),
        "tokenizer": {"weights": "none"}, "mask": {"num_masked": 3, "min_block": 1}, "optim": {"epochs": 1, "lr": 1e-3},
        "train": {"batch_size": 2},
    })
    network = build_mim(config.model, image_size=config.data.image_size, num_codes=16)
    weights = {name: value.numpy() for name, value in network.state_dict().items()}
    CheckpointStore(tmp_path / "run" / "checkpoints").save(1, weights, {}, {}, config.resolved())
    done = convert_file(tmp_path / "run", tmp_path / "run.pth", "official")
    assert done.kind == "pretraining"
    a = done.architecture
    assert (a["image_size"], a["num_heads"], a["early_layers"], a["norm_eps"]) == ([16, 32], 2, 2, 1e-5)
    again = read_model(tmp_path / "run.pth", Hints(values={"early_layers": 2}))
    assert_same_tensors(again.weights, weights)
    convert_file(tmp_path / "run", tmp_path / "run.safetensors")
    assert_same_tensors(read_model(tmp_path / "run.safetensors").weights, weights)
