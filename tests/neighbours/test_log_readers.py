# SPDX-License-Identifier: Apache-2.0
"""What a run logs is read by VisualDL's and TensorBoard's own readers, a continued run's steps once."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from beitv2_core.assembly.training import find_trackers
from beitv2_core.engine.run_folder import RunFolder

STARTS = ((0, (1, 2, 3)), (2, (3, 4)))  # after which step, and the steps that are logged: killed after the second


def log(folder, trackers) -> None:
    """The loss is the step, in the second start half a step more."""
    Image.new("RGB", (6, 4), "white").save(folder / "a.png")
    for number, (start, steps) in enumerate(STARTS):
        if number:
            time.sleep(1.1)  # TensorBoardX names its files by the second
        run = RunFolder(folder / "run", find_trackers(trackers))
        run.open()
        run.start_metrics(start, {"optim": {"lr": 1e-3}})
        for step in steps:
            run.log(step, {"loss": step + 0.5 * number})
        run.log_figure("curves", folder / "a.png", steps[-1])
        run.close()


def test_visualdls_reader_finds_scalars_and_figures(tmp_path):
    visualdl = pytest.importorskip("visualdl", reason="VisualDL is not installed: pip install visualdl")
    log(tmp_path, [])
    found = {}
    for path in sorted((tmp_path / "run/visualdl").iterdir()):
        reader = visualdl.LogReader(file_path=str(path))
        tags = reader.get_tags()
        assert "loss" in tags["scalar"] and "curves" in tags["image"]
        found.update({record.id: record.value for record in reader.get_data("scalar", "loss")})
        assert reader.get_data("image", "curves")
    assert found == {1: 1.0, 2: 2.0, 3: 3.5, 4: 4.5}


@pytest.mark.peers
def test_tensorboards_reader_finds_scalars_and_figures(tmp_path):
    pytest.importorskip("tensorboardX", reason="TensorBoardX is not installed: `make test-peers`")
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator",
                                      reason="TensorBoard is not installed: `make test-peers`")
    log(tmp_path, ["tensorboard"])
    reader = accumulator.EventAccumulator(str(tmp_path / "run/tensorboard"))
    reader.Reload()
    assert [(one.step, one.value) for one in reader.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 3.5), (4, 4.5)]
    (*_, image) = reader.Images("curves")
    assert (image.step, image.width, image.height) == (4, 6, 4) and np.frombuffer(image.encoded_image_string, "u1").size
