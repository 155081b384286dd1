# SPDX-License-Identifier: Apache-2.0
"""transformers' pipelines and timm's factory load what `beitv2 convert` writes of a run, and give its answers.

Skipped where they are not installed; `make test-peers` has them.  tests/parity compares models of full size.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
from cls_runs import run
from PIL import Image

import beitv2_core
from beitv2_core.conversion.convert import convert_file, read_model
from beitv2_core.data import DigitScenes

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `make test-peers`")
pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("importable_torchvision")]
LIMIT = 1e-4


@pytest.fixture(scope="module")
def classifier(classifier_run, tmp_path_factory):
    """A fine-tuning run, images of several sizes, and what the run says of them: name -> probability."""
    folder = tmp_path_factory.mktemp("images")
    scenes = DigitScenes("test", size=4, image_size=64)
    paths = []
    for index, size in enumerate([(32, 32), (50, 40), (34, 71), (64, 96)]):
        paths.append(str(folder / f"{index}.png"))
        scenes.load(index).image.resize(size).save(paths[-1])
    lines = run("predict", classifier_run, *paths, "--top", 100, "--json").splitlines()
    found = [json.loads(line) for line in lines if line.startswith("{")]
    return classifier_run, paths, [{best["name"]: best["probability"] for best in one["classes"]} for one in found]


def largest_difference(found: dict[str, float], expected: dict[str, float]) -> float:
    assert found.keys() == expected.keys() and max(found, key=found.get) == max(expected, key=expected.get)
    return max(abs(found[name] - expected[name]) for name in expected)


def test_transformers_pipeline_of_classification_gives_our_classes(classifier, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: `make test-peers`")
    source, paths, expected = classifier
    convert_file(source, tmp_path / "folder", "huggingface")
    # Pillow resizes, as here; the default, torchvision on tensors, gives pixels that differ in the last bit
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder", backend="pil")
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "folder"), image_processor=processor)
    for path, shares in zip(paths, expected):
        found = {one["label"]: one["score"] for one in classify(path, top_k=len(shares))}
        assert largest_difference(found, shares) <= LIMIT
    classify = transformers.pipeline("image-classification", model=str(tmp_path / "folder"))
    found = {one["label"]: one["score"] for one in classify(paths[0], top_k=len(expected[0]))}  # of the model's size
    assert largest_difference(found, expected[0]) <= LIMIT


def test_transformers_pipeline_of_features_gives_our_features(classifier, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: `make test-peers`")
    source, paths, _ = classifier
    convert_file(source, tmp_path / "folder", "huggingface", backbone=True)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "folder", backend="pil")
    extract = transformers.pipeline("image-feature-extraction", model=str(tmp_path / "folder"),
                                    image_processor=processor)
    ours = beitv2_core.load(str(source))
    ours.cut_to(ours.answer_crop_share)  # what a converted folder says
    for path in paths:
        found = np.asarray(extract(path, pool=True), dtype=np.float32)
        assert np.abs(found - ours.features(path)).max() <= LIMIT
        tokens = np.asarray(extract(path), dtype=np.float32)[:, 1:]
        raw = ours.features(path, what="patches", block=len(ours.model.blocks))
        assert tokens.shape == raw.shape and np.abs(tokens - raw).max() <= LIMIT


def test_timm_loads_a_folder_with_its_preprocessing_and_class_names(classifier, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed: `make test-peers`")
    source, paths, expected = classifier
    done = convert_file(source, tmp_path / "folder", "timm")
    assert done.classes == len(expected[0]) and done.classes_left_out == 0
    model = timm.create_model(f"local-dir:{tmp_path / 'folder'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    names = model.pretrained_cfg["label_names"]
    for path, shares in zip(paths, expected):
        with torch.no_grad():
            logits = model(transform(Image.open(path).convert("RGB"))[None])
        found = dict(zip(names, torch.softmax(logits[0], dim=-1).tolist()))
        assert largest_difference(found, shares) <= LIMIT
    again, before = read_model(tmp_path / "folder"), read_model(source)
    assert again.classes == before.classes and again.origin == "timm"
    for name, array in before.weights.items():
        np.testing.assert_array_equal(again.weights[name], array)


def test_timm_loads_a_lone_file_as_a_checkpoint_or_by_an_overlay(classifier, tmp_path):
    timm = pytest.importorskip("timm", reason="timm is not installed: `make test-peers`")
    source, paths, expected = classifier
    convert_file(source, tmp_path / "model.safetensors", "timm")
    convert_file(source, tmp_path / "folder", "timm")
    known = json.loads((tmp_path / "folder/config.json").read_text())
    arguments = {**known["model_args"], "num_classes": known["num_classes"]}
    overlay = {**known["pretrained_cfg"], "file": str(tmp_path / "model.safetensors")}
    ours = beitv2_core.load(str(source))
    images = torch.from_numpy(ours.preprocess(paths[0], crop_share=ours.answer_crop_share))
    mean, std = (torch.tensor(known["pretrained_cfg"][name])[None, :, None, None] for name in ("mean", "std"))
    answers = []
    for options in ({"checkpoint_path": str(tmp_path / "model.safetensors")},
                    {"pretrained": True, "pretrained_cfg_overlay": overlay}):
        model = timm.create_model("beitv2_base_patch16_224", **arguments, **options).eval()
        with torch.no_grad():
            answers.append(torch.softmax(model((images - mean) / std)[0], dim=-1).numpy())
    np.testing.assert_array_equal(answers[0], answers[1])
    assert largest_difference(dict(zip(known["label_names"], answers[0].tolist())), expected[0]) <= LIMIT
