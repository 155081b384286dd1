# SPDX-License-Identifier: Apache-2.0
"""Whatever names the classes of what is measured (folders, lists of names or numbers), they are the model's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cls_runs import COLOURS, CONFIG, paint, run
from typer.testing import CliRunner

from beitv2_cls.assembly import build_finetuning, finetuning_parts, load_classifier
from beitv2_cls.config import FinetuneConfig
from beitv2_cls.data import build_data
from beitv2_core import cli
from beitv2_core.config import load_config
from beitv2_core.errors import BEiTError

runner = CliRunner()


def settings_of(images: Path, output: Path, *more: str) -> list[str]:
    return ["data.dataset=folder", f"data.root={images}/train", "data.size=null", "data.image_size=32",
            f"validation.root={images}/val", "pretrained.weights=null", "model.width=24", "model.depth=2",
            "model.num_heads=2", "train.batch_size=6", "train.log_every=5", "train.save_every=6", "optim.steps=12",
            "optim.warmup_steps=2", "optim.lr=3.0e-3", f"output={output}", *more]


def config_of(images: Path, output: Path, *more: str) -> FinetuneConfig:
    return load_config(CONFIG, settings_of(images, output, *more), FinetuneConfig)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    paint(folder / "train", 6)
    paint(folder / "val", 2)
    return folder


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory) -> Path:
    """A run that tells the three colours apart without a mistake."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    run("finetune", CONFIG, "--set", *settings_of(images, folder))
    assert json.loads((folder / "summary.json").read_text())["final"]["val_acc1"] == 1.0
    return folder


def measured(trained: Path, output: Path, *arguments) -> dict:
    run("evaluate", trained, "-o", output, *arguments)
    return json.loads((output / "evaluation.json").read_text())


