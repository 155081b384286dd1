# SPDX-License-Identifier: Apache-2.0
"""What is read from metrics.jsonl, and which panel shows it."""

from __future__ import annotations

import json
import logging

import numpy as np
import pytest

from beitv2_core.errors import DataError
from beitv2_core.viz.curves import families, read_curves, smooth, training_curves


def write(path, *lines) -> str:
    path.write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    return path


def test_a_metric_that_is_absent_from_some_lines_keeps_its_own_steps(tmp_path):
    curves = read_curves(write(tmp_path / "m", {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0, "usage": 0.5}))
    np.testing.assert_array_equal(curves["loss"], [[1, 2], [3, 2]])
    np.testing.assert_array_equal(curves["usage"], [[2], [0.5]])


def test_words_and_claims_are_no_curves(tmp_path):
    assert list(read_curves(write(tmp_path / "m", {"step": 1, "a": "x", "b": True, "c": None, "lr": 1}))) == ["lr"]


def test_every_metric_of_both_stages_has_its_panel():
    names = ("loss", "rec_loss", "loss_mim", "acc_mim", "acc_cls", "usage", "perplexity", "position_perplexity_min",
             "revived", "grad_norm", "lr", "weight_decay", "epoch", "images_per_second", "mIoU", "rankme",
             "effective_rank", "alpha_req", "acc_knn", "usage_targets", "acc_commonest")
    panels = {title: found for title, _, _, found in families({n: (np.arange(2), np.arange(2.0)) for n in names})}
    assert panels == {
        "Loss": ["loss", "rec_loss", "loss_mim"], "Accuracy": ["acc_mim", "acc_cls", "acc_knn", "acc_commonest"],
        "Effective rank": ["rankme", "effective_rank"], "alpha-ReQ": ["alpha_req"],
        "Codes used": ["usage", "usage_targets"],
        "Perplexity of the codes": ["perplexity", "position_perplexity_min"], "Codes replaced": ["revived"],
        "Gradient norm": ["grad_norm"], "Learning rate": ["lr"], "Weight decay": ["weight_decay"],
        "Speed": ["images_per_second"], "mIoU": ["mIoU"]}


def test_a_constant_weight_decay_takes_no_panel():
    assert families({"weight_decay": (np.arange(2), np.full(2, 0.05))}) == []


def test_a_running_mean_keeps_constants_and_averages_noise():
    np.testing.assert_allclose(smooth(np.full(50, 3.0), 8), 3)
    noise = np.random.RandomState(0).randn(400)
    assert smooth(noise, 20).std() < 0.4 * noise.std() and len(smooth(noise, 20)) == 400
    np.testing.assert_allclose(smooth(np.array([0.0, 3, 6, 3]), 2), [1.5, 3, 4, 4.5])


@pytest.mark.parametrize("values", [[1.0], [float("nan")] * 3, [1.0, float("inf"), 2.0], [0.0] * 60])
def test_short_flat_and_non_finite_curves_are_drawn(tmp_path, values):
    lines = [{"step": s, "loss": v, "lr": v} for s, v in enumerate(values)]
    training_curves(write(tmp_path / "m", *lines), tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 1000


def test_a_last_line_cut_short_is_left_out_with_a_warning(tmp_path, caplog):
    path = write(tmp_path / "m", {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, '{"step": 3, "lo')
    with caplog.at_level(logging.WARNING, logger="beitv2_core"):
        assert len(read_curves(path)["loss"][0]) == 2
    assert "line 3 is cut short" in caplog.text


def test_lines_that_a_power_cut_tore_are_left_out_wherever_they_are(tmp_path):
    torn = ('{"st\0\0\0\0\n', '\0\0\0\0": 2.5}\n')
    path = write(tmp_path / "m", {"step": 1, "loss": 3.0}, *torn, {"step": 4, "loss": 2.0})
    assert read_curves(path)["loss"][0].tolist() == [1, 4]


@pytest.mark.parametrize("lines, words", [
    ([], "no metrics yet"),
    ([{"step": 1}], "no metrics yet"),
    (["nonsense\n", {"step": 1, "loss": 1}], "line 1 is no JSON object"),
    ([{"loss": 1}, {"step": 1, "loss": 1}], "line 1 .* with a number \"step\""),
    (["[1]\n", {"step": 1, "loss": 1}], "line 1 is no JSON object"),
])
def test_a_file_without_metrics_is_refused_by_name_and_line(tmp_path, lines, words):
    with pytest.raises(DataError, match=words) as error:
        training_curves(write(tmp_path / "metrics.jsonl", *lines), tmp_path / "curves.png")
    assert "metrics.jsonl" in str(error.value) and not (tmp_path / "curves.png").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.jsonl: cannot be read"):
        training_curves(tmp_path / "nowhere.jsonl", tmp_path / "curves.png")
