# SPDX-License-Identifier: Apache-2.0
"""PaddleSeg's own, unmodified scripts of a source checkout run our configs; needs PADDLESEG_HOME."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from seg_runs import segment, write_ade20k

HOME = os.environ.get("PADDLESEG_HOME")
pytestmark = [pytest.mark.skipif(HOME is None, reason="PADDLESEG_HOME names no PaddleSeg checkout"), pytest.mark.slow]
CONFIG = """
_base_: {base}
batch_size: 2
total_batch: 2
model: {{channels: 8, aux_channels: 4, backbone: {{size: null, width: 12, depth: 4, num_heads: 2, image_size: 64,
  out_indices: [0, 1, 2, 3]}}}}
iters: 2
lr_scheduler: {{total_iters: 2, warmup: 1}}
train_dataset:
  dataset_root: {root}
  transforms:
    - {{type: BEiTv2RatioRangeResize, scale: [256, 64]}}
    - {{type: BEiTv2RandomCrop, crop_size: [64, 64]}}
    - {{type: BEiTv2Normalize}}
    - {{type: BEiTv2Pad, size: [64, 64]}}
val_dataset:
  dataset_root: {root}
  transforms: [{{type: BEiTv2Resize, scale: [256, 64]}}, {{type: BEiTv2Normalize}}]
test_config: {{crop_size: [64, 64], stride: [43, 43]}}
"""


@pytest.fixture
def config(tmp_path):
    root = write_ade20k(tmp_path / "ade")
    write_ade20k(tmp_path / "ade", part="training")
    base = Path(__file__).resolve().parents[3] / "configs" / "seg" / "beitv2_upernet.yml"
    path = tmp_path / "small.yml"
    path.write_text(CONFIG.format(base=base, root=root))
    return path


def script(name, *arguments, starter=("-m", "beitv2_seg"), cwd=HOME):
    tool = os.path.relpath(f"{HOME}/tools/{name}.py", cwd)
    command = [sys.executable, *map(str, starter), tool, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def test_train_val_predict_and_export_run_unmodified_and_count_as_we_do(config, tmp_path):
    output = script("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "out", "--log_iters", 1,
                    cwd=tmp_path)
    assert "iter: 2/2" in output
    weights = tmp_path / "out" / "iter_2" / "model.pdparams"
    output = script("val", "--config", config, "--device", "cpu", "--model_path", weights,
                    starter=(Path(__file__).parents[1] / "shared/val_spy.py", tmp_path / "theirs.npy"))
    assert "#Images: 3" in output
    segment("evaluate", "--config", config, "--device", "cpu", "--model_path", weights, "--save_dir", tmp_path / "ours")
    ours, theirs = np.load(tmp_path / "ours" / "confusion.npy"), np.load(tmp_path / "theirs.npy")
    assert ours.sum() > 0
    np.testing.assert_array_equal(ours, theirs)
    script("predict", "--config", config, "--device", "cpu", "--model_path", weights, "--image_path",
           tmp_path / "ade" / "images" / "validation", "--save_dir", tmp_path / "found", cwd=tmp_path)
    assert len(list((tmp_path / "found" / "pseudo_color_prediction").iterdir())) == 3
    script("export", "--config", config, "--model_path", weights, "--save_dir", tmp_path / "exported",
           "--input_shape", 1, 3, 64, 64, cwd=Path(HOME) / "paddleseg")
    assert list((tmp_path / "exported").glob("model.*"))


def test_our_loop_runs_with_the_checkout_too(config, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([HOME, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, Path(__file__).resolve().parents[3] / "train.py", "--config", config, "--device", "cpu",
               "--save_dir", tmp_path / "run", "--do_eval", "--log_iters", "1"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "best_miou" in done.stdout and (tmp_path / "run" / "best_model" / "model.pdparams").is_file()
