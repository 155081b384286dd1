# SPDX-License-Identifier: Apache-2.0
"""Features of many files: formats, stopping and continuing, and what a file says of itself."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.errors import BEiTError, ConfigError, DataError, MissingDependencyError
from beitv2_core.evaluation.codes import list_images
from beitv2_core.inference import embed as module
from beitv2_core.inference import embedding_file
from beitv2_core.inference.embed import embed_files
from beitv2_core.inference.embedding_file import read_embeddings, writer_for
from beitv2_core.inference.loaded import load_model
from beitv2_core.inference.search import model_of, nearest, search


@pytest.fixture(scope="module")
def model(pretraining_run):
    return load_model(pretraining_run)


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART_IMAGES", 2)


def run(*arguments, code=0) -> str:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def parquet():
    return pytest.importorskip("pyarrow", reason="beitv2-core[parquet] is not installed")


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
@pytest.mark.parametrize("what", ["mean", "cls"])
def test_every_format_gives_back_the_features_of_the_model(model, photographs, tmp_path, small_parts, ending, what):
    if ending == "parquet":
        parquet()
    paths, output = list_images([photographs]), tmp_path / f"f.{ending}"
    assert list(embed_files(model, paths, output, what=what, batch_size=2)) == [2, 4, 6, 7]
    file = read_embeddings(output)
    np.testing.assert_allclose(file.features, model.features(paths, what=what), atol=1e-5)
    assert file.paths == paths and file.features.dtype == np.float32
    assert file.meta["fingerprint"] == model.fingerprint() and file.meta["what"] == what
    assert file.meta["block"] is None and file.meta["image_size"] == [32, 32]
    assert (file.meta["precision"], file.meta["runtime"]) == ("f32", "paddle") and file.meta["version"]
    if ending != "csv":
        assert file.thumbnails.shape == (7, 32, 32) and file.sizes.tolist()[2] == [52, 58]


@pytest.mark.parametrize("ending", ["npz", "parquet"])
def test_patches_and_codes_keep_their_shape(model, tokenizer_run, photographs, tmp_path, ending):
    if ending == "parquet":
        parquet()
    paths = list_images([photographs])
    list(embed_files(model, paths, tmp_path / f"p.{ending}", what="patches", block=2))
    assert read_embeddings(tmp_path / f"p.{ending}").features.shape == (7, 16, 24)
    tokenizer = load_model(tokenizer_run, image_size=(32, 48))
    list(embed_files(tokenizer, paths, tmp_path / f"c.{ending}", what="codes"))
    codes = read_embeddings(tmp_path / f"c.{ending}")
    np.testing.assert_array_equal(codes.features.reshape(7, -1), tokenizer.features(paths, what="codes"))
    assert codes.features.shape == (7, 4, 6) and codes.features.dtype == np.uint8 and codes.meta["num_codes"] == 64


@pytest.mark.parametrize("ending", ["npz", "csv", "parquet"])
def test_a_stopped_command_continues_and_writes_the_same_bytes(model, photographs, tmp_path, small_parts, ending,
                                                               monkeypatch):
    if ending == "parquet":
        parquet()
    paths, whole, output = list_images([photographs]), tmp_path / f"whole.{ending}", tmp_path / f"f.{ending}"
    list(embed_files(model, paths, whole, batch_size=2))
    stream = embed_files(model, paths, output, batch_size=2)
    next(stream), next(stream)
    stream.close()
    assert not output.exists()
    seen = []
    features = model.features
    monkeypatch.setattr(model, "features", lambda images, **more: seen.append(len(images)) or features(images, **more))
    assert list(embed_files(model, paths, output, batch_size=2)) == [2, 4, 6, 7]
    assert sum(seen) == 4, "one for the shape, three images were left"
    assert output.read_bytes() == whole.read_bytes()
    seen.clear()
    assert list(embed_files(model, paths, output, batch_size=2)) == [7]
    assert len(seen) == 1, "what is complete is not computed again"


def test_parts_of_other_settings_are_not_used(model, photographs, tmp_path, small_parts):
    paths, output = list_images([photographs]), tmp_path / "f.npz"
    stream = embed_files(model, paths, output, batch_size=2)
    next(stream)
    stream.close()
    list(embed_files(model, paths, output, batch_size=2, block=1))
    np.testing.assert_allclose(read_embeddings(output).features, model.features(paths, block=1), atol=1e-5)


def test_what_cannot_be_written_or_read_is_told_in_one_line(model, photographs, tmp_path, monkeypatch):
    paths = list_images([photographs])
    with pytest.raises(ConfigError, match=r"expected a name ending in \.parquet, \.npz, \.csv"):
        next(embed_files(model, paths, tmp_path / "f.txt"))
    with pytest.raises(ConfigError, match="16 x 24 numbers an image.*parquet or .npz"):
        next(embed_files(model, paths, tmp_path / "f.csv", what="patches"))
    (tmp_path / "no.npz").write_bytes(b"none")
    np.savez(tmp_path / "other.npz", x=1)
    for name, said in (("no.npz", "cannot be read"), ("other.npz", "no features that"), ("gone.npz", "no such file")):
        with pytest.raises(DataError, match=said):
            read_embeddings(tmp_path / name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'beitv2-core\[parquet\]'"):
        embedding_file.writer_for(tmp_path / "f.parquet")


def test_the_command_writes_and_searches(pretraining_run, photographs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "7 image(s) of 24x40, mean" in run("embed", photographs, "--model", pretraining_run, "-o", "f.npz",
                                              "--image-size", "24", "40", "--num-workers", 0)
    shown = run("search", photographs / "3.png", "--in", "f.npz", "-k", 3, "-o", "found.png")
    lines = shown.splitlines()
    assert lines[1].endswith("3.png") and float(lines[1].split()[0]) > 0.9999 and len(lines) == 5
    assert (tmp_path / "found.png").read_bytes()[:4] == b"\x89PNG"
    assert "no whole number of patches" in run("embed", photographs, "-m", pretraining_run, "-o", "g.npz",
                                               "--image-size", "24", "41", code=2)


def test_a_search_orders_by_cosine_and_refuses_another_model(model, tokenizer_run, photographs, tmp_path):
    paths, output = list_images([photographs]), tmp_path / "f.npz"
    list(embed_files(model, paths, output))
    file = read_embeddings(output)
    unit = file.features / np.linalg.norm(file.features, axis=1, keepdims=True)
    found = search(file, model_of(file), paths[2], count=7)
    assert [one.number for one in found] == np.argsort(-(unit @ unit[2]), kind="stable").tolist()
    assert found[0].path == paths[2]
    with pytest.raises(BEiTError, match="other weights"):
        model_of(file, str(tokenizer_run))
    with pytest.raises(DataError, match="the query's is"):
        nearest(file, np.zeros(3, np.float32))
    json.dumps(file.meta)


def test_a_pyarrow_that_cannot_be_imported_is_named_with_its_reason(tmp_path, monkeypatch):
    (tmp_path / "pyarrow.py").write_text("raise ImportError('pyarrow requires NumPy 2.0 or newer')")
    monkeypatch.delitem(sys.modules, "pyarrow", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = r"cannot be imported \(pyarrow requires NumPy 2.0.*core\[parquet\]"
    with pytest.raises(MissingDependencyError, match=words):
        writer_for(tmp_path / "features.parquet")
