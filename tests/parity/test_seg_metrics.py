# SPDX-License-Identifier: Apache-2.0
"""Areas, IoU, accuracy and their means against mmsegmentation's."""

from __future__ import annotations

import numpy as np
import pytest
from golden_io import group, load_golden

from beitv2_core.errors import ShapeError
from beitv2_seg.reading.metrics import ConfusionMatrix

SUBJECT = ("seg_metrics",)


def test_every_recorded_case(fixture_path):
    arrays, meta = load_golden(fixture_path)
    compared = 0
    for case, result in meta["results"].items():
        at, num_classes = group(arrays, case), meta["config"]["num_classes"]
        if "nan_to_num" in result["args"]:
            continue  # an option of theirs that puts a number where a class is absent; ours leaves the class out
        label = at["label"].astype(np.int64)
        if result["args"].get("reduce_zero_label"):
            label = np.where(label == 0, 255, label - 1)
            label[label == 254] = 255
        matrix = ConfusionMatrix(num_classes)
        kept = label != 255
        if max(label[kept].max(initial=0), at["pred"][kept].max(initial=0)) >= num_classes:
            with pytest.raises(ShapeError, match="classes"):
                matrix.add(at["pred"].astype(np.int64), label)
            continue
        for prediction, truth in zip(at["pred"], label):
            matrix.add(prediction, truth)
        hit, labelled, predicted = np.diag(matrix.counts), matrix.counts.sum(1), matrix.counts.sum(0)
        np.testing.assert_array_equal(hit, at["intersect"], err_msg=case)
        np.testing.assert_array_equal(labelled, at["label_area"], err_msg=case)
        np.testing.assert_array_equal(predicted, at["pred_area"], err_msg=case)
        np.testing.assert_array_equal(labelled + predicted - hit, at["union"], err_msg=case)
        scores = matrix.scores()
        np.testing.assert_allclose(scores.iou, at["iou_per_class"], rtol=1e-12, err_msg=case)
        np.testing.assert_allclose(scores.accuracy, at["acc_per_class"], rtol=1e-12, err_msg=case)
        for name, value in (("mIoU", scores.miou), ("mAcc", scores.macc), ("aAcc", scores.aacc)):
            reference = result[name]
            assert value == pytest.approx(np.nan if reference is None else reference, rel=1e-9, nan_ok=True), case
        compared += 1
    assert compared >= 3