LISTS = {
    "two of three names": "dog/0.png dog\nfox/1.png fox\n",
    "names in another order": "fox/0.png fox\ncat/0.png cat\ndog/0.png dog\n",
    "numbers": "dog/0.png 1\nfox/0.png 2\n",
    "a byte order mark, CRLF and a blank last line": "\ufeffdog/0.png dog\r\nfox/0.png fox\r\n\r\n",
    "backslashes": "dog\\0.png dog\nfox\\1.png fox\n",
    "tabs": "dog/0.png\tdog\nfox/1.png\tfox\n",
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_a_list_is_read_with_the_numbers_of_the_model(trained, images, tmp_path, text):
    (tmp_path / "list.txt").write_bytes(text.encode())
    found = measured(trained, tmp_path / "out", "--data", images / "val", "--list-file", tmp_path / "list.txt")
    assert (found["top1"], found["images"]) == (1.0, len(text.split()) // 2)


@pytest.mark.parametrize("text, said", [("dog/0.png wolf\n", "wolf"), ("dog/0.png 3\n", "3"),
                                        ("dog/0.png dog\nfox/0.png 2\n", "list.txt, line 2"),
                                        ("dog/0.png\n", "list.txt, line 1")])
def test_a_label_that_is_no_class_of_the_model_is_named(trained, images, tmp_path, text, said):
    (tmp_path / "list.txt").write_text(text)
    shown = run("evaluate", trained, "--data", images / "val", "--list-file", tmp_path / "list.txt", "-o", tmp_path,
                code=2)
    assert said in " ".join(shown.split()) and "--list-file" in shown
    assert not (tmp_path / "evaluation.json").exists()


def test_folders_may_lack_a_class_but_not_have_another(trained, images, tmp_path, caplog):
    paint(tmp_path / "two", 2, {name: COLOURS[name] for name in ("dog", "fox")})
    assert measured(trained, tmp_path, "--data", tmp_path / "two")["top1"] == 1.0
    rows = (tmp_path / "per_class.csv").read_text().splitlines()
    assert rows == ["class,images,top1", "cat,0,nan", "dog,2,1.000000", "fox,2,1.000000"]
    paint(tmp_path / "other", 1, {"dog": COLOURS["dog"], "wolf": COLOURS["fox"]})
    shown = " ".join(run("evaluate", trained, "--data", tmp_path / "other", code=2).split())
    assert "wolf" in shown and "--data" in shown and "cat, dog, fox" in shown


def test_validation_of_a_run_is_numbered_by_its_training_images(images, tmp_path):
    """Folders with fewer classes, names and numbers in lists: all give what the run's own folders give."""
    from beitv2_cls.data import build_data

    (tmp_path / "names.txt").write_text("fox/0.png fox\ndog/1.png dog\n")
    (tmp_path / "numbers.txt").write_text("fox/0.png 2\ndog/1.png 1\n")
    for name in ("names", "numbers"):
        _, validation = build_data(config_of(images, tmp_path / "run", f"validation.list_file={tmp_path}/{name}.txt"))
        assert validation.classes == ["cat", "dog", "fox"] and validation.labels.tolist() == [2, 1]
    paint(tmp_path / "two", 1, {name: COLOURS[name] for name in ("dog", "fox")})
    _, validation = build_data(config_of(images, tmp_path / "run", f"validation.root={tmp_path}/two"))
    assert validation.labels.tolist() == [1, 2]
    (tmp_path / "wolf.txt").write_text("fox/0.png wolf\n")
    with pytest.raises(BEiTError, match="wolf.*validation.list_file"):
        build_data(config_of(images, tmp_path / "run", f"validation.list_file={tmp_path}/wolf.txt"))
    with pytest.raises(BEiTError, match="validation.root.*nowhere"):
        build_data(config_of(images, tmp_path / "run", f"validation.root={tmp_path}/nowhere"))


def test_a_training_list_that_counts_from_1_is_told_so(images, tmp_path):
    (tmp_path / "train.txt").write_text("".join(
        f"train/{name}/0.png {number}\n" for number, name in enumerate(COLOURS, start=1)))
    config = config_of(images, tmp_path / "run", f"data.root={images}", f"data.list_file={tmp_path}/train.txt")
    with pytest.raises(BEiTError, match=r"train\.txt: no image of class 0 .*from 1.*from 0"):
        build_data(config)


def links_to(images: Path, folder: Path) -> Path:
    for name in COLOURS:
        (folder / name).mkdir(parents=True)
        (folder / name / "x.png").symlink_to(images / "train" / name / "0.png")
    return folder


def test_links_to_training_images_are_no_test_images(trained, images, tmp_path):
    said = run("knn", trained, "--data", images / "train", "--test", links_to(images, tmp_path / "links"), code=2)
    assert "3 of 3 files are in both" in said


def test_a_fine_tuning_measured_on_its_training_images_says_so(images, tmp_path, caplog):
    linked, apart = links_to(images, tmp_path / "links"), images / "val"
    for validation, count in ((linked, 1), (apart, 0)):
        caplog.clear()
        finetuning_parts(config_of(images, tmp_path / "run", f"validation.root={validation}"))
        found = [line for line in caplog.messages if "3 of 3 files are training images" in line]
        assert len(found) == count and all("validation.root" in line for line in found)


@pytest.mark.parametrize("change, said", [
    (["validation.root=null", "validation.list_file=x.txt"], "validation.list_file: x.txt .*validation.root=FOLDER"),
    (["data.dataset=digit_scenes", "data.root=null", "data.size=20"], "validation.root: .*/val .*digit_scenes"),
    (["data.dataset=digit_scenes", "data.root=null", "data.size=20", "validation.root=null",
      "validation.list_file=x.txt"], "validation.list_file: x.txt .*digit_scenes"),
])
def test_validation_settings_that_are_not_read_are_refused(images, tmp_path, change, said):
    with pytest.raises(BEiTError, match=said):
        build_data(config_of(images, tmp_path / "run", *change))


def test_a_stopped_run_and_each_checkpoint_know_their_classes(images, tmp_path):
    loop = build_finetuning(config_of(images, tmp_path / "run"))
    loop.run(stop_after=6)
    checkpoint = tmp_path / "run/checkpoints/step_000006.pdckpt"
    assert json.loads((tmp_path / "run/classes.json").read_text()) == ["cat", "dog", "fox"]
    assert load_classifier(str(tmp_path / "run"))[2] == ["cat", "dog", "fox"]
    shutil.copytree(checkpoint, tmp_path / "alone/step_000006.pdckpt")
    alone = tmp_path / "alone/step_000006.pdckpt"
    assert load_classifier(str(alone))[2] == ["cat", "dog", "fox"]
    shown = run("predict", alone, images / "val/dog/0.png", "--json")
    assert {entry["name"] for entry in json.loads(shown.splitlines()[-1])["classes"]} == {"cat", "dog", "fox"}
    run("export", alone, "-f", "paddle", "-o", tmp_path / "model")
    assert json.loads((tmp_path / "model/model.json").read_text())["classes"] == ["cat", "dog", "fox"]


def test_the_classes_are_written_before_the_first_step(images, tmp_path):
    loop = build_finetuning(config_of(images, tmp_path / "run"))
    seen = []
    take = loop._take_step
    loop._take_step = lambda batches: (seen.append((tmp_path / "run/classes.json").read_text()), take(batches))
    loop.run(stop_after=1)
    assert json.loads(seen[0]) == ["cat", "dog", "fox"]


@pytest.mark.parametrize("names, said", [
    (("cat", "dog", "wolf"), ["fox", "wolf"]), (("cat", "dog"), ["fox"]), (("bee", "cat", "dog", "fox"), ["bee"])])
def test_a_resume_with_other_classes_names_the_difference(images, tmp_path, names, said):
    build_finetuning(config_of(images, tmp_path / "run")).run(stop_after=6)
    colours = [*COLOURS.values(), (200, 200, 0)]
    for part in ("train", "val"):
        paint(tmp_path / "other" / part, 6, dict(zip(names, colours)))
    with pytest.raises(BEiTError, match="other classes") as error:
        build_finetuning(config_of(tmp_path / "other", tmp_path / "run")).run()
    assert all(name in str(error.value) for name in said)


def test_measuring_needs_no_training_folder_and_a_checkpoint_writes_into_its_run(images, tmp_path):
    shutil.copytree(images, tmp_path / "moved")
    run("finetune", CONFIG, "--set", *settings_of(tmp_path / "moved", tmp_path / "run"))
    shutil.rmtree(tmp_path / "moved/train")
    checkpoint = tmp_path / "run/checkpoints/step_000012.pdckpt"
    before = sorted(path.name for path in checkpoint.iterdir())
    shown = run("evaluate", checkpoint)
    assert "top-1 100.00 %" in shown and f"written: {tmp_path / 'run/per_class.csv'}" in shown
    assert sorted(path.name for path in checkpoint.iterdir()) == before
    shutil.rmtree(tmp_path / "moved/val")
    assert "validation.root" in run("evaluate", checkpoint, code=2)
    assert "--data" in run("evaluate", checkpoint, "--list-file", tmp_path / "list.txt", code=2)


def test_worker_processes_change_nothing(trained, tmp_path):
    alone, helped = (measured(trained, tmp_path / count, "--num-workers", count, "-b", "4") for count in ("0", "2"))
    assert alone == helped


def test_classes_without_utf8_names_are_written_everywhere(images, tmp_path):
    """Folders named in GBK, as an old archive unpacks, and in UTF-8: nothing dies after measuring."""
    names = {"\u732b": COLOURS["cat"], "\u72d7".encode("gbk").decode("utf-8", "surrogateescape"): COLOURS["dog"]}
    for part in ("train", "val"):
        paint(tmp_path / "images" / part, 6, names)
    folder = tmp_path / "run"
    run("finetune", CONFIG, "--set", *settings_of(tmp_path / "images", folder))
    run("evaluate", folder)
    rows = (folder / "per_class.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert rows == ["\u732b,6,1.000000", "\\xb9\\xb7,6,1.000000"]
    assert (folder / "figures/confusion.png").read_bytes()[:4] == b"\x89PNG"
    result = runner.invoke(cli.app, ["predict", str(folder), str(tmp_path / "images/val"), "--json"])
    lines = [json.loads(line) for line in result.stdout_bytes.decode("utf-8").splitlines() if line.startswith("{")]
    assert len(lines) == 12 and lines[0]["classes"][0]["name"] == "\u732b"
    assert Path(lines[-1]["path"]).parent.name in names and Path(lines[-1]["path"]).is_file()
    assert lines[-1]["classes"][0]["name"] == "\\xb9\\xb7"
    assert "\\xb9\\xb7" in run("predict", folder, tmp_path / "images/val")
    run("knn", folder, "--data", tmp_path / "images/train", "--test", tmp_path / "images/val", "-k", "1")
    run("export", folder, "-f", "paddle", "-o", tmp_path / "model")
    exported = json.loads((tmp_path / "model/model.json").read_text(encoding="utf-8"))
    assert exported["classes"] == ["\u732b", "\\xb9\\xb7"]
