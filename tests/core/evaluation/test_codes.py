# SPDX-License-Identifier: Apache-2.0
"""Files to codes: any batch size, any number of files, stopped and continued."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from PIL import Image

from beitv2_core.errors import DataError
from beitv2_core.evaluation import codes as module
from beitv2_core.evaluation.codes import code_dtype, encode_files, list_images


class TinyTokenizer:
    """Four patches; a patch's code is the codebook row nearest to its mean colour."""

    num_codes, grid, image_size = 300, (2, 2), (8, 8)

    def __init__(self):
        table = np.random.RandomState(0).randn(self.num_codes, 3).astype("float32")
        self.codebook = paddle.to_tensor(table / np.linalg.norm(table, axis=1, keepdims=True))
        self.quantize = self
        self.calls = 0

    def features(self, images):
        blocks = images.reshape([len(images), 3, 2, 4, 2, 4]).mean(axis=[3, 5])
        return blocks.reshape([len(images), 3, 4]).transpose([0, 2, 1])

    def nearest_codes(self, unit):
        self.calls += 1
        return paddle.matmul(unit, self.codebook, transpose_y=True).argmax(-1)



@pytest.fixture
def folder(tmp_path):
    draws = np.random.RandomState(1)
    for number in range(7):
        path = tmp_path / "images" / f"deep{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.randint(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def run(tokenizer, paths, output, **options):
    return list(encode_files(tokenizer, paths, output, part_size=3, **options))


def test_the_file_holds_codes_in_the_order_of_the_paths(folder, tmp_path):
    paths = list_images([folder])
    assert run(TinyTokenizer(), paths, tmp_path / "out.npz") == [3, 6, 7]
    with np.load(tmp_path / "out.npz") as saved:
        assert saved["codes"].shape == (7, 2, 2)
        assert saved["codes"].dtype == np.uint16
        assert saved["paths"].tolist() == paths
        assert int(saved["num_codes"]) == 300
    assert not (tmp_path / "out.npz.parts").exists()


@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_codes_do_not_depend_on_the_batch_size(folder, tmp_path, batch_size):
    paths = list_images([folder])
    run(TinyTokenizer(), paths, tmp_path / "one.npz", batch_size=1)
    run(TinyTokenizer(), paths, tmp_path / "many.npz", batch_size=batch_size)
    assert np.array_equal(np.load(tmp_path / "one.npz")["codes"], np.load(tmp_path / "many.npz")["codes"])


class Undecided(TinyTokenizer):
    """Two codes are equally near, and which one wins depends on the size of the batch."""

    num_codes = 2

    def __init__(self):
        super().__init__()
        self.codebook = paddle.to_tensor(np.tile(np.float32([[1, 0, 0]]), (2, 1)))

    def nearest_codes(self, unit):
        return paddle.full([len(unit)], int(len(unit) > 4), dtype="int64")


def test_a_image_on_the_edge_between_codes_gets_those_it_has_alone():
    images = np.random.RandomState(2).rand(3, 3, 8, 8).astype("float32")
    assert module.encode(Undecided(), images).max() == 0


def test_a_stopped_run_continues_where_it_was(folder, tmp_path):
    paths, output = list_images([folder]), tmp_path / "out.npz"
    stream = encode_files(TinyTokenizer(), paths, output, part_size=3, batch_size=8, fingerprint="a")
    next(stream)
    next(stream)
    stream.close()
    tokenizer = TinyTokenizer()
    assert run(tokenizer, paths, output, batch_size=8, fingerprint="a") == [3, 6, 7]
    assert tokenizer.calls == 1, "finished parts were computed again"
    run(TinyTokenizer(), paths, tmp_path / "whole.npz", batch_size=8)
    assert np.array_equal(np.load(output)["codes"], np.load(tmp_path / "whole.npz")["codes"])


def test_parts_of_another_tokenizer_are_not_used(folder, tmp_path):
    paths, output = list_images([folder]), tmp_path / "out.npz"
    stream = encode_files(TinyTokenizer(), paths, output, part_size=3, fingerprint="a")
    next(stream)
    stream.close()
    other = TinyTokenizer()
    other.codebook = -other.codebook
    run(other, paths, output, fingerprint="b")
    run(other, paths, tmp_path / "whole.npz", fingerprint="b")
    assert np.array_equal(np.load(output)["codes"], np.load(tmp_path / "whole.npz")["codes"])


def test_a_broken_file_is_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png: cannot be read"):
        run(TinyTokenizer(), [str(broken)], tmp_path / "out.npz")


def test_a_missing_or_empty_input_is_named(tmp_path):
    with pytest.raises(DataError, match="gone: no such file or folder"):
        list_images([tmp_path / "gone"])
    with pytest.raises(DataError, match=r"no images in .*looked for \.jpg"):
        list_images([tmp_path])


@pytest.mark.parametrize(("num_codes", "dtype"), [(64, "uint8"), (256, "uint8"), (257, "uint16"), (8192, "uint16")])
def test_codes_are_stored_in_the_smallest_type(num_codes, dtype):
    assert code_dtype(num_codes) == np.dtype(dtype)
