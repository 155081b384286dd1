# SPDX-License-Identifier: Apache-2.0
"""Labels, sizes, crops, distortion, normalisation, padding and the whole training pipeline, as mmsegmentation's."""

from __future__ import annotations

import numpy as np
import pytest
from golden_io import group, load_golden

from beitv2_seg.data import transforms as T

SUBJECT = ("seg_pipeline",)


def rgb(bgr: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(bgr[:, :, ::-1])


def sample(image_bgr: np.ndarray, label: np.ndarray) -> dict:
    return {"img": rgb(image_bgr), "label": label.copy(), "gt_fields": ["label"]}


def seeds(arrays: dict, prefix: str) -> list[int]:
    return sorted({int(key.split("seed")[1].split("/")[0]) for key in arrays if key.startswith(prefix + "/seed")})


def test_labels_sizes_and_resized_images(fixture_path):
    arrays, meta = load_golden(fixture_path)
    config, names = meta["config"], {key.split("/")[1] for key in arrays if key.startswith("labels/")}
    for name in names:
        raw = arrays[f"labels/{name}/raw"]
        reduced = arrays[f"labels/{name}/reduced"]
        np.testing.assert_array_equal(T.reduce_zero_label(raw).reshape(reduced.shape), reduced)
    np.random.seed(meta["seed"])
    draw = T.BEiTv2RatioRangeResize((2048, 512), (0.5, 2.0)).draw
    for (height, width), scale, size in zip(*(arrays[f"resize_full/{k}"] for k in ("input_hw", "scale", "new_wh"))):
        box = draw()
        assert box == tuple(scale) and T.scaled_size(height, width, box) == tuple(size[::-1])
    assert np.random.rand() == meta["resize_full"]["next_numpy_rand"]
    ratios = arrays["test_full/ms_ratios"]
    for i, (height, width) in enumerate(arrays["resize_full/input_hw"]):
        assert T.scaled_size(height, width, (2048, 512)) == tuple(arrays["test_full/new_wh"][i][::-1])
        for ratio, size in zip(ratios, arrays["test_full/ms_new_wh"][i]):
            box = [int(2048 * ratio), int(512 * ratio)]
            assert T.scaled_size(height, width, box) == tuple(size[::-1])
    for seed in seeds(arrays, "resize"):
        np.random.seed(seed)
        resize = T.BEiTv2RatioRangeResize(config["img_scale"], config["ratio_range"])
        got = resize(sample(arrays["small/img_bgr"], arrays["small/label"]))
        np.testing.assert_array_equal(got["img"], rgb(arrays[f"resize/seed{seed}/img"]))
        np.testing.assert_array_equal(got["label"], arrays[f"resize/seed{seed}/label"])


def test_crop_boxes_and_the_number_of_draws(fixture_path):
    arrays, meta = load_golden(fixture_path)
    for case, about in meta["crop"].items():
        at = group(arrays, f"crop/{case}")
        name = case.split("_", 1)[1] if case.startswith("full") else None
        label = arrays[f"labels/{name}/reduced"] if name else at.get("label", arrays["small/label"])
        crop = T.BEiTv2RandomCrop(about["crop"], about["cat_max_ratio"])
        for i, seed in enumerate(at["seeds"]):
            np.random.seed(int(seed))
            box = crop.choose(label)
            assert box == tuple(at["bbox_y1y2x1x2"][i]), (case, seed)
            assert np.random.rand() == about["next_numpy_rand"][i], (case, seed)
            got = crop.__class__(about["crop"], about["cat_max_ratio"])
            np.random.seed(int(seed))
            cut = got({"img": label, "label": label, "gt_fields": ["label"]})["label"]
            assert list(cut.shape) == about["out_shape"][i]


def test_photometric_distortion(fixture_path):
    arrays, meta = load_golden(fixture_path)
    for seed in seeds(arrays, "pmd"):
        np.random.seed(seed)
        got = T.BEiTv2PhotoMetricDistortion().distort(rgb(arrays["pmd/input_bgr"]))
        assert np.random.rand() == meta["pmd"][str(seed)]["next_numpy_rand"], seed
        difference = np.abs(got.astype(int) - rgb(arrays[f"pmd/seed{seed}"]).astype(int))
        assert difference.max() <= 1, seed
    for key in group(arrays, "pmd/convert"):
        alpha, beta = (float(part) for part in key.replace("alpha", "").split("_beta"))
        got = T.scale_levels(arrays["pmd/input_bgr"], alpha, beta)
        np.testing.assert_array_equal(got, arrays[f"pmd/convert/{key}"])


def test_normalise_and_pad(fixture_path):
    arrays, meta = load_golden(fixture_path)
    data = {"img": rgb(arrays["normalize/in_bgr"]), "label": arrays["pad/label_in"], "gt_fields": ["label"]}
    data = T.BEiTv2Normalize()(data)
    np.testing.assert_allclose(data["img"], arrays["normalize/out_rgb"], atol=1e-5)
    data = T.BEiTv2Pad(meta["config"]["crop"])(data)
    np.testing.assert_allclose(data["img"], arrays["pad/img"], atol=1e-5)
    np.testing.assert_array_equal(data["label"], arrays["pad/label"])


def test_the_whole_training_pipeline(fixture_path):
    arrays, meta = load_golden(fixture_path)
    c, compared = meta["config"], 0
    steps = [T.BEiTv2RatioRangeResize(c["img_scale"], c["ratio_range"]),
             T.BEiTv2RandomCrop(c["crop"], c["cat_max_ratio"]), T.BEiTv2RandomFlip(),
             T.BEiTv2PhotoMetricDistortion(), T.BEiTv2Normalize(), T.BEiTv2Pad(c["crop"])]
    for seed in seeds(arrays, "pipeline"):
        np.random.seed(seed)
        data = sample(arrays["small/img_bgr"], arrays["small/label"])
        for step in steps:
            data = step(data)
        assert np.random.rand() == meta["pipeline"][str(seed)]["next_numpy_rand"], seed
        np.testing.assert_allclose(data["img"], arrays[f"pipeline/seed{seed}/img"], atol=0.02)
        np.testing.assert_array_equal(data["label"], arrays[f"pipeline/seed{seed}/label"])
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("ratio", [1.0, 0.5, 1.75])
def test_resizing_at_test_time(fixture_path, ratio):
    arrays, meta = load_golden(fixture_path)
    key = "test/resized_bgr" if ratio == 1.0 else f"test/ms{ratio}_bgr"
    if key not in arrays:
        pytest.skip(f"{fixture_path.name} holds no ratio {ratio}")
    image = arrays["small/img_bgr"]
    got = T.BEiTv2Resize(meta["config"]["img_scale"], ratio)({"img": rgb(image)})
    np.testing.assert_array_equal(got["img"], rgb(arrays[key]))
    assert got["trans_info"] == [("resize", image.shape[:2])]
