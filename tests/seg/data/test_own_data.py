# SPDX-License-Identifier: Apache-2.0
"""Other people's images and lists through the commands: one reader, one ignored label, no number made up."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from own_data import SIZE, as_png, config_file, scene, settings, write_data
from PIL import Image
from seg_runs import segment

from beitv2_core.errors import ConfigError, DataError
from beitv2_seg.assembly import build_dataset, build_segmentation, class_names
from beitv2_seg.config import find_config, read_config_file, refuse_for_paddleseg
from beitv2_seg.data.coverage import coverage_lines
from beitv2_seg.data.file_samples import read_image
from beitv2_seg.data.transforms import BEiTv2Normalize, BEiTv2Resize
from beitv2_seg.reading.predict import named_images, result_names

# -- reading -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_8_bit_images_have_the_pixels_opencv_gives(tmp_path, ending):
    image = cv2.resize(scene()[0], (211, 97), interpolation=cv2.INTER_CUBIC)
    Image.fromarray(image).save(tmp_path / f"a.{ending}", quality=83)
    expected = cv2.imread(str(tmp_path / f"a.{ending}"))[..., ::-1]
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{ending}"), expected)


def with_turn(orientation):
    def save(image, path):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(image).save(path, quality=95, exif=exif)
    return save


def in_16_bits(image, path):
    Image.fromarray((image.astype(np.float64).mean(2) * 257).astype(np.uint16)).save(path)


@pytest.mark.parametrize(("save", "ending"), [(with_turn(3), "jpg"), (in_16_bits, "png"),
                                              (lambda a, p: Image.fromarray(a).save(p), "gif")])
def test_predict_sees_the_pixels_that_training_and_evaluation_see(tmp_path, save, ending, monkeypatch):
    write_data(tmp_path / "data", save_image=save, image="images/p{}." + ending)
    config = config_file(tmp_path / "data", tmp_path)
    segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run")
    segment("evaluate", "--model_path", tmp_path / "run")
    counts = np.load(tmp_path / "run" / "confusion.npy")
    segment("predict", "--model_path", tmp_path / "run", "--image_path", tmp_path / "data" / "images",
            "--save_dir", tmp_path / "found")
    again = np.zeros_like(counts)
    for i in range(4):
        found = np.asarray(Image.open(tmp_path / "found" / "pseudo_color_prediction" / f"p{i}.png")).astype(np.int64)
        label = np.asarray(Image.open(tmp_path / "data" / "labels" / f"p{i}.png")).astype(np.int64)
        np.add.at(again, (label, found), 1)
    np.testing.assert_array_equal(again, counts)


def test_labels_of_an_unturned_photograph_are_named_with_the_turn(tmp_path):
    write_data(tmp_path / "data", save_image=with_turn(6), image="images/p{}.jpg")
    dataset = build_dataset(settings(tmp_path / "data", tmp_path), "train_dataset")
    with pytest.raises(DataError, match=r"labels/p0.png: .*48 x 40.*40 x 48.*EXIF"):
        dataset[0]


def test_bytes_and_floats_go_through_our_transforms_to_the_same_result():
    pixels = scene()[0]
    results = []
    for image in (pixels, pixels.astype(np.float32)):
        data = {"img": image, "gt_fields": []}
        for step in (BEiTv2Resize(scale=(128, 32)), BEiTv2Normalize()):
            data = step(data)
        results.append(data["img"])
    np.testing.assert_array_equal(*results)


def test_a_format_that_is_not_read_is_named(tmp_path):
    write_data(tmp_path / "data")
    photograph = b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(99)
    (tmp_path / "data" / "images" / "p0.png").write_bytes(photograph)
    dataset = build_dataset(settings(tmp_path / "data", tmp_path), "train_dataset")
    with pytest.raises(DataError, match=r"p0.png.*(HEIC|HEIF)"):
        dataset[0]


def test_too_many_pixels_name_the_setting_of_segmentation(tmp_path):
    write_data(tmp_path / "data", count=1)
    dataset = build_dataset(settings(tmp_path / "data", tmp_path, run={"max_pixels": 100}), "train_dataset")
    with pytest.raises(DataError, match=r"run.max_pixels allows 100"):
        dataset[0]


LISTS = {
    "crlf": lambda lines: "\r\n".join(lines).encode(),
    "byte order mark": lambda lines: b"\xef\xbb\xbf" + "\n".join(lines).encode(),
    "blank lines": lambda lines: ("\n".join(lines) + "\n\n \n").encode(),
    "backslashes": lambda lines: "\n".join(lines).replace("/", "\\").encode(),
    "tabs": lambda lines: "\n".join(line.replace(" ", "\t") for line in lines).encode(),
    "commas": lambda lines: "\n".join(line.replace(" ", ",") for line in lines).encode(),
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_are_read_as_people_write_them(tmp_path, form):
    root = tmp_path / "data"
    lines = write_data(root)
    (root / "train.txt").write_bytes(LISTS[form](lines))
    for where in ("train_dataset", "val_dataset"):
        dataset = build_dataset(settings(root, tmp_path), where)
        assert [pair[1].replace("\\", "/")[-len("labels/p0.png"):] for pair in dataset.file_list] == [
            f"labels/p{i}.png" for i in range(4)]
        assert dataset[0]["label"].max() == 2


def test_names_with_blanks_and_chinese_names_in_gbk_are_found(tmp_path):
    for name, encoding in (("p {}.png", "utf-8"), ("车牌{}.png", "gbk")):
        root = tmp_path / encoding
        lines = write_data(root, image=f"images/{name}", label=f"labels/{name}")
        (root / "train.txt").write_bytes("\n".join(lines).encode(encoding))
        assert len(build_dataset(settings(root, tmp_path), "train_dataset")) == 4
        (root / "only.txt").write_bytes("\n".join(f"images/{name.format(i)}" for i in range(4)).encode(encoding))
        assert len(named_images([str(root / "only.txt")], leave_out=tmp_path / "out")) == 4


def test_the_separator_of_the_yaml_parts_the_columns(tmp_path):
    root = tmp_path / "data"
    lines = write_data(root)
    (root / "train.txt").write_text("\n".join(line.replace(" ", "@") for line in lines))
    config = settings(root, tmp_path, train_dataset__separator="@")
    assert len(build_dataset(config, "train_dataset")) == 4


def test_a_line_without_a_label_map_is_named_by_list_and_line(tmp_path):
    root = tmp_path / "data"
    lines = write_data(root)
    (root / "train.txt").write_text(f"{lines[0]}\nimages/p1.png\n")
    with pytest.raises(DataError, match=r"train.txt, line 2: .*image label_map"):
        build_dataset(settings(root, tmp_path), "train_dataset")


def test_a_label_outside_the_classes_names_the_label_map_in_training_and_in_evaluation(tmp_path):
    write_data(tmp_path / "data", label="masks/m{}.png",
               save_label=lambda label, path: as_png(np.array([0, 128, 255], np.uint8)[label], path))
    config = config_file(tmp_path / "data", tmp_path)
    output = segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", code=2)
    assert "masks/m" in output and "label_map: {128: 1, 255: 2}" in output
    write_data(tmp_path / "good")
    config = config_file(tmp_path / "good", tmp_path, val_dataset__dataset_root=str(tmp_path / "data"),
                         val_dataset__val_path=str(tmp_path / "data" / "train.txt"))
    output = segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "good_run", "--do_eval",
                     code=2)
    assert "masks/m0.png: a label is 128" in output


def test_unknown_arguments_of_dataset_and_missing_folders_are_named(tmp_path):
    write_data(tmp_path / "data")
    with pytest.raises(ConfigError, match="train_dataset.seperator: unknown key. Did you mean 'separator'"):
        build_dataset(settings(tmp_path / "data", tmp_path, train_dataset__seperator=","), "train_dataset")
    with pytest.raises(DataError, match="dataset_root: nowhere: no such folder"):
        build_dataset(settings(tmp_path / "data", tmp_path, train_dataset__dataset_root="nowhere"), "train_dataset")


# -- one ignored label, a mapping, names -------------------------------------------------------------------------------

def test_one_ignored_label_reaches_data_sets_losses_padding_crops_and_measures(tmp_path):
    def with_void(label, path):
        as_png(np.where(label == 2, 11, label).astype(np.uint8), path)

    write_data(tmp_path / "data", save_label=with_void)
    config = settings(tmp_path / "data", tmp_path, ignore_index=11, output=str(tmp_path / "run"))
    train_set = build_dataset(config, "train_dataset")
    crop, pad = train_set.transforms[1], train_set.transforms[3]
    assert (train_set.ignore_index, crop.ignore_index, pad.ignore_index) == (11, 11, 11)
    loop = build_segmentation(config)
    assert [loss.ignore_index for _, loss in loop.task.losses] == [11, 11]
    segment("train", "--config", config_file(tmp_path / "data", tmp_path, ignore_index=11), "--device", "cpu",
            "--save_dir", tmp_path / "run")
    output = segment("evaluate", "--model_path", tmp_path / "run")
    values = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert "classes measured" in output and values["classes"] == 3
    assert np.load(tmp_path / "run" / "confusion.npy").sum() < 4 * SIZE[0] * SIZE[1]  # void is not counted


@pytest.mark.parametrize(("changes", "keys"), [
    ({"ignore_index": 11, "train_dataset__transforms__3__ignore_index": 255},
     ("train_dataset.transforms[3].ignore_index: 255", "ignore_index is 11")),
    ({"train_dataset__ignore_index": 0, "loss__types__0__ignore_index": 255},
     ("train_dataset.ignore_index: 0", "loss.types[0].ignore_index is 255")),
])
def test_parts_that_ignore_different_labels_are_refused_with_both_keys(tmp_path, changes, keys):
    with pytest.raises(ConfigError) as error:
        settings(tmp_path, tmp_path, **changes)
    for key in keys:
        assert key in str(error.value)


def test_a_label_one_part_ignores_is_ignored_by_all(tmp_path):
    write_data(tmp_path / "data")
    config = settings(tmp_path / "data", tmp_path, train_dataset__ignore_index=7)
    assert config.ignored == 7 == build_dataset(config, "val_dataset").ignore_index


def test_a_mapping_reaches_every_command_and_survives_in_the_run(tmp_path):
    def mask(label, path):
        as_png(np.where(label > 0, 255, 0).astype(np.uint8), path)

    write_data(tmp_path / "data", save_label=mask)
    config = config_file(tmp_path / "data", tmp_path, label_map={255: 1}, model__num_classes=2,
                         classes=["ground", "thing"])
    segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", "--do_eval")
    assert "2 of 2 classes measured" in segment("evaluate", "--model_path", tmp_path / "run")
    table = (tmp_path / "run" / "per_class_iou.csv").read_text().splitlines()
    assert table[1].startswith("0,ground,") and table[2].startswith("1,thing,") and int(table[2].split(",")[2]) > 0
    again = segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", "--resume_model",
                    "auto", "--opts", "label_map={255: 0}", code=2)
    assert "label_map.255: 1 -> 0" in again


@pytest.mark.parametrize(("changes", "fact"), [
    ({"label_map": {11: 3}}, "11 -> 3, but the model has 3 classes"),
    ({"label_map": {"red": 1}}, "'red' is no label"),
    ({"label_map": {1: 0}, "unlisted_labels": 7}, "unlisted_labels: 7, but the model has 3 classes"),
    ({"unlisted_labels": "refuse"}, "there is no label_map"),
    ({"held_out": 1.5}, "held_out: 1.5; expected a share"),
    ({"classes": ["a", "b"]}, "2 different names, but model.num_classes is 3"),
])
def test_mappings_and_names_that_cannot_hold_are_refused(tmp_path, changes, fact):
    with pytest.raises(ConfigError, match=fact):
        settings(tmp_path, tmp_path, **changes)


def test_names_of_classes_come_from_a_list_or_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("\ufeffsky\r\nroad\r\ntree car\r\n", encoding="utf-8")
    config = settings(tmp_path, tmp_path, classes=str(tmp_path / "names.txt"))
    assert class_names(config) == ["sky", "road", "tree car"]
    with pytest.raises(ConfigError, match="classes: nowhere.txt: cannot be read"):
        settings(tmp_path, tmp_path, classes="nowhere.txt")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "utf-16"])
def test_names_given_to_a_trained_run_are_shown_whatever_their_file_is_encoded_in(tmp_path, encoding):
    write_data(tmp_path / "data")
    segment("train", "--config", config_file(tmp_path / "data", tmp_path), "--save_dir", tmp_path / "run", "--iters", 1,
            "--opts", "lr_scheduler.warmup=0")
    (tmp_path / "names.txt").write_bytes("道路\n天空\n车牌\n".encode(encoding))
    segment("evaluate", "--model_path", tmp_path / "run", "--save_dir", tmp_path / "out", "--opts",
            f"classes={tmp_path / 'names.txt'}")
    rows = (tmp_path / "out" / "per_class_iou.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == ["道路", "天空", "车牌"]


def test_a_file_of_names_that_cannot_be_read_and_another_model_for_a_run_are_refused(tmp_path):
    write_data(tmp_path / "data")
    config = config_file(tmp_path / "data", tmp_path)
    output = segment("train", "--config", config, "--opts", "classes=nowhere.txt", code=2)
    assert "nowhere.txt" in output and "classes: [road, sky]" in output and "backbone" not in output
    segment("train", "--config", config, "--save_dir", tmp_path / "run", "--iters", 1, "--opts",
            "lr_scheduler.warmup=0")
    output = segment("evaluate", "--model_path", tmp_path / "run", "--opts", "model.num_classes=4", code=2)
    assert "model.num_classes=4" in output and "Leave" in output


def test_keys_that_paddlesegs_scripts_would_read_over_are_refused_for_them(tmp_path):
    for key, value in (("ignore_index", 11), ("label_map", {11: 255}), ("classes", ["a", "b", "c"]),
                       ("held_out", 0.2)):
        with pytest.raises(ConfigError, match=f"{key}: a key of `beitv2 segment`"):
            refuse_for_paddleseg(str(config_file(tmp_path, tmp_path, **{key: value})))
    refuse_for_paddleseg(str(find_config("beitv2_upernet")))


# -- classes without a labelled pixel ----------------------------------------------------------------------------------

def test_masks_of_0_and_255_are_warned_about_with_the_class_and_the_remedy(tmp_path, command_log):
    def mask(label, path):
        as_png(np.where(label > 0, 255, 0).astype(np.uint8), path)

    write_data(tmp_path / "data", save_label=mask)
    config = config_file(tmp_path / "data", tmp_path, model__num_classes=2, classes=["ground", "thing"])
    with command_log.at_level("INFO", "beitv2_seg"):
        segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", "--do_eval")
    warned = [record.getMessage() for record in command_log.records if record.levelname == "WARNING"]
    assert len(warned) == 2 and warned[0].startswith("training, first epoch") and "evaluation" in warned[1]
    for line in warned:
        assert "1 (thing)" in line and "label_map: {255: 1}" in line and "1 of 2 classes" in line
    assert any("1 of 2 classes measured" in record.getMessage() or "2 of 2 classes measured" in record.getMessage()
               for record in command_log.records)
    output = segment("evaluate", "--model_path", tmp_path / "run")
    assert "of 2 classes measured" in output and "1 (thing)" in output


def test_without_a_labelled_pixel_nothing_is_best_and_no_number_is_made_up(tmp_path, command_log):
    write_data(tmp_path / "data", save_label=lambda label, path: as_png(np.full_like(label, 255), path))
    config = config_file(tmp_path / "data", tmp_path)
    output = segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run", "--do_eval",
                     "--use_ema")
    text = (tmp_path / "run" / "summary.json").read_text()
    found = json.loads(text)["final"]
    assert found["best_miou"] is None and found["miou"] is None and "NaN" not in text and "-1" not in text
    assert "not measured" in output and "nan" not in output and not (tmp_path / "run" / "best_model").exists()
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    warned = [record.getMessage() for record in command_log.records if record.levelname == "WARNING"]
    assert sum("no pixel is labelled" in line for line in warned) == 2
    assert "mIoU not measured (0 of 3 classes measured)" in segment("evaluate", "--model_path", tmp_path / "run")


def test_a_class_that_is_never_seen_is_named_at_the_end_of_a_run_shorter_than_an_epoch(tmp_path, command_log):
    write_data(tmp_path / "data", count=12, save_label=lambda label, path: as_png(np.where(label == 2, 0, label), path))
    config = config_file(tmp_path / "data", tmp_path)
    segment("train", "--config", config, "--device", "cpu", "--save_dir", tmp_path / "run")
    warned = [record.getMessage() for record in command_log.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and "all 3 iterations" in warned[0] and "class 2 without" in warned[0]
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["final"]
    assert (found["classes_labelled"], found["classes"], found["iter"]) == (2, 3, 3) and found["loss"] > 0


def test_all_classes_labelled_needs_no_words_and_labels_from_1_a_hint():
    assert coverage_lines(np.array([5, 5, 3]), ["0", "1"], ignored=255, where="x") == []
    (line,) = coverage_lines(np.array([0, 5, 5, 0]), ["0", "1", "2"], ignored=255, where="x")
    assert "class 0 without" in line and "label_map: {1: 0, 2: 1, ...}" in line


# -- results -----------------------------------------------------------------------------------------------------------

def test_images_that_differ_in_the_ending_only_keep_both_results(tmp_path):
    names = [tmp_path / name for name in ("a.jpg", "a.png", "b.png", "a.jpg.png", "deep/a.png")]
    found = list(map(str, result_names(list(map(str, names)))))
    assert len(set(found)) == len(names) and found[2] == "b.png" and found[4] == "deep/a.png"
    assert found[0].startswith("a.jpg") and found[1].startswith("a.png")
    assert all(name.endswith(".png") for name in found)


def test_results_inside_the_image_folder_are_no_images_to_predict(tmp_path):
    write_data(tmp_path / "data")
    images = tmp_path / "data" / "images"
    for out in (images / "found", images):
        (out / "added_prediction").mkdir(parents=True)
        as_png(scene()[0], out / "added_prediction" / "p0.png")
        as_png(scene()[0], out / "legend.png")
        found = named_images([str(images)], leave_out=out)
        assert [path.rsplit("/", 1)[1] for path in found if "/found/" not in path and "legend" not in path
                and "added" not in path] == [f"p{i}.png" for i in range(4)]
        assert not any(str(out / "added_prediction") in path or path == str(out / "legend.png") for path in found)


def test_output_of_the_yaml_and_of_opts_hold_unless_save_dir_is_given(tmp_path):
    write_data(tmp_path / "data")
    config = config_file(tmp_path / "data", tmp_path, output=str(tmp_path / "of_yaml"))
    for where, more in (("of_yaml", []), ("of_opts", ["--opts", f"output={tmp_path / 'of_opts'}"]),
                        ("of_flag", ["--save_dir", tmp_path / "of_flag", "--opts", f"output={tmp_path / 'unused'}"])):
        segment("train", "--config", config, "--device", "cpu", "--iters", 1, *more)
        assert (tmp_path / where / "summary.json").is_file()
    assert not (tmp_path / "unused").exists()
    segment("predict", "--model_path", tmp_path / "of_yaml", "--image_path", tmp_path / "data" / "images", "--opts",
            f"output={tmp_path / 'predicted'}")
    assert (tmp_path / "predicted" / "legend.csv").is_file()


@pytest.mark.parametrize(("arguments", "fact"), [
    (("--iters", 0), "--iters: iters: 0"), (("--opts", "foo.bar=1"), "--opts: foo: unknown key"),
    (("--opts", "output"), "--opts output: expected key=value"),
])
def test_a_wrong_value_is_told_with_the_flag_that_was_typed(tmp_path, arguments, fact):
    write_data(tmp_path / "data")
    output = segment("train", "--config", config_file(tmp_path / "data", tmp_path), *arguments, code=2)
    assert fact in output and "--set" not in output


def test_a_dry_run_builds_all_takes_a_step_and_writes_nothing(tmp_path):
    write_data(tmp_path / "data")
    output = segment("train", "--config", config_file(tmp_path / "data", tmp_path), "--device", "cpu", "--dry-run",
                     "--save_dir", tmp_path / "run")
    assert "total batch: 2 = 2 images" in output and "one step: loss" in output and "memory of a process" in output
    assert not (tmp_path / "run").exists()


def test_the_example_for_own_data_loads_and_trains(tmp_path):
    def mask(label, path):
        as_png((label > 0).astype(np.uint8), path)

    write_data(tmp_path / "data", save_label=mask)
    data = [f"{part}_dataset.{key}" for part in ("train", "val") for key in (
        f"dataset_root={tmp_path / 'data'}", f"{part}_path={tmp_path / 'data' / 'train.txt'}")]
    backbone = "{_inherited_: false, type: BEiTv2, width: 12, depth: 4, num_heads: 2, image_size: 224}"
    output = segment("train", "--config", "own_data", "--device", "cpu", "--dry-run", "--batch_size", 1, "--opts",
                     *data, f"model.backbone={backbone}", "model.channels=4", "model.aux_channels=4")
    assert "one step: loss" in output and class_names(read_config_file("own_data")) == ["background", "object"]
