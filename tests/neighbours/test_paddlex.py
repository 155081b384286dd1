# SPDX-License-Identifier: Apache-2.0
"""PaddleX's own predictors, pipelines and server give our answers on `beitv2 export --format paddlex`.

Skipped where PaddleX is not installed; `make neighbours` has it, in an environment of its own.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cls_runs import run
from PIL import Image, ImageOps
from random_segmentor import CLASSES, segmentor

import beitv2_core
from beitv2_core.data import DigitScenes
from beitv2_core.errors import ConfigError
from beitv2_core.exporting import export_model
from beitv2_core.paddlex import register
from beitv2_seg.config import TestConfig
from beitv2_seg.plugins.export import exportable_segmentor
from beitv2_seg.reading.label_map import built_transforms
from beitv2_seg.reading.predict import predict_image

pytest.importorskip("paddlex", reason="PaddleX is not installed: `make neighbours`")
pytestmark = pytest.mark.paddlex
LIMIT = 1e-4
SIZES = [(50, 40), (33, 71), (32, 32), (64, 97)]  # (width, height)


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Registered twice, which changes nothing."""
    names = register()
    assert register() == names == ["BEiTv2-features", "BEiTv2-classifier", "BEiTv2-segmenter"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Files of several sizes: coloured, grey, and one that its EXIF data turn."""
    folder = tmp_path_factory.mktemp("images")
    scenes = DigitScenes("test", size=len(SIZES), image_size=64)
    for index, size in enumerate(SIZES):
        image = scenes.load(index).image.resize(size)
        (image.convert("L") if index == 2 else image).save(folder / f"{index}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    scenes.load(0).image.resize((60, 44)).save(folder / "turned.jpg", quality=95, exif=turned)
    return folder


@pytest.fixture(scope="module")
def classifier(classifier_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "px"
    run("export", classifier_run, "--format", "paddlex", "-o", folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    """The live model, how its images are read, and the folder it was exported to."""
    live, folder = segmentor(), tmp_path_factory.mktemp("segmenter") / "px"
    reading = {"transforms": [{"type": "BEiTv2Resize", "scale": [256, 64]}, {"type": "BEiTv2Normalize"}],
               "test_config": {"is_slide": True, "crop_size": [64, 64], "stride": [43, 43]}}
    export_model(exportable_segmentor(live, image_size=(64, 64), classes=CLASSES, reading=reading), folder,
                 form="paddlex")
    return live, reading, folder


def files(images: Path) -> list[str]:
    return sorted(str(path) for path in images.iterdir())


def shares(run_folder: Path, images: Path) -> dict[str, dict[str, float]]:
    """What the live run says: path -> class name -> probability."""
    lines = run("predict", run_folder, *files(images), "--top", 100, "--json").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return {one["path"]: {best["name"]: best["probability"] for best in one["classes"]} for one in found}


def assert_same_classes(found: dict, expected: dict[str, float]) -> None:
    got = dict(zip(found["label_names"], np.asarray(found["scores"], dtype=float)))
    assert found["label_names"][0] == max(expected, key=expected.get)
    assert max(abs(got[name] - expected[name]) for name in got) <= LIMIT


def test_its_classifier_gives_our_classes_at_every_size(classifier, classifier_run, images):
    from paddlex import create_model
    from paddlex.inference.models.image_classification import ClasPredictor

    expected = shares(classifier_run, images)
    model = create_model("BEiTv2-classifier", model_dir=str(classifier))
    assert isinstance(model._predictor, ClasPredictor)
    for batch_size in (1, 3):
        found = list(model.predict(files(images), batch_size=batch_size, topk=10))
        assert [one["input_path"] for one in found] == files(images)
        for one in found:
            assert len(one["label_names"]) == 10 and np.shape(one["class_ids"]) == (10,)
            assert_same_classes(one, expected[one["input_path"]])
    assert len({tuple(one["label_names"]) for one in found}) > 1
    pixels = np.asarray(Image.open(images / "1.png").convert("RGB"))
    (array,) = model.predict(pixels[:, :, ::-1], topk=10)  # as OpenCV reads: BGR
    assert_same_classes(array, expected[str(images / "1.png")])


def test_its_predictor_of_features_gives_our_means(classifier_run, images, tmp_path):
    from paddlex import create_model

    run("export", classifier_run, "--format", "paddlex", "--kind", "features", "-o", tmp_path / "px")
    live = beitv2_core.load(str(classifier_run))
    live.cut_to(live.answer_crop_share)  # a run's features are exported with the crop it was validated with
    expected = live.features(files(images))
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    model = create_model("BEiTv2-features", model_dir=str(tmp_path / "px"))
    found = np.stack([one["feature"] for one in model.predict(files(images), batch_size=2)])  # (images, width)
    assert np.abs(found - expected).max() <= LIMIT and np.abs(expected).max() > 0.1


def labels_of(segmenter, path: str) -> np.ndarray:
    """What the live model says of an image, by windows."""
    live, reading, _ = segmenter
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    found = predict_image(live, pixels, built_transforms(reading["transforms"], "test"),
                          TestConfig(**reading["test_config"]))
    assert found.shape == pixels.shape[:2]
    return found


def test_its_segmenter_gives_our_labels_by_windows_at_every_size(segmenter, images, tmp_path):
    from paddlex import create_model
    from paddlex.inference.models.semantic_segmentation import SegPredictor

    model = create_model("BEiTv2-segmenter", model_dir=str(segmenter[2]))
    assert isinstance(model._predictor, SegPredictor)
    found = list(model.predict(files(images), batch_size=2))
    for one in found:
        np.testing.assert_array_equal(one["pred"][0], labels_of(segmenter, one["input_path"]))
        one.save_to_img(str(tmp_path / "drawn"))
    assert len(list((tmp_path / "drawn").iterdir())) == len(files(images)) == len(found)
    assert {label for one in found for label in np.unique(one["pred"])} == {0, 1, 2}


def test_its_segmenter_refuses_to_resize_to_one_size(segmenter, images):
    from paddlex import create_model

    model = create_model("BEiTv2-segmenter", model_dir=str(segmenter[2]))
    with pytest.raises(ConfigError, match="Leave target_size out"):
        list(model.predict(files(images), target_size=64))
    with pytest.raises(ConfigError, match="target_size is 64"):
        create_model("BEiTv2-segmenter", model_dir=str(segmenter[2]), target_size=64)


def pipeline_config(name: str, module: str, model_name: str, folder: Path, **more) -> dict:
    return {"pipeline_name": name, "SubModules": {module: {
        "module_name": name, "model_name": model_name, "model_dir": str(folder), "batch_size": 1, **more}}}


def test_its_pipelines_and_its_server_give_our_answers(classifier, segmenter, classifier_run, images):
    from fastapi.testclient import TestClient
    from paddlex import create_pipeline
    from paddlex.inference.serving.basic_serving import create_pipeline_app

    name = str(images / "3.png")
    sent = {"image": base64.b64encode(Path(name).read_bytes()).decode(), "visualize": False}
    config = pipeline_config("image_classification", "ImageClassification", "BEiTv2-classifier", classifier, topk=5)
    pipeline = create_pipeline(config=config)
    expected = shares(classifier_run, images)[name]
    (found,) = pipeline.predict(name)
    assert_same_classes(found, expected)
    with TestClient(create_pipeline_app(pipeline, config)) as client:
        answer = client.post("/image-classification", json=sent)
    assert answer.status_code == 200, answer.text
    served = answer.json()["result"]["categories"]
    assert_same_classes({"label_names": [one["name"] for one in served], "scores": [one["score"] for one in served]},
                        expected)

    config = pipeline_config("semantic_segmentation", "SemanticSegmentation", "BEiTv2-segmenter", segmenter[2],
                             target_size=None)
    pipeline = create_pipeline(config=config)
    expected_labels = labels_of(segmenter, name)
    (found,) = pipeline.predict(name)
    np.testing.assert_array_equal(found["pred"][0], expected_labels)
    with TestClient(create_pipeline_app(pipeline, config)) as client:
        answer = client.post("/semantic-segmentation", json=sent)
    assert answer.status_code == 200, answer.text
    served = answer.json()["result"]
    np.testing.assert_array_equal(np.reshape(served["labelMap"], served["size"]), expected_labels)


def test_its_command_line_runs_ours(classifier, classifier_run, images, tmp_path):
    import yaml

    config = pipeline_config("image_classification", "ImageClassification", "BEiTv2-classifier", classifier, topk=3)
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(config))
    done = subprocess.run([sys.executable, "-m", "beitv2_core.paddlex", "--pipeline", str(tmp_path / "pipeline.yaml"),
                           "--input", str(images / "0.png"), "--device", "cpu"], capture_output=True, text=True,
                          timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = shares(classifier_run, images)[str(images / "0.png")]
    assert f"'label_names': ['{max(expected, key=expected.get)}'" in done.stdout + done.stderr
