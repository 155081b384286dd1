# SPDX-License-Identifier: Apache-2.0
"""An exported classifier predicts what the run predicts, with and without Paddle."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from cls_runs import run

from beitv2_cls.assembly import load_classifier
from beitv2_cls.classifier import BEiTClassifier
from beitv2_cls.prediction import predict
from beitv2_core.commands.serve import build_views
from beitv2_core.data import DigitScenes
from beitv2_core.data.views.transforms import normalise
from beitv2_core.errors import ConfigError
from beitv2_core.exported_model import load_exported
from beitv2_core.exporting import export_model, exportable_features
from beitv2_core.exporting.sources import exportable_logits

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
TINY = ["model.width=24", "data.size=96", "train.batch_size=16", "validation.size=40", "optim.steps=4",
        "optim.warmup_steps=2", "pretrained.weights=null", "validation.crop_share=0.9"]
missing = [name for name in ("paddle2onnx", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
needs_onnx = pytest.mark.skipif(bool(missing) or paddle.__version__.startswith("2."),
                                reason=f"not installed: {missing}" if missing else "paddle2onnx needs Paddle 3")
FORMS = ["paddle", pytest.param("onnx", marks=needs_onnx)]
NO_PADDLE = """
import sys

class NoPaddle:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "paddle":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPaddle())
from beitv2_core.cli import app
app(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier") / "run"
    run("finetune", CONFIGS / "cls/digit_scenes.yml", "--set", *TINY, f"output={folder}")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    scenes = DigitScenes("test", size=5, image_size=48)
    for index in range(5):
        scenes.load(index).image.resize((48 + index, 40)).save(folder / f"{index}.png")
    return folder


def predictions(output: str) -> list[dict]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def same(got: list[dict], expected: list[dict]) -> None:
    assert len(got) == len(expected) == 5
    for one, other in zip(got, expected):
        assert one["path"] == other["path"]
        shares, others = ({entry["name"]: entry["probability"] for entry in part["classes"]} for part in (one, other))
        assert shares.keys() == others.keys() and len(shares) == 10
        for name, share in others.items():
            assert abs(shares[name] - share) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_classifier_predicts_what_the_run_predicts(classifier, images, tmp_path, form):
    shown = run("export", classifier, "--format", form, "-o", tmp_path / "model")
    assert "largest difference: logits" in shown
    live, exported = (predictions(run("predict", source, images, "--json", "--top", "10"))
                      for source in (classifier, tmp_path / "model"))
    same(exported, live)
    known = load_exported(tmp_path / "model").description
    assert known.classes == tuple(load_classifier(str(classifier))[2]) and known.crop_share == 0.9
    assert (known.kind, known.format, known.image_size) == ("classifier", form, (32, 32))


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_classifier_is_measured_and_served_as_the_run_is(classifier, tmp_path, form):
    run("export", classifier, "--format", form, "-o", tmp_path / "model")
    scenes = DigitScenes("test", size=40, image_size=48)
    for index in range(40):
        sample = scenes.load(index)
        (tmp_path / f"data/{sample.label}").mkdir(parents=True, exist_ok=True)
        sample.image.save(tmp_path / f"data/{sample.label}/{index}.png")
    first = [run("evaluate", source, "--data", tmp_path / "data", "-o", tmp_path / name).splitlines()[0]
             for name, source in (("live", classifier), ("exported", tmp_path / "model"))]
    assert first[0].split("loss")[0] == first[1].split("loss")[0]  # top-1 and top-5
    assert (tmp_path / "live/per_class.csv").read_text() == (tmp_path / "exported/per_class.csv").read_text()
    image = scenes.load(0).image
    shown = [build_views(str(source), None, None, None, 0)[0].show(image).classes
             for source in (classifier, tmp_path / "model")]
    assert [one.name for one in shown[0]] == [one.name for one in shown[1]]
    assert [one.probability for one in shown[0]] == pytest.approx([one.probability for one in shown[1]], abs=1e-5)


@needs_onnx
def test_an_onnx_classifier_needs_no_paddle(classifier, images, tmp_path):
    run("export", classifier, "--format", "onnx", "-o", tmp_path / "model")
    said = subprocess.run([sys.executable, "-c", NO_PADDLE, "predict", str(tmp_path / "model"), str(images), "--json",
                           "--top", "10"], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    same(predictions(said.stdout), predictions(run("predict", classifier, images, "--json", "--top", "10")))


@pytest.mark.parametrize("form", FORMS)
def test_features_of_a_fine_tuned_backbone_are_those_its_head_reads(classifier, form):
    run("export", classifier, "--format", form, "--kind", "features")
    model, _, _ = load_classifier(str(classifier))
    images = np.random.default_rng(1).random((2, 3, 32, 32), dtype=np.float32)
    batch = paddle.to_tensor(normalise(images))
    got = load_exported(classifier / f"exported/features_{form}").run(images)
    np.testing.assert_allclose(got["mean"], model.features(batch).numpy(), atol=1e-5)
    np.testing.assert_allclose(got["patches"], model.patch_tokens(batch).numpy(), atol=1e-5)


def test_a_classifier_that_pools_its_class_token_is_exported_too(tmp_path):
    model = BEiTClassifier(num_classes=3, pooling="cls", image_size=16, patch_size=8, width=12, depth=2, num_heads=2,
                           use_rel_pos_bias=True)
    model.eval()
    export_model(exportable_features(model), tmp_path / "features", form="paddle")
    with pytest.raises(ConfigError, match="2 class names for a classifier of 3 classes"):
        exportable_logits(model, kind="classifier", classes=("a", "b"), image_size=(16, 16), crop_share=1.0)


def test_a_folder_for_paddlex_holds_the_class_names_and_gives_probabilities(tmp_path):
    from beitv2_cls.plugins.paddlex import TopkOfLogits

    model = BEiTClassifier(num_classes=3, image_size=16, patch_size=8, width=12, depth=2, num_heads=2)
    model.eval()
    names = ("猫", "dog: big", "no")  # the last is false in YAML
    export_model(exportable_logits(model, kind="classifier", classes=names, image_size=(16, 16), crop_share=0.5),
                 tmp_path / "px", form="paddlex")
    known = yaml.safe_load((tmp_path / "px/inference.yml").read_text(encoding="utf-8"))
    assert known["Global"] == {"model_name": "BEiTv2-classifier"}
    assert known["PostProcess"] == {"Topk": {"topk": 3, "label_list": list(names)}}
    resize, crop, *_ = known["PreProcess"]["transform_ops"]
    assert resize["ResizeImage"]["resize_short"] == 32 and crop == {"CropImage": {"size": [16, 16]}}
    assert load_exported(tmp_path / "px", kind="classifier").description.classes == names
    logits = np.log(np.array([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]], dtype=np.float32))
    numbers, shares = TopkOfLogits(lambda preds, topk: (preds[0].argsort(1)[:, ::-1][:, :topk], preds[0]))([logits], 2)
    assert [list(one) for one in numbers] == [[1, 0], [0, 2]] and isinstance(numbers, list)
    np.testing.assert_allclose(shares, np.exp(logits), atol=1e-6)


@pytest.mark.parametrize("command", [["predict", "{folder}", "{images}"],
                                     ["tokenize", "{images}", "-t", "{folder}", "-o", "{out}"]])
def test_an_export_of_another_kind_is_refused(classifier, images, tmp_path, command):
    folder = tmp_path / "features"
    kind = [] if command[0] == "tokenize" else ["--kind", "features"]
    run("export", classifier, "--format", "paddle", "-o", folder, *kind)
    words = {"folder": folder, "images": images, "out": tmp_path / "out.npz"}
    said = run(*[part.format(**words) for part in command], code=2)
    assert "was expected" in " ".join(said.split())


def test_the_likeliest_classes_come_first_and_all_are_given_where_there_are_few(classifier, images):
    model, config, classes = load_classifier(str(classifier))
    (found,) = predict(model, [str(images / "0.png")], config.data.image_size, classes, top=99)
    shares = [share for _, share in found.classes]
    assert len(shares) == 10 and shares == sorted(shares, reverse=True) and abs(sum(shares) - 1) < 1e-5
