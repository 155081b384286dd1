# SPDX-License-Identifier: Apache-2.0
"""Both stages in one folder: the same to the bit by command, file and after a kill; every command takes the folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from e2e_runs import assert_same_end
from PIL import Image
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.api.embed import embed
from beitv2_core.assembly import load_mim, load_tokenizer
from beitv2_core.assembly.loaded_weights import read_checkpoint, stage_of
from beitv2_core.config import load_config
from beitv2_core.engine.loop import TrainLoop
from beitv2_core.exporting.sources import find_exportable

#: models and lengths of a run of seconds; everything else is chosen
TINY = ["tokenizer.encoder.width=24", "tokenizer.encoder.depth=1", "tokenizer.encoder.num_heads=2",
        "tokenizer.decoder.width=24", "tokenizer.decoder.num_heads=2", "pretrain.model.width=24",
        "pretrain.model.depth=2", "pretrain.model.num_heads=2", "pretrain.model.early_layers=1",
        "tokenizer.optim.steps=12", "pretrain.optim.steps=8", "tokenizer.train.batch_size=8",
        "pretrain.train.batch_size=8", "tokenizer.train.save_every=2", "pretrain.train.save_every=2"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    draws = np.random.RandomState(0)
    for number in range(40):
        coarse = Image.fromarray(draws.randint(0, 256, (4, 4, 3)).astype(np.uint8))
        coarse.resize((36, 32), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


def beitv2(*arguments):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def told(result) -> str:
    """All that a command wrote; older versions of click keep its errors among the output."""
    try:
        return result.output + result.stderr
    except ValueError:
        return result.output


def pretrain(images, run, *more, minutes="0.3"):
    return beitv2("pretrain", images, "-o", run, "--minutes", minutes, "--set", *TINY, *more)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = pretrain(images, folder)
    assert done.exit_code == 0, done.output
    (folder / "said.txt").write_text(done.stdout, encoding="utf-8")
    return folder


def same(one: Path, other: Path) -> None:
    for stage in ("tokenizer", "pretrain"):
        assert_same_end(one / stage, other / stage)


def test_every_choice_is_said_with_its_reason_and_stands_in_the_file(run):
    config, said = load_config(run / "config.yml"), (run / "said.txt").read_text(encoding="utf-8")
    assert config.chosen.minutes == 0.3 and set(config.chosen.seconds_per_step) == {"tokenizer", "pretrain"}
    assert "40 images; 40 of them looked at: all 36 x 32 pixels" in said
    for key, reason in config.chosen.reasons.items():
        assert f": {reason}\n" in said and key in said
    assert "pretrain.optim.steps = 8: given by --set" in said
    assert "pretrain.model.width = 24 x 2 blocks: given by --set" in said
    assert "tokenizer.data.held_out, pretrain.data.held_out = 4: " in said  # as --set takes them
    assert config.tokenizer.data.image_size == config.pretrain.data.image_size == 32
    assert config.tokenizer.encoder.patch_size == config.pretrain.model.patch_size == 8


def test_it_ends_with_a_report_on_images_that_were_held_out_and_a_verdict(run):
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    assert load_config(run / "config.yml").tokenizer.data.held_out == summary["report"]["images"] == 4
    assert summary["stages"]["pretrain"]["steps"] == 8 and summary["seconds"]["total"] > 0
    assert all(Path(figure).is_file() for figure in summary["report"]["figures"])
    said = (run / "said.txt").read_text(encoding="utf-8")
    assert f"verdict: {summary['verdict']['state']}" in said and "4 test images" in said


def test_there_is_a_picture_of_the_codes_before_the_backbone_is_trained(run):
    said = (run / "said.txt").read_text(encoding="utf-8")
    picture = f"{run / 'figures' / 'code_map.png'}: a first picture"
    assert said.index(picture) < said.index(f"{run / 'pretrain'}: training")


@pytest.mark.parametrize("full", ["beitv2_core.viz.codebook.code_map", "beitv2_core.evaluation.report.make_report"])
def test_a_full_disk_at_a_figure_is_told_and_the_same_command_goes_on(run, tmp_path, monkeypatch, full):
    def no_space(*given, **named):
        raise OSError(28, "No space left on device")

    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    (folder / "summary.json").unlink()
    (folder / "figures" / "code_map.png").unlink()
    with monkeypatch.context() as disk:
        disk.setattr(full, no_space)
        done = beitv2("pretrain", folder / "config.yml", "-o", folder)
    assert done.exit_code == 2 and "No space left" in told(done) and "continue with --resume auto" in told(done)
    done = beitv2("pretrain", folder / "config.yml", "-o", folder)
    assert done.exit_code == 0 and (folder / "figures" / "code_map.png").is_file(), told(done)


@pytest.fixture
def unjudged(monkeypatch):
    """Runs end with their training: the report is made once, in `run`."""
    monkeypatch.setattr("beitv2_core.two_stages.run._conclude", lambda *_: {})


def test_its_file_gives_the_same_run_to_the_bit(run, tmp_path, unjudged):
    done = beitv2("pretrain", run / "config.yml", "-o", tmp_path / "again")
    assert done.exit_code == 0, done.output
    same(run, tmp_path / "again")


@pytest.mark.slow
def test_the_same_command_continues_to_the_same_bits_and_measures_nothing(images, run, tmp_path, monkeypatch, unjudged):
    """Killed in each stage."""
    whole, killed, ends = TrainLoop._take_step, tmp_path / "killed", ["tokenizer", "pretrain"]

    def dying(loop, batches):
        whole(loop, batches)
        if loop.title == ends[0] and loop.step == 5:
            raise KeyboardInterrupt  # nothing is saved after step 4

    config = load_config(run / "config.yml", [f"output={killed}"])
    killed.mkdir()
    (killed / "config.yml").write_bytes((run / "config.yml").read_bytes())  # as the command wrote it before it trained
    monkeypatch.setattr(TrainLoop, "_take_step", dying)
    monkeypatch.setattr("beitv2_core.two_stages.run.draft", lambda request: pytest.fail("chosen anew"))
    for stage in list(ends):
        assert isinstance(pretrain(images, killed).exception, (KeyboardInterrupt, SystemExit))
        assert read_checkpoint(str(killed / stage)).step == 4
        ends[:] = ["pretrain"] if stage == "tokenizer" else ["none"]
    done = pretrain(images, killed)
    assert done.exit_code == 0, done.output
    assert load_config(killed / "config.yml") == config
    same(run, killed)


@pytest.mark.parametrize(("more", "minutes", "message"), [
    ((), "5", "--minutes: 0.3 -> 5"), (("seed=1",), "0.3", "--set: "), ((), "0.3", "IMAGES: ")])
def test_other_options_than_the_first_time_are_an_error_with_the_way_out(run, images, tmp_path, more, minutes, message):
    given = tmp_path if message == "IMAGES: " else images
    done = pretrain(given, run, *more, minutes=minutes)
    assert done.exit_code == 2 and message in told(done) and "Type the same command to continue it" in told(done)


def test_a_finished_run_is_left_as_it_is(run, images):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("step_*.pdckpt/*")}
    done = pretrain(images, run)
    assert done.exit_code == 0, done.output
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("step_*.pdckpt/*")}
    assert done.stdout.count("finished before") == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (["nothing-there", "-o", "RUN"], "does not exist. Give a folder of images"),
    (["IMAGES"], "add -o RUN"),
    (["IMAGES", "-o", "RUN", "--set", "pretrain.optim.stepz=3"], "Did you mean 'steps'?"),
    (["IMAGES", "-o", "RUN", "--set", "output=x"], "the run folder is given by -o"),
    (["IMAGES", "-o", "RUN", "--resume", "x.pdckpt"], "continues from its newest checkpoint by itself"),
    (["CONFIG", "-o", "RUN", "--minutes", "3"], "minutes are for IMAGES"),
    (["CONFIG", "-o", "RUN", "--dry-run"], "whose second needs the first"),
])
def test_what_cannot_be_done_is_one_sentence(run, images, tmp_path, arguments, message):
    places = {"RUN": tmp_path / "run", "IMAGES": images, "CONFIG": run / "config.yml"}
    done = beitv2("pretrain", *(places.get(word, word) for word in arguments))
    assert done.exit_code == 2 and message in told(done)
    assert not (tmp_path / "run" / "config.yml").exists()


def test_a_folder_of_another_run_is_refused(run, images):
    done = pretrain(images, run / "pretrain")
    assert done.exit_code == 2 and "holds a 'pretrain' run. Choose another folder" in told(done)


def test_a_dry_run_says_what_would_be_chosen_and_writes_nothing(images, tmp_path):
    done = pretrain(images, tmp_path / "run", "--dry-run")
    assert done.exit_code == 0, done.output
    assert "pretrain.optim.lr = " in done.stdout and not (tmp_path / "run").exists()


def test_ten_images_of_one_colour_are_refused_before_training(tmp_path):
    for number in range(10):
        Image.new("RGB", (32, 32), (20 * number, 40, 90)).save(tmp_path / f"{number}.png")
    done = beitv2("pretrain", tmp_path, "-o", tmp_path / "run")
    assert done.exit_code == 2 and "of one colour each, so there is nothing to learn" in told(done)


def test_every_reader_of_runs_takes_the_folder_and_finds_its_stage(run, images):
    assert load_tokenizer(run).num_codes == load_tokenizer(run / "tokenizer").num_codes
    assert load_mim(run)[1] == load_mim(run / "pretrain")[1]
    assert read_checkpoint(str(run)).path.parent.parent == run / "pretrain"
    assert stage_of(run, ("tokenizer",)) == run / "tokenizer" and stage_of(run) == run / "pretrain"
    drawn = (run / "figures" / "code_histogram.png").read_bytes()
    for command in (["inspect", run], ["codebook", run, "--data", "digit_scenes", "--limit", "8"],
                    ["plan", run / "pretrain" / "config.yml", "--set", f"tokenizer.weights={run}"]):
        done = beitv2(*command)
        assert done.exit_code == 0, done.output
    assert (run / "codebook" / "codebook.json").is_file()
    assert (run / "figures" / "code_histogram.png").read_bytes() == drawn  # the report's own stays
    assert find_exportable(str(run)).facts["kind"] == "features"
    codes = embed(images / "0.png", run, what="codes")
    assert codes.features.dtype.kind == "u" and codes.features.max() < load_tokenizer(run).num_codes


def test_while_only_the_tokenizer_has_begun_it_is_what_the_folder_means(run, tmp_path):
    (tmp_path / "tokenizer").symlink_to(run / "tokenizer")
    assert stage_of(tmp_path) == stage_of(tmp_path, ("pretraining",)) == tmp_path / "tokenizer"
