# SPDX-License-Identifier: Apache-2.0
"""The codes view on a small tokenizer, and how runs find their views."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import paddle
import pytest
from PIL import Image

from beitv2_core.assembly.restore import freeze
from beitv2_core.data import DigitScenes, ImageFiles, eval_batches
from beitv2_core.errors import ConfigError
from beitv2_core.evaluation.codes import encode
from beitv2_core.evaluation.evaluate import cut_patches
from beitv2_core.models.backbone import BEiTBackbone
from beitv2_core.models.vqkd import VQKD
from beitv2_core.serve import views
from beitv2_core.serve.views import View, codes_view, find_view
from beitv2_core.viz.codebook import code_colours


@pytest.fixture(scope="module")
def tokenizer():
    paddle.seed(0)
    encoder = BEiTBackbone(image_size=(16, 24), patch_size=8, width=12, depth=1, num_heads=2, norm="pool")
    decoder = BEiTBackbone(image_size=(2, 3), patch_size=1, in_chans=4, width=12, depth=1, num_heads=2, norm="pool")
    return freeze(VQKD(encoder, decoder, num_codes=16, code_dim=4, teacher_width=8, kmeans_init=False))


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes("test", size=12, image_size=40)


def test_codes_are_those_of_the_command_tokenize(tokenizer, scenes, tmp_path):
    image = scenes.load(3).image
    image.save(tmp_path / "x.png")
    images = next(eval_batches(ImageFiles([str(tmp_path / "x.png")]), tokenizer.image_size)).images
    result = codes_view(tokenizer).show(image)
    np.testing.assert_array_equal(result.grid, encode(tokenizer, images)[0].reshape(2, 3))
    assert result.num_codes == 16
    assert {one.code: one.count for one in result.codes} == {
        int(code): int((np.asarray(result.grid) == code).sum()) for code in np.unique(result.grid)}
    assert [one.count for one in result.codes] == sorted((one.count for one in result.codes), reverse=True)
    for one in result.codes:
        red = int(one.colour[1:3], 16)
        assert red == round(255 * float(code_colours(tokenizer.quantize.codebook.numpy())[one.code, 0]))
        assert (one.patches, one.num_patches, one.gallery_count) == (None, 0, 0)
    assert result.gallery_images == 0


def test_patches_come_from_the_gallery_nearest_first(tokenizer, scenes):
    batches = list(eval_batches(scenes, tokenizer.image_size, batch_size=5))
    view = codes_view(tokenizer, batches, keep=3)
    images = np.concatenate([batch.images for batch in batches])
    codes = encode(tokenizer, images)
    patches = cut_patches(images, tokenizer.grid)
    result = view.show(scenes.load(0).image)
    assert result.gallery_images == 12
    for one in result.codes:
        assert one.gallery_count == (codes == one.code).sum()
        assert one.num_patches == min(3, one.gallery_count)
        row = Image.open(io.BytesIO(base64.b64decode(one.patches.partition(",")[2])))
        assert row.size == (8 * one.num_patches + one.num_patches - 1, 8)
        mine = {patch.tobytes() for patch in patches[codes == one.code]}
        for at in range(one.num_patches):
            assert np.asarray(row.convert("RGB").crop((9 * at, 0, 9 * at + 8, 8))).tobytes() in mine


def test_other_packages_offer_views_for_their_kinds_of_run(offer):
    view = View("poem", "Poem", "In words.", lambda image: None)
    offer("beitv2.views", poetry=lambda run: view)
    assert find_view("runs/7", "poetry") is view
    assert find_view("runs/7", "tokenizer") is None
    with pytest.raises(ConfigError, match="runs/7: what to show.*there is no 'linear_probe'.*poetry"):
        find_view("runs/7", "linear_probe")


def test_core_knows_no_view_of_its_neighbours():
    folder = Path(views.__file__).parent
    assert not any(name in path.read_text(encoding="utf-8") for path in folder.iterdir() if path.is_file()
                   for name in ("beitv2_cls", "beitv2_seg"))
