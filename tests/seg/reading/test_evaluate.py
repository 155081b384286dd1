# SPDX-License-Identifier: Apache-2.0
"""Evaluation and prediction: windows together or alone, scales, files written, images of any size."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image
from seg_runs import DIGITS, segment, train

from beitv2_core.errors import ConfigError, DataError, ShapeError
from beitv2_seg.assembly import build_dataset, build_model, image_transforms, load_segmentor
from beitv2_seg.config import TestConfig, read_config_file
from beitv2_seg.data.transforms import BEiTv2Normalize, BEiTv2Resize
from beitv2_seg.reading.evaluate import evaluate
from beitv2_seg.reading.inputs import multi_scale_inputs
from beitv2_seg.reading.label_map import predict_label_map
from beitv2_seg.reading.predict import class_colours, predict_image

SLIDE = dict(is_slide=True, crop_size=(64, 64), stride=(43, 43))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(folder)
    return folder


@pytest.fixture
def settings():
    return read_config_file("digit_scenes", opts=DIGITS)


def test_the_windows_computed_together_do_not_change_the_confusion_matrix(settings):
    spec = settings.val_dataset.model_copy(update={"image_size": 100, "size": 3})
    dataset = build_dataset(settings.model_copy(update={"val_dataset": spec}), "val_dataset")
    model = build_model(settings)
    counts = [evaluate(model, dataset, TestConfig(**SLIDE), num_classes=11, window_batch=together).counts
              for together in (1, 3, 9)]
    assert counts[0].sum() == 3 * 100 * 100 and model.training
    np.testing.assert_array_equal(counts[0], counts[1])
    np.testing.assert_array_equal(counts[0], counts[2])


def test_scales_are_read_from_the_original_image():
    pixels = np.random.RandomState(0).randint(0, 256, (60, 90, 3)).astype(np.uint8)
    steps = [BEiTv2Resize(scale=(128, 32)), BEiTv2Normalize()]

    def read():
        data = {"img": pixels, "trans_info": [], "gt_fields": []}
        for step in steps:
            data = step(data)
        return data

    found = multi_scale_inputs(read, steps, (0.5, 1.0, 2.0))
    assert [part["img"].shape[:2] for part in found] == [(16, 24), (32, 48), (64, 96)]
    assert steps[0].ratio == 1.0
    alone = BEiTv2Normalize()(BEiTv2Resize(scale=(128, 32), ratio=2.0)({"img": pixels, "gt_fields": []}))
    np.testing.assert_array_equal(found[2]["img"], alone["img"])
    with pytest.raises(ConfigError, match="no BEiTv2Resize"):
        multi_scale_inputs(read, steps[1:], (0.5, 1.0))


def test_flips_are_those_of_paddleseg_and_only_with_aug_eval():
    both = dict(flip_horizontal=True, flip_vertical=True)
    assert TestConfig(**both).flips == [()]
    assert TestConfig(aug_eval=True, **both).flips == [(), (3,), (2,), (2, 3)]
    assert TestConfig(aug_eval=True, flip_vertical=True).flips == [(), (2,)]
    assert TestConfig(aug_eval=True, scales=0.5).read_scales == (0.5,)


def test_a_window_is_written_width_first_as_paddleseg_does(settings):
    model = build_model(settings)
    data = {"img": np.zeros((3, 64, 100), dtype=np.float32)}
    predict_label_map(model, [data], TestConfig(is_slide=True, crop_size=(64, 64), stride=(30, 64)))
    with pytest.raises(ShapeError, match="stride"):
        predict_label_map(model, [data], TestConfig(is_slide=True, crop_size=(64, 64), stride=(65, 64)))


def test_without_windows_in_the_settings_a_image_of_another_size_is_read_by_windows_of_the_models_size(settings):
    model = build_model(settings)
    model.eval()
    data = {"img": np.random.RandomState(0).rand(3, 70, 100).astype(np.float32)}
    slid = predict_label_map(model, [data], TestConfig(is_slide=True, crop_size=(64, 64), stride=(42, 42)))
    np.testing.assert_array_equal(predict_label_map(model, [data], TestConfig()), slid)


def test_an_undecodable_image_stops_an_evaluation_by_name(settings):
    class Broken:
        num_classes, file_list = 11, [["missing.jpg", "missing.png"]]
        transforms = ()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            raise ValueError("no image")

    with pytest.raises(DataError, match=r"missing.jpg: cannot be read .* a measure must not leave images out"):
        evaluate(build_model(settings), Broken(), TestConfig(), num_classes=11)


def test_evaluate_writes_numbers_table_matrix_and_image(run, tmp_path):
    output = segment("evaluate", "--model_path", run, "--device", "cpu", "--save_dir", tmp_path)
    values = json.loads((tmp_path / "evaluation.json").read_text())
    assert values["images"] == 5 and f"mIoU {100 * values['miou']:.2f} %" in output
    with open(tmp_path / "per_class_iou.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    counts = np.load(tmp_path / "confusion.npy")
    assert [row["name"] for row in rows] == ["background", *map(str, range(10))]
    assert [int(row["labelled_pixels"]) for row in rows] == counts.sum(1).tolist()
    present = [float(row["iou"]) for row in rows if row["iou"]]
    assert np.mean(present) == pytest.approx(values["miou"], abs=1e-6)
    assert (tmp_path / "figures" / "iou.png").is_file()
    again = segment("evaluate", "--config", "digit_scenes", "--model_path", run / "iter_6" / "model.pdparams",
                    "--save_dir", tmp_path / "again", "--opts", *DIGITS)
    np.testing.assert_array_equal(np.load(tmp_path / "again" / "confusion.npy"), counts)
    assert "mIoU" in again


def test_predict_writes_overlay_raw_labels_and_legend_of_folders_files_and_any_size(run, tmp_path):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    random = np.random.RandomState(0)
    for name, mode, size in (("a.jpg", "RGB", (130, 70)), ("deep/b.png", "RGBA", (20, 33)), ("c.png", "L", (64, 64))):
        channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
        Image.fromarray(random.randint(0, 256, (size[1], size[0], *channels)).astype(np.uint8)).save(images / name)
    found = tmp_path / "found"
    output = segment("predict", "--model_path", run, "--image_path", images, "--save_dir", found,
                     "--is_slide", "--crop_size", 64, 64, "--stride", 43, 43, "--custom_color", 1, 2, 3)
    for name, size in (("a", (130, 70)), ("deep/b", (20, 33)), ("c", (64, 64))):
        raw = Image.open(found / "pseudo_color_prediction" / f"{name}.png")
        assert (raw.mode, raw.size) == ("P", size) and raw.getpalette()[:3] == [1, 2, 3]
        assert Image.open(found / "added_prediction" / f"{name}.png").size == size
        assert f"{name}.png" in output
    segmentor = load_segmentor(str(run))
    expected = predict_image(segmentor.model, np.asarray(Image.open(images / "a.jpg")),
                               image_transforms(segmentor.config), TestConfig(**SLIDE))
    np.testing.assert_array_equal(np.asarray(Image.open(found / "pseudo_color_prediction" / "a.png")), expected)
    with open(found / "legend.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["pixels"]) for row in rows) == 130 * 70 + 20 * 33 + 64 * 64
    assert (found / "legend.png").is_file()
    (tmp_path / "list.txt").write_text("images/a.jpg\n")
    segment("predict", "--model_path", run, "--image_path", tmp_path / "list.txt", "--save_dir", tmp_path / "one",
            "--is_slide", "--crop_size", 64, 64, "--stride", 43, 43)
    assert [path.name for path in (tmp_path / "one" / "added_prediction").iterdir()] == ["a.png"]
    (images / "c.png").write_bytes(b"nothing")
    output = segment("predict", "--model_path", run, "--image_path", images / "c.png", "--save_dir", tmp_path / "two",
                     code=2)
    assert "c.png: cannot be read as an image" in output


def test_the_colours_are_pascal_vocs_and_wrong_ones_are_refused():
    assert class_colours(4).tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert len(np.unique(class_colours(256), axis=0)) == 256
    with pytest.raises(ConfigError, match="three of 0 .. 255"):
        class_colours(4, [1, 2])


def test_the_browser_view_shows_what_predict_finds(run):
    pytest.importorskip("fastapi", reason="beitv2-core[serve] is not installed")
    from beitv2_seg.plugins.view import segmentor_view

    image = Image.fromarray(np.random.RandomState(1).randint(0, 256, (64, 64, 3)).astype(np.uint8))
    segmentor = load_segmentor(str(run))
    expected = predict_image(segmentor.model, np.asarray(image), image_transforms(segmentor.config),
                               segmentor.config.test_config)
    found = segmentor_view(str(run)).show(image)
    numbers = {name: i for i, name in enumerate(segmentor.classes)}
    assert {numbers[part.name]: part.share for part in found.classes} == {
        int(i): np.mean(expected == i) for i in np.unique(expected)}


def test_another_model_in_the_settings_of_a_run_is_said_not_to_be_read(run, settings, command_log):
    backbone = settings.model.backbone
    other = settings.model.model_copy(update={"backbone": backbone.model_copy(update={"depth": 7})})
    assert load_segmentor(str(run), settings).model.backbone.depth == settings.model.backbone.depth
    assert "not read" not in command_log.text
    found = load_segmentor(str(run), settings.model_copy(update={"model": other}))
    assert found.model.backbone.depth == settings.model.backbone.depth and "section model" in command_log.text
