# SPDX-License-Identifier: Apache-2.0
"""The monitor measures and changes nothing: same weights with it, without it and after a resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beitv2_core.assembly import build_training, training
from beitv2_core.assembly.restore import save_untrained
from beitv2_core.checkpoint.store import CheckpointStore
from beitv2_core.config import load_config
from beitv2_core.config.monitor import MonitorConfig
from beitv2_core.engine.feature_monitor import MOST_COST, PASSES_OF_A_STEP, affordable_every
from beitv2_core.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
ON = ["monitor={every: 3, images: 24, labelled: digit_scenes}"]


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    config = load_config(CONFIGS / "tokenizer/digit_scenes.yml", [
        "encoder.width=24", "encoder.depth=1", "encoder.num_heads=2", "decoder.width=24", "decoder.num_heads=2",
        f"output={folder}"])
    save_untrained(config, 49)
    return folder


@pytest.fixture
def settings(tokens, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "draw_curves", lambda run, summary: None)  # takes longer than the runs

    def made(name, *changes):
        return load_config(CONFIGS / "pretrain/digit_scenes.yml", [
            "model.width=24", "model.num_heads=2", "model.depth=2", "model.drop_path=0.3", "optim.steps=7",
            "optim.warmup_steps=1", "train.batch_size=4", "train.log_every=2", "train.save_every=4",
            f"tokenizer.weights={tokens}", f"output={tmp_path / name}", *changes])
    return made


def lines(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]


def weights(folder):
    store = CheckpointStore(folder / "checkpoints")
    return store.load(store.latest()).weights


def test_the_weights_are_the_same_to_the_bit_with_the_monitor_without_it_and_after_a_resume(settings, tmp_path):
    build_training(settings("off")).run()
    build_training(settings("on", *ON)).run()
    build_training(settings("stopped", *ON)).run(stop_after=5)
    build_training(settings("stopped", *ON)).run()
    build_training(settings("switched")).run(stop_after=4)
    build_training(settings("switched", *ON)).run()
    off = weights(tmp_path / "off")
    for other in ("on", "stopped", "switched"):
        found = weights(tmp_path / other)
        assert all(np.array_equal(off[name], found[name]) for name in off), other
    assert lines(tmp_path / "stopped") == lines(tmp_path / "on")
    measured = [row["step"] for row in lines(tmp_path / "on") if "rankme" in row]
    assert measured == [3, 6, 7] and {"rankme", "alpha_req", "acc_knn", "usage_targets", "usage_predicted",
                                      "acc_commonest"} <= set(lines(tmp_path / "on")[-1])
    assert not any("rankme" in row or "usage_targets" in row for row in lines(tmp_path / "off"))


def test_files_have_to_be_held_out_to_be_measured_on(settings, tmp_path):
    for name in ("a/0", "a/1", "a/2", "b/3", "b/4", "b/5", "b/6"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.RandomState(int(name[-1])).randint(0, 255, (40, 32, 3), np.uint8)).save(path)
    files = ["data.dataset=folder", f"data.root={tmp_path / 'images'}", "data.size=null"]
    with pytest.raises(ConfigError, match="data.held_out: null came, but monitor.every is 2"):
        settings("run", *files, "monitor.every=2")
    labelled = f"monitor.labelled={tmp_path / 'images'}"
    config = settings("run", *files, "data.held_out=3", labelled)
    assert config.monitor.every == "auto"
    loop = build_training(config)
    assert len(loop.task.monitor.images.pixels) == 3 and len(loop.task.monitor.labelled.pixels) == 7
    assert set(loop.task.monitor.measure(loop.task.model)) == {"acc_knn"}  # three images have no spectrum
    with pytest.raises(ConfigError, match="monitor.labelled.*no class folders"):
        build_training(settings("run", *files, "data.held_out=3", f"monitor.labelled={tmp_path / 'images' / 'a'}"))


def test_auto_measures_no_more_often_than_the_log_is_written(settings):
    config = settings("run", "monitor.every=auto", "monitor.images=24", "train.log_every=150")
    assert build_training(config).task.monitor.every == 150


@pytest.mark.parametrize("images, batch, every", [(512, 64, 134), (512, 2048, 5), (8, 64, 3)])
def test_auto_keeps_the_passes_below_their_share_of_the_run(images, batch, every):
    assert affordable_every(images, batch) == every
    assert images <= every * PASSES_OF_A_STEP * batch * MOST_COST
    assert MonitorConfig().every is None
