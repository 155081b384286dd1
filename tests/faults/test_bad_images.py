# SPDX-License-Identifier: Apache-2.0
"""Damaged images of every kind: read rightly or refused, counted and listed, never a crash or a wait without end."""

from __future__ import annotations

import itertools
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from bad_images import image, write_bad_images
from e2e_runs import TOKENIZER
from PIL import Image

from beitv2_core.data import BatchReader, ImageFolder, MimTransform, TokenizerTransform
from beitv2_core.data.sources.image_file import decode
from beitv2_core.data.views.classify_recipe import ClassTrainTransform
from beitv2_core.errors import DataError
from beitv2_core.masking import BlockwiseMasking


@pytest.fixture(scope="module")
def bad(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("images")
    return folder, write_bad_images(folder, request.config.getoption("--faults-seed"))


def outcome(path: bytes) -> str | None:
    """Why a file cannot be decoded; None where it can, its size being what its header says."""
    try:
        image = decode(os.fsdecode(path))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    assert image.mode == "RGB" and image.tobytes() and min(image.size) > 0
    with Image.open(path) as header:
        assert image.size == header.size
    return None


def test_every_damaged_image_is_read_rightly_or_refused(bad, case):
    """What cannot be an image is refused, what is one is read, every size as its header declares."""
    _, made = bad
    assert len(made) >= 300
    for item in made:
        reason = outcome(item.path)
        case.inject(item.damage)
        if item.readable is not None:
            assert (reason is None) == item.readable, (item, reason)
    case.check("refused or RGB of the declared size; no crash, no wait without end")


def test_loaders_count_and_list_every_refused_image(bad, case):
    """Through workers and every transform: right shapes, refused images replaced by the next, counted and listed."""
    folder, made = bad
    refused = {os.fsdecode(item.path) for item in made if outcome(item.path) is not None}
    transforms = (TokenizerTransform(16), MimTransform(16, BlockwiseMasking((4, 4), 6, min_block=2)),
                  ClassTrainTransform(16, policy="rand-m9-mstd0.5-inc1", jitter=0.4, erase_prob=0.5))
    for transform, workers in itertools.product(transforms, (0, 2)):
        images = ImageFolder(folder, max_corrupt=1.0)
        if isinstance(transform, ClassTrainTransform):
            images.classes, images.labels = ["a"], np.zeros(len(images), dtype=np.int64)
        assert len(images) == len(made)
        with BatchReader(images, transform, num_workers=workers) as reader:
            got = []
            for batch in reader.in_order(range(len(images)), 7):
                views = [value for name, value in batch._asdict().items() if name.endswith(("view", "images"))]
                assert views and all(view.shape[1:] == (3, 16, 16) and np.isfinite(view).all() for view in views)
                got += batch.paths
        wanted = []
        paths = [str(folder / path) for path in images.paths]
        for at in range(len(paths)):
            wanted.append(next(path for path in paths[at:] + paths[:at] if path not in refused))
        assert got == wanted
        assert set(images.corrupt.found) == refused
    case.inject("damaged images through 3 transforms, in place and with 2 workers", 6 * len(made))
    case.check("shapes right, replacements are the next readable image, the count is exact")


def test_the_share_of_corrupt_images_is_the_limit(bad, tmp_path, case):
    """A run may lose exactly data.max_corrupt of its images, and one more stops it with the list."""
    folder, made = bad
    refused = {os.fsdecode(item.path) for item in made if outcome(item.path) is not None}
    for missing, workers in ((0, 0), (1, 0), (0, 2), (1, 2)):
        report = tmp_path / f"{missing}_{workers}.txt"
        images = ImageFolder(folder, max_corrupt=(len(refused) - missing) / len(made), report=report)
        with BatchReader(images, TokenizerTransform(16), num_workers=workers) as reader:
            if missing == 0:
                assert len(list(reader.in_order(range(len(images)), 4))) == -(-len(images) // 4)
                continue
            with pytest.raises(DataError, match=f"{len(refused)} of {len(made)} files cannot be decoded"):
                list(reader.in_order(range(len(images)), 4))
        text = report.read_text(encoding="utf-8", errors="surrogateescape")
        assert all(path.replace("\n", " ") + "\t" in text or path + "\t" in text for path in refused)
        case.inject("one refused image too many")
    case.check("exactly the share passes, one more is a DataError with all of them in the report")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_image_nobody_may_read_is_refused_by_name(case):
    """A file without read permission is counted as corrupt and replaced."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        import random
        for number in range(4):
            image(random.Random(number)).save(folder / f"{number}.png")
        (folder / "1.png").chmod(0)
        images = ImageFolder(folder, max_corrupt=0.25)
        os.seteuid(65534)
        try:
            sample = images.load(1)
        finally:
            os.seteuid(0)
        case.inject("file without read permission")
        assert sample.path.endswith("2.png")
        assert "Permission denied" in images.corrupt.found[str(folder / "1.png")]
    case.check("named with the reason, the next one taken")


def test_a_training_over_damaged_images_names_them_whatever_their_names(bad, warm, tmp_path, case):
    """The command trains over hundreds of damaged files; above the limit it ends with code 2 and one message."""
    folder, made = bad
    command = [*TOKENIZER, "data.dataset=folder", f"data.root={folder}", "data.size=null", "train.batch_size=16",
               "optim.steps=20", "health.unquantized_steps=10"]
    for workers in (0, 2):
        more = [f"output={tmp_path}/run{workers}", f"data.num_workers={workers}"]
        output = warm.run(tmp_path / "log", [*command, *more, "data.max_corrupt=0.9"])
        assert "bad_\\udcff\\udcfe.png cannot be decoded" in output
        output = warm.run(tmp_path / "log", [*command, f"output={tmp_path}/stopped{workers}", *more[1:],
                                             "data.max_corrupt=0.05"], code=2)
        assert "Traceback" not in output and "data.max_corrupt allows 5.0000%" in output
        assert (tmp_path / f"stopped{workers}/corrupt_files.txt").is_file()
        case.inject("whole run over the damaged images", 2)
    case.check("trained to the end; above the limit one message, the list in corrupt_files.txt")
