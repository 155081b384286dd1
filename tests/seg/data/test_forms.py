# SPDX-License-Identifier: Apache-2.0
"""Every form of segmentation data gives the label maps it was made from, or an error that says what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import forms
import numpy as np
import pytest
from forms import check_equal, of_form
from own_data import as_png, config_file, scene
from seg_runs import segment

from beitv2_core.errors import ConfigError, DataError
from beitv2_seg.assembly import build_dataset, class_names
from beitv2_seg.assembly.data import with_found_classes
from beitv2_seg.data.forms import find_samples, samples_of
from beitv2_seg.data.forms.cityscapes import label_ids
from beitv2_seg.data.forms.voc import CLASSES as VOC_CLASSES

# -- folders -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kinds", [("images", "masks"), ("imgs", "annotations"), ("Images", "Labels")])
@pytest.mark.parametrize("part_first", [False, True])
def test_folders_of_images_and_label_maps_are_read_in_their_parts(tmp_path, kinds, part_first):
    made = forms.write_folders(tmp_path, ("train", "val"), images=kinds[0], labels=kinds[1], part_first=part_first)
    for part in ("train", "val"):
        found = find_samples(tmp_path, part=part)
        assert (found.form, found.part) == ("folders", part)
        check_equal(found, made[part])


def test_a_folder_without_parts_and_folders_of_other_names_are_read(tmp_path):
    made = forms.write_folders(tmp_path, ("",), images="frames", labels="truth")
    with pytest.raises(DataError, match="no form.*images: FOLDER and labels: FOLDER"):
        find_samples(tmp_path)
    found = find_samples(tmp_path, images="frames", labels="truth")
    assert found.part is None
    check_equal(found, made[""])


@pytest.mark.parametrize("suffix", ["_mask", "_segmentation", "-mask"])
def test_label_maps_beside_their_images_and_with_a_suffix_in_their_own_folder_are_read(tmp_path, suffix):
    beside = forms.write_folders(tmp_path / "beside", images="", labels="", suffix=suffix)
    apart = forms.write_folders(tmp_path / "apart", suffix=suffix)
    for root, form, made in (("beside", "suffix", beside), ("apart", "folders", apart)):
        found = find_samples(tmp_path / root, part="val")
        assert found.form == form
        check_equal(found, made["val"])


def test_another_suffix_is_named_in_the_settings(tmp_path):
    made = forms.write_folders(tmp_path, ("",), images="", labels="", suffix="_P")
    check_equal(find_samples(tmp_path, label_suffix="_P"), made[""])


def test_an_image_without_label_map_and_a_label_map_without_image_are_named(tmp_path):
    forms.write_folders(tmp_path, ("",))
    (tmp_path / "images" / "p1.jpg").rename(tmp_path / "images" / "q1.jpg")
    with pytest.raises(DataError, match=r"1 of 3 images have no label map: .*q1\.jpg.*train_path"):
        find_samples(tmp_path)
    (tmp_path / "images" / "q1.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 label maps have no image: .*p1\.png.*move them away"):
        find_samples(tmp_path)


def test_two_images_of_one_name_two_label_folders_and_two_forms_are_refused(tmp_path):
    forms.write_folders(tmp_path / "twins", ("",))
    shutil.copy(tmp_path / "twins" / "images" / "p0.jpg", tmp_path / "twins" / "images" / "p0.png")
    with pytest.raises(DataError, match=r"p0\.jpg and p0\.png differ in the ending only"):
        find_samples(tmp_path / "twins")
    forms.write_folders(tmp_path / "labels", ("",))
    shutil.copytree(tmp_path / "labels" / "masks", tmp_path / "labels" / "annotations")
    with pytest.raises(DataError, match="annotations and masks could both be .*labels: annotations"):
        find_samples(tmp_path / "labels")
    made = forms.write_folders(tmp_path / "two")["train"]
    forms.write_voc(tmp_path / "two")
    with pytest.raises(DataError, match=r"could be folders .* and voc .*form: folders"):
        find_samples(tmp_path / "two")
    check_equal(find_samples(tmp_path / "two", form="folders"), made)


def test_a_part_that_is_not_there_and_an_empty_folder_say_what_is_expected(tmp_path):
    forms.write_folders(tmp_path / "train_only", ("train",))
    with pytest.raises(DataError, match=r"no part for mode val .*found: train.*held_out"):
        find_samples(tmp_path / "train_only", part="val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty.*cityscapes: .*train_path: FILE"):
        find_samples(tmp_path / "empty")
    with pytest.raises(ConfigError, match="form: 'pascal' is unknown; expected one of list, folders"):
        find_samples(tmp_path, form="pascal")


def test_a_list_is_found_as_before(tmp_path):
    image, label = scene()
    forms.save_pair(tmp_path / "a.jpg", image, tmp_path / "b.png", label)
    (tmp_path / "all.txt").write_text("a.jpg b.png\n")
    for found in (find_samples(tmp_path / "all.txt"), find_samples(tmp_path, list_file=str(tmp_path / "all.txt"))):
        assert found.form == "list"
        check_equal(found, {"a": label})


# -- Cityscapes and Pascal VOC -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ["labelIds", "labelTrainIds"])
def test_cityscapes_gives_train_ids_and_its_19_names(tmp_path, kind):
    made = forms.write_cityscapes(tmp_path, kind=kind)
    for part in ("train", "val"):
        found = find_samples(tmp_path, part=part)
        assert (found.form, len(found.classes), found.classes[13]) == ("cityscapes", 19, "car")
        check_equal(found, made[part])
    assert (found.label(0)[0] == 255).all()
    other = find_samples(tmp_path, ignored=19)
    assert (other.label(0)[0] == 19).all()


def test_the_official_label_ids_are_mapped_to_the_official_train_ids():
    table = label_ids()
    assert [table[str(number)] for number in range(34)] == [
        255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9, 10, 11, 12, 13,
        14, 15, 255, 255, 16, 17, 18]


def test_cityscapes_that_lacks_label_maps_and_labels_it_does_not_know_are_named(tmp_path):
    forms.write_cityscapes(tmp_path)
    file = sorted((tmp_path / "gtFine" / "val").rglob("*.png"))[0]
    as_png(np.full((40, 48), 77, np.uint8), file)
    with pytest.raises(DataError, match=f"{file.name}: labels 77 "):
        find_samples(tmp_path, part="val").label(0)
    with pytest.raises(DataError, match="0 files .*labelTrainIds"):
        find_samples(tmp_path, labels="labelTrainIds")
    file.unlink()
    with pytest.raises(DataError, match="1 of 3 images have no label map"):
        find_samples(tmp_path, part="val")


def test_voc_gives_the_indices_of_palettes_void_and_its_21_names(tmp_path):
    made = forms.write_voc(tmp_path / "VOCdevkit" / "VOC2012")
    for root in (tmp_path, tmp_path / "VOCdevkit", tmp_path / "VOCdevkit" / "VOC2012"):
        for part in ("train", "val"):
            found = find_samples(root, part=part)
            assert (found.form, len(found.classes), found.classes[15]) == ("voc", 21, "person")
            check_equal(found, made[part])


def test_a_name_of_voc_without_files_is_named_by_list_and_line(tmp_path):
    forms.write_voc(tmp_path)
    with open(tmp_path / "ImageSets" / "Segmentation" / "val.txt", "a", encoding="utf-8") as file:
        file.write("2007_000000\n")
    with pytest.raises(DataError, match=r"val\.txt, line 4: there is no image '2007_000000' in .*JPEGImages"):
        find_samples(tmp_path, part="val")
    with pytest.raises(DataError, match=r"test\.txt: no such file.*train\.txt, val\.txt"):
        find_samples(tmp_path, part="test")


# -- COCO --------------------------------------------------------------------------------------------------------------

@pytest.fixture
def coco(tmp_path):
    pytest.importorskip("pycocotools", reason="pycocotools is not installed: pip install 'beitv2-seg[coco]'")
    return forms.write_coco(tmp_path)


def test_polygons_and_both_run_lengths_of_coco_give_the_label_maps_of_their_rectangles(tmp_path, coco):
    for part in ("train", "val"):
        found = find_samples(tmp_path, part=part, unlabelled="background")
        assert (found.form, found.part, found.classes) == ("coco", part, ["background", "red", "green"])
        check_equal(found, coco[part])
    ignored = find_samples(tmp_path, unlabelled="ignore")
    assert ignored.classes == ["red", "green"]
    check_equal(ignored, {name: np.where(label == 0, 255, label - 1) for name, label in coco["train"].items()})


def test_crowds_lie_below_and_are_ignored_and_a_json_can_be_given_itself(tmp_path, coco):
    file = tmp_path / "annotations" / "instances_train.json"
    tree = json.loads(file.read_text())
    tree["annotations"].append({"id": 9, "image_id": 10, "category_id": 3, "iscrowd": 1, "segmentation": {
        "size": [40, 48], "counts": forms.runs(np.ones((40, 48), np.uint8))}})
    file.write_text(json.dumps(tree))
    found = find_samples(file, unlabelled="background")
    label = coco["train"]["trainp0"]
    np.testing.assert_array_equal(found.label(0), np.where(label == 0, 255, label))


def test_categories_are_the_classes_of_their_names_where_classes_are_named(tmp_path, coco):
    swapped = find_samples(tmp_path, unlabelled="background", classes=["green", "background", "red", "blue"])
    check_equal(swapped, {name: np.array([1, 2, 0])[label] for name, label in coco["train"].items()})
    with pytest.raises(DataError, match="its categories green are none of the classes background, red"):
        find_samples(tmp_path, unlabelled="background", classes=["background", "red"])


@pytest.mark.parametrize(("change", "facts"), [
    (lambda tree: tree["annotations"][0].update(category_id=5), "annotations have category 5; .*3 \\(red\\)"),
    (lambda tree: tree["annotations"][0].update(image_id=5), "annotation 100 is of image 5"),
    (lambda tree: tree["images"][1].update(file_name="gone.jpg"), "1 of its 3 images are not in .*gone.jpg"),
    (lambda tree: tree["images"][0].pop("height"), r"images\[0\] has no height"),
    (lambda tree: tree.pop("categories"), "no list 'categories'"),
    (lambda tree: tree["images"][0].update(height=-5), r"images\[0\]: height is -5"),
    (lambda tree: tree["images"][0].update(id=[1]), r"images\[0\]: id is \[1\]"),
    (lambda tree: tree["images"][0].update(file_name="x" * 5000), "is in none of|images are not in"),
    (lambda tree: tree["annotations"][0].update(category_id=float("inf")), r"annotations\[0\]: category_id is inf"),
    (lambda tree: tree["annotations"][0].update(image_id={}), r"annotations\[0\]: image_id is \{\}"),
    (lambda tree: tree["categories"][0].update(id="x"), r"categories\[0\]: id is x"),
])
def test_a_coco_file_that_contradicts_itself_is_named(tmp_path, change, facts):
    forms.write_coco(tmp_path)
    file = tmp_path / "annotations" / "instances_train.json"
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=facts):
        find_samples(tmp_path, form="coco", unlabelled="ignore")


@pytest.mark.parametrize("outline", [[], [[1, 2, 3, 4]], {"size": [40, 47], "counts": [1880]},
                                     {"size": [40, 48], "counts": [7]}, None,
                                     # what ends the process when it is drawn, or takes all its memory
                                     [[1, 1, 1e9, 1, 20, 20]], [[1, 1, 1e18, 1, 20, 20]], [[1, 1, -1e9, 1, 20, 20]],
                                     [[1, 1, float("nan"), 1, 9, 9]], [[0, 0, 9e5, 0] * 50], [[1, 1, "x", 1, 9, 9]],
                                     {"size": [40, 48], "counts": [-1, 1921]}, {"size": 7, "counts": [1920]},
                                     {"size": [40, 48], "counts": "~" * 5000}, {"size": [40, 48], "counts": 3},
                                     {"size": [40, 48], "counts": ["1", 1919]}])
def test_an_outline_that_cannot_be_drawn_is_named_by_its_annotation(tmp_path, coco, outline):
    file = tmp_path / "annotations" / "instances_train.json"
    tree = json.loads(file.read_text())
    tree["annotations"][0]["segmentation"] = outline
    file.write_text(json.dumps(tree))
    with pytest.raises(DataError, match="annotation 100 of .*p0.jpg: its "):
        find_samples(tmp_path, unlabelled="ignore").label(0)


def test_what_pixels_without_annotation_are_must_be_said(tmp_path):
    forms.write_coco(tmp_path)
    with pytest.raises(DataError, match="unlabelled: background .*unlabelled: ignore"):
        find_samples(tmp_path)


# -- settings ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("write", "count", "last"), [(forms.write_voc, 21, "tvmonitor"),
                                                      (forms.write_cityscapes, 19, "bicycle")])
def test_names_found_in_the_data_are_the_runs_and_their_number_is_checked(tmp_path, write, count, last):
    made = write(tmp_path / "data")
    config = of_form(tmp_path / "data", tmp_path, model__num_classes=count)
    for where, part in (("train_dataset", "train"), ("val_dataset", "val")):
        dataset = build_dataset(config, where)
        check_equal(dataset.samples, made[part])
        np.testing.assert_array_equal(dataset.label(0), dataset.samples.label(0))
    assert class_names(with_found_classes(config, dataset))[-1] == last
    with pytest.raises(ConfigError, match=f"model.num_classes: 3, but .* has {count} classes"):
        build_dataset(of_form(tmp_path / "data", tmp_path), "train_dataset")


def test_a_table_of_classes_replaces_the_forms_own_numbers(tmp_path):
    made = forms.write_cityscapes(tmp_path / "data")
    config = of_form(tmp_path / "data", tmp_path, model__num_classes=2,
                     classes={"road": 7, "other": [8, 11], "ignore": "rest"})
    dataset = build_dataset(config, "val_dataset")
    expected = {name: np.array([0, 1, 1] + [255] * 253)[label] for name, label in made["val"].items()}
    for number, (image, _) in enumerate(dataset.file_list):
        np.testing.assert_array_equal(dataset.label(number), expected[Path(image).stem])
    assert class_names(config) == ["road", "other"]


def test_training_and_validation_on_the_same_folder_are_refused_with_the_remedy(tmp_path):
    forms.write_folders(tmp_path / "data", ("",))
    config = of_form(tmp_path / "data", tmp_path)
    assert len(build_dataset(config, "train_dataset")) == 3
    with pytest.raises(ConfigError, match="both would read all 3 images.*held_out: 0.2"):
        build_dataset(config, "val_dataset")


def test_a_misspelt_argument_is_told_before_what_follows_from_it(tmp_path):
    forms.write_folders(tmp_path / "data", ("train", "val"), images="frames", labels="truth")
    with pytest.raises(ConfigError, match="train_dataset.imges: unknown key. Did you mean 'images'"):
        build_dataset(of_form(tmp_path / "data", tmp_path, train_dataset__imges="frames"), "train_dataset")


def test_settings_and_folders_are_read_without_paddle(tmp_path):
    forms.write_folders(tmp_path / "data")
    of_form(tmp_path / "data", tmp_path)
    code = ("import sys; from beitv2_seg.config import read_config_file; from beitv2_seg.data.forms import samples_of; "
            f"print(len(samples_of(read_config_file({str(tmp_path / 'own.yml')!r}), 'val_dataset').files)); "
            "assert 'paddle' not in sys.modules")
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "3\n"


def test_a_run_on_voc_without_lists_learns_and_names_its_classes_in_every_result(tmp_path):
    forms.write_voc(tmp_path / "data")
    config = config_file(tmp_path / "data", tmp_path, train_dataset__train_path=None, val_dataset__val_path=None)
    segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", "--do_eval", "--opts",
            "model.num_classes=21", "test_config.window_weights=gaussian")
    segment("evaluate", "--model_path", tmp_path / "run", "--window_weights", "uniform", "--num_workers", 0)
    rows = (tmp_path / "run" / "per_class_iou.csv").read_text().splitlines()
    assert rows[2].startswith("1,aeroplane,") and int(rows[2].split(",")[2]) > 0 and rows[21].startswith("20,tvmon")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["final"]["classes_labelled"] == 3
    shutil.rmtree(tmp_path / "data" / "ImageSets")  # the names are the run's: prediction needs no data
    segment("predict", "--model_path", tmp_path / "run", "--image_path", tmp_path / "data" / "JPEGImages", "--save_dir",
            tmp_path / "found", "--window_weights", "gaussian", "--num_workers", 0)
    names = [row.split(",")[1] for row in (tmp_path / "found" / "legend.csv").read_text().splitlines()[1:]]
    assert names and set(names) <= set(VOC_CLASSES)


def test_a_coco_run_trains_and_does_not_go_on_with_classes_in_another_order(tmp_path, coco):
    config = config_file(tmp_path, tmp_path / "own", train_dataset__train_path=None, val_dataset__val_path=None,
                         train_dataset__unlabelled="background", val_dataset__unlabelled="background")
    train = ("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", "--do_eval")
    segment(*train)
    assert "3 of 3 classes measured" in segment("evaluate", "--model_path", tmp_path / "run", "--num_workers",
                                                     0)
    assert segment(*train, "--resume_model", "auto")
    output = segment(*train, "--resume_model", "auto", "--opts", "classes=[background, green, red]", code=2)
    assert "classes" in output and "green" in output
    annotations = tmp_path / "annotations" / "instances_train.json"
    tree = json.loads(annotations.read_text())
    tree["annotations"][1]["category_id"] = 3
    annotations.write_text(json.dumps(tree))
    assert "other images" in segment(*train, "--resume_model", "auto", code=2)


# -- cases of users, where they are ------------------------------------------------------------------------------------

CASES = os.environ.get("BEITV2_FIELD_CASES")  # a program that makes them: make_cases.py FOLDER


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    if not CASES:
        pytest.skip("BEITV2_FIELD_CASES names no program that makes the cases")
    folder = tmp_path_factory.mktemp("cases")
    subprocess.run([sys.executable, CASES, str(folder)], check=True, capture_output=True)
    return folder / "seg"


@pytest.mark.parametrize(("case", "table"), [
    ("ok", None), ("spaces", None), ("chinese", None), ("rgbidx", None), ("rgba", None),
    ("one_to_n", {"ground": 1, "red": 2, "green": 3}),
    ("palette", {"ground": "#000000", "red": [128, 0, 0], "green": [0, 128, 0], "ignore": "#e0e0c0"}),
    ("rgbcol", {"ground": "#000000", "red": [128, 0, 0], "green": [0, 128, 0]}),
])
def test_folders_of_the_field_are_read_without_their_lists(tmp_path, field, case, table):
    listed = find_samples(field / case / "train.txt") if table is None else None
    changes = {} if table is None else {"classes": table}
    found = samples_of(of_form(field / case, tmp_path, **changes), "train_dataset")
    assert (found.form, len(found.files)) == ("folders", 8)
    for number in range(8):
        label = found.label(number)
        if listed is not None:
            np.testing.assert_array_equal(label, listed.label(number))
        assert set(np.unique(label)) - {255} == {0, 1, 2}
