# SPDX-License-Identifier: Apache-2.0
"""A folder for PaddleX holds what PaddleX looks for, is an exported model like any other, and says what it cannot be.

What PaddleX itself makes of such folders is in tests/neighbours.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from export_models import left_over, student, tokenizer
from PIL import Image

from beitv2_core.data import DigitScenes
from beitv2_core.errors import ConfigError, DataError, ExportError, MissingDependencyError, ShapeError
from beitv2_core.exported_model import graph_file, load_exported
from beitv2_core.exporting import export_model, exportable_features, exportable_tokenizer
from beitv2_core.exporting.inputs import images_of_files
from beitv2_core.paddlex import as_exported, register
from beitv2_core.paddlex.__main__ import main
from beitv2_core.pixels.imagenet import IMAGENET_MEAN, IMAGENET_STD


def test_it_holds_paddlexs_names_and_runs_as_any_export(tmp_path):
    model = student()
    described = export_model(exportable_features(model), tmp_path / "px", form="paddlex")
    export_model(exportable_features(model), tmp_path / "ours", form="paddle")
    graph = graph_file(tmp_path / "px", "paddle")
    assert left_over(tmp_path / "px") == sorted([graph.name, "inference.pdiparams", "inference.yml", "model.json"])
    assert graph.name in ("inference.json", "inference.pdmodel") and described.format == "paddle"
    images = np.random.default_rng(0).random((2, 3, 32, 24), dtype=np.float32)
    found, expected = (load_exported(tmp_path / name).run(images) for name in ("px", "ours"))
    np.testing.assert_array_equal(found["mean"], expected["mean"])

    known = yaml.safe_load((tmp_path / "px/inference.yml").read_text())
    assert known["Global"] == {"model_name": "BEiTv2-features"}
    steps = {name: value for step in known["PreProcess"]["transform_ops"] for name, value in step.items()}
    assert steps["ResizeImage"] == {"size": [24, 32], "backend": "pil", "interpolation": "BICUBIC"}
    assert (steps["NormalizeImage"]["mean"], steps["NormalizeImage"]["std"]) == (list(IMAGENET_MEAN),
                                                                                 list(IMAGENET_STD))
    (tmp_path / "px/inference.yml").write_text("Global: {}\n")
    with pytest.raises(ExportError, match="inference.yml: not the file that was exported"):
        load_exported(tmp_path / "px")


def test_a_kind_that_paddlex_has_no_predictor_for_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match="--format paddlex.*'tokenizer'.*features"):
        export_model(exportable_tokenizer(tokenizer()), tmp_path / "px", form="paddlex")
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("upright", [False, True])
def test_its_crops_are_those_of_our_commands_for_every_size_and_kind_of_image(tmp_path, upright):
    model = exportable_features(student())
    model.facts["exif_orientation"] = upright
    known = export_model(model, tmp_path / "px", form="paddlex")
    turned, paths = Image.Exif(), []
    turned[0x0112] = 6
    for index, (size, mode) in enumerate([((50, 40), "RGB"), ((33, 71), "L"), ((97, 64), "RGBA"), ((24, 32), "P")]):
        paths.append(str(tmp_path / f"{index}.png"))
        DigitScenes("test", size=1, image_size=64).load(0).image.resize(size).convert(mode).save(paths[-1])
    paths.append(str(tmp_path / "turned.jpg"))
    DigitScenes("test", size=1, image_size=64).load(0).image.resize((60, 40)).save(paths[-1], exif=turned)
    steps = as_exported({"Read": None, "Resize": None, "Crop": None, "Normalize": "PaddleX's"}, known)
    assert list(steps) == ["Read", "Resize", "Normalize"]
    found = np.stack(steps["Resize"](imgs=steps["Read"](imgs=paths)))
    expected = images_of_files({**known.model_dump(), "mean": None}, paths)
    np.testing.assert_array_equal(found, np.rint(255 * expected.transpose(0, 2, 3, 1)).astype(np.uint8))
    bgr = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    np.testing.assert_array_equal(steps["Read"](imgs=[bgr])[0], bgr[:, :, ::-1])
    for wrong in (bgr[:, :, 0], bgr.astype(np.float32), np.dstack([bgr, bgr])):
        with pytest.raises(ShapeError, match=r"expected uint8 of shape \(height, width, 3\)"):
            steps["Read"](imgs=[wrong])
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(DataError, match="no.png"):
        steps["Read"](imgs=[str(tmp_path / "no.png")])


def test_without_paddlex_the_command_to_type_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "paddlex", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'beitv2-core\[paddlex\]'"):
        register()
    with pytest.raises(SystemExit, match="error: PaddleX 3.7 cannot be imported"):
        main()


def test_what_our_code_refuses_while_paddlex_runs_it_is_one_line(monkeypatch):
    def refuse():
        raise DataError("no.png: no image")

    monkeypatch.setattr("beitv2_core.paddlex.__main__.register", list)
    monkeypatch.setitem(sys.modules, "paddlex", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "paddlex.__main__", SimpleNamespace(console_entry=refuse))
    with pytest.raises(SystemExit, match="^error: no.png: no image$"):
        main()
