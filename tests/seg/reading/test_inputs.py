# SPDX-License-Identifier: Apache-2.0
"""Images are read in worker processes with the result of one process."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from own_data import settings
from PIL import Image
from seg_runs import segment, train

from beitv2_core.data import workers
from beitv2_core.errors import DataError
from beitv2_seg.assembly import build_dataset, build_model, image_transforms
from beitv2_seg.config import TestConfig
from beitv2_seg.reading import inputs
from beitv2_seg.reading.evaluate import evaluate
from beitv2_seg.reading.predict import class_colours, predict_files

SIZES = ((40, 48), (64, 30), (33, 33), (25, 90), (70, 41))  # height, width
AUGMENTED = TestConfig(is_slide=True, crop_size=(32, 32), stride=(22, 22), aug_eval=True, scales=[0.75, 1.25],
                       flip_horizontal=True)


@pytest.fixture
def config(tmp_path):
    """Settings of a small model and five images of different sizes; some pixels have no class."""
    random, lines = np.random.RandomState(0), []
    (tmp_path / "data").mkdir()
    for i, size in enumerate(SIZES):
        label = random.choice([0, 1, 2, 255], size).astype(np.uint8)
        Image.fromarray(random.randint(0, 256, (*size, 3)).astype(np.uint8)).save(tmp_path / "data" / f"{i}.jpg")
        Image.fromarray(label).save(tmp_path / "data" / f"{i}.png")
        lines.append(f"{i}.jpg {i}.png\n")
    (tmp_path / "data" / "train.txt").write_text("".join(lines), encoding="utf-8")
    return settings(tmp_path / "data", tmp_path)


@pytest.fixture
def pools(monkeypatch):
    """The number of worker processes of every reader that started some."""
    started, start = [], workers.BatchReader._start_pool

    def spy(reader):
        started.append(reader.num_workers)
        return start(reader)

    monkeypatch.setattr(workers.BatchReader, "_start_pool", spy)
    return started


def message_of(call):
    with pytest.raises(DataError) as caught:
        call()
    return str(caught.value)


def test_an_evaluation_by_worker_processes_is_that_of_one_process_to_the_bit(config, pools):
    model, dataset = build_model(config), build_dataset(config, "val_dataset")
    alone, together = (evaluate(model, dataset, AUGMENTED, num_classes=3, num_workers=number) for number in (0, 2))
    assert pools == [2] and multiprocessing.active_children() == []
    assert alone.images == 5 and alone.ignored == together.ignored > 0
    np.testing.assert_array_equal(alone.counts, together.counts)
    assert alone.scores.miou == together.scores.miou
    np.testing.assert_array_equal(alone.scores.iou, together.scores.iou)
    np.testing.assert_array_equal(alone.scores.accuracy, together.scores.accuracy)


@pytest.mark.parametrize("name, content, expected", [
    ("2.jpg", b"no image", "cannot be read for the evaluation"), ("2.png", b"", "cannot be read for the evaluation"),
    ("2.png", np.full(SIZES[2], 7, np.uint8), "a label is 7"),
    ("2.png", np.zeros((5, 6), np.uint8), "Image and label must have the same size")])
def test_a_wrong_file_stops_an_evaluation_with_the_same_message_whoever_reads(config, tmp_path, name, content,
                                                                              expected):
    path = tmp_path / "data" / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)
    model, dataset = build_model(config), build_dataset(config, "val_dataset")
    alone, together = (message_of(lambda number=number: evaluate(model, dataset, AUGMENTED, num_classes=3,
                                                                 num_workers=number)) for number in (0, 2))
    assert str(path) in alone and expected in alone and alone == together
    assert multiprocessing.active_children() == []


def test_predictions_and_broken_files_are_the_same_whoever_reads(config, tmp_path, pools):
    model, steps = build_model(config), image_transforms(config)
    model.eval()
    paths = [str(tmp_path / "data" / f"{i}.jpg") for i in range(5)]

    def predicted(number):
        folder = tmp_path / f"found{number}"
        pixels = [item.pixels.tolist() for item in predict_files(
            model, paths, steps, AUGMENTED, folder, colours=class_colours(3), num_workers=number)]
        return pixels, [path.read_bytes() for path in sorted(folder.rglob("*.png"))]

    assert predicted(0) == predicted(2) and pools == [2]
    (tmp_path / "data" / "2.jpg").write_bytes(b"no image")
    alone, together = (message_of(lambda number=number: predicted(number)) for number in (0, 2))
    assert paths[2] in alone and alone == together
    assert multiprocessing.active_children() == []


def test_transforms_that_draw_draw_the_same_whoever_reads(config):
    class Drawing:
        file_list = [["a.jpg", "a.png"]]
        transforms = ()

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return {"img": np.random.rand(3, 4, 5), "label": np.zeros((1, 4, 5), np.uint8)}

    images = inputs.LabelledImages(Drawing(), (1.0,), num_classes=3)
    first, again = (next(images.in_order([0])) for _ in range(2))
    np.testing.assert_array_equal(first.inputs[0]["img"], again.inputs[0]["img"])


def test_the_evaluations_of_a_training_are_read_by_the_runs_workers_and_those_of_the_command_by_its_own(
        tmp_path, pools):
    train(tmp_path / "run", "--do_eval", "--save_interval", 6, "--num_workers", 2)
    assert pools == [2, 2]  # of the training, and of its one evaluation
    pools.clear()
    matrices = []
    for number in (0, 2):
        output = segment("evaluate", "--model_path", tmp_path / "run", "--num_workers", number, "--save_dir",
                         tmp_path / str(number))
        matrices.append((output.splitlines()[0], np.load(tmp_path / str(number) / "confusion.npy").tolist()))
    assert matrices[0] == matrices[1] and pools == [2]
    refused = segment("evaluate", "--model_path", tmp_path / "run", "--num_workers", -1, code=2)
    assert "--num_workers -1" in refused
