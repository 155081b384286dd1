# SPDX-License-Identifier: Apache-2.0
"""Crops, resizes and normalisation equal the official ones for every fixture `transforms*`.

Boxes and random draws are always exact. Pixels are exact when this Pillow resamples as the recorded one did: Pillow 13
sometimes runs the vertical pass first, older ones never do, which moves single pixels by a few levels.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL
import pytest
from golden_io import load_golden
from PIL import Image

from beitv2_core.data import SampleRng
from beitv2_core.data.views.transforms import (
    EvalCrop,
    TwoViewCrop,
    draw_crop_box,
    normalise,
    resized_short_side,
    to_unit_floats,
)

SUBJECT = "transforms"
MAX_LEVELS_BETWEEN_PILLOWS = 4
MAX_MEAN_BETWEEN_PILLOWS = 0.5


@lru_cache(maxsize=4)
def load_fixture(path: Path):
    return load_golden(path)


def source_image(arrays, meta, name: str, fixture_path: Path):
    """The image and whether it was decoded to the very pixels that were recorded."""
    if f"{name}/source" in arrays:
        image = Image.fromarray(arrays[f"{name}/source"])
    elif f"{name}/jpeg_bytes" in arrays:
        image = Image.open(io.BytesIO(arrays[f"{name}/jpeg_bytes"].tobytes())).convert("RGB")
    else:
        folder = Path(fixture_path).resolve().parent.parent / "data" / meta["config"].get("image_dir", "")
        found = sorted(folder.glob(f"{name}.*"))
        if not found:
            pytest.skip(f"{name}: neither in the fixture nor in {folder}")
        image = Image.open(found[0]).convert("RGB")
    recorded = meta["images"][name].get("decoded_rgb_sha256")
    return image, recorded in (None, hashlib.sha256(image.tobytes()).hexdigest())


def assert_same_image(got: Image.Image, expected: np.ndarray, meta: dict, same_source: bool, name: str) -> None:
    pixels = np.asarray(got)
    assert pixels.shape == expected.shape, name
    difference = np.abs(pixels.astype(int) - expected.astype(int))
    same_pillow = (int(PIL.__version__.split(".")[0]) >= 13) == (int(meta.get("pillow", "12").split(".")[0]) >= 13)
    if same_pillow and same_source:
        assert difference.max() == 0, f"{name}: {np.count_nonzero(difference)} values differ, worst {difference.max()}"
    elif same_source:
        assert difference.max() <= MAX_LEVELS_BETWEEN_PILLOWS, f"{name}: worst {difference.max()}"
        assert difference.mean() <= MAX_MEAN_BETWEEN_PILLOWS, f"{name}: mean {difference.mean()}"
    else:  # another JPEG decoder: only a wrong crop or filter can move the mean this far
        assert difference.mean() <= 2, f"{name}: mean {difference.mean()}"


def build(case: dict) -> TwoViewCrop:
    as_size = lambda size: tuple(size) if isinstance(size, list) else size  # noqa: E731
    options = {"scale": tuple(case["scale"]), "interpolation": case["interpolation"]}
    if case.get("ratio"):
        options["ratio"] = tuple(case["ratio"])
    # the official constructor reads the second view with lanczos unless told otherwise
    options["second_interpolation"] = case.get("second_interpolation") or "lanczos"
    return TwoViewCrop(as_size(case["size"]), as_size(case.get("second_size")), **options)


def test_two_view_crops_equal_the_official_ones_draw_by_draw(fixture_path):
    arrays, meta = load_fixture(fixture_path)
    compared = 0
    for name, expected in arrays.items():
        found = re.fullmatch(r"([^/]+)/([^/]+)/seed(\d+)/ijhw", name)
        if not found:
            continue
        image_name, case_name, seed = found.group(1), found.group(2), int(found.group(3))
        if meta["cases"][case_name]["interpolation"] == "random":
            continue  # a filter drawn for each image: no recipe asks for it, and no setting offers it
        prefix = name[: -len("ijhw")]
        image, same = source_image(arrays, meta, image_name, fixture_path)
        crop = build(meta["cases"][case_name])
        box = draw_crop_box(image.width, image.height, crop.scale, crop.ratio, random.Random(seed))
        assert box == tuple(expected.tolist()), name
        rng = SampleRng.from_seed(seed)
        first, second = crop(image, rng)
        assert rng.python.random() == float(arrays[prefix + "next_random"]), f"{name}: number of draws"
        assert_same_image(first, arrays[prefix + "out1"], meta, same, prefix + "out1")
        assert (second is None) == (prefix + "out2" not in arrays)
        if second is not None:
            assert_same_image(second, arrays[prefix + "out2"], meta, same, prefix + "out2")
        compared += 1
    assert compared, f"{fixture_path} holds no crops"


def test_twenty_consecutive_boxes_equal_the_official_ones(fixture_path):
    arrays, meta = load_fixture(fixture_path)
    for name in meta["images"]:
        if f"{name}/params20" not in arrays:
            continue
        image, _ = source_image(arrays, meta, name, fixture_path)
        rng = random.Random(meta["seed"])
        boxes = [draw_crop_box(image.width, image.height, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(20)]
        np.testing.assert_array_equal(boxes, arrays[f"{name}/params20"], err_msg=name)


def test_eval_crops_and_resized_sizes_equal_the_official_ones(fixture_path):
    arrays, meta = load_fixture(fixture_path)
    for name, facts in meta["images"].items():
        width, height = facts["size_wh"]
        if "resize100_wh" in facts:
            assert list(resized_short_side(width, height, 100)) == facts["resize100_wh"], name
        for key, expected in arrays.items():
            found = re.fullmatch(re.escape(name) + r"/eval(\d+)", key)
            if found:
                image, same = source_image(arrays, meta, name, fixture_path)
                assert_same_image(EvalCrop(int(found.group(1)))(image), expected, meta, same, key)


def test_floats_and_normalisation_equal_the_official_ones(fixture_path):
    arrays, _ = load_fixture(fixture_path)
    if "totensor/in" not in arrays:
        pytest.skip("no totensor arrays in this fixture")
    floats = to_unit_floats(arrays["totensor/in"])
    np.testing.assert_array_equal(floats, arrays["totensor/out"])
    np.testing.assert_allclose(normalise(floats), arrays["totensor/normalized_imagenet"], rtol=0, atol=1e-6)
    half = normalise(floats, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    np.testing.assert_allclose(half, arrays["totensor/normalized_inception"], rtol=0, atol=1e-6)
