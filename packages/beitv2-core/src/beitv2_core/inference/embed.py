# SPDX-License-Identifier: Apache-2.0
"""Features of any number of image files, in one file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from .. import __version__
from ..data import EvalTransform, ImageFiles, ordered_reader
from ..errors import ConfigError
from ..evaluation.codes import code_dtype
from ..evaluation.parts import Column, Rows, files_key, in_parts
from .embedding_file import CODES, FEATURES, SIZES, THUMBNAILS, Written, description_of, writer_for
from .loaded import LoadedModel
from .thumbnails import SIDE, EmbedTransform

log = logging.getLogger("beitv2_core")
#: most images of a part, and most bytes of its features
PART_IMAGES, PART_BYTES = 512, 2**25


def embed_files(model: LoadedModel, paths: Sequence[str], output: Path, *, what: str = "mean",
                block: Optional[int] = None, batch_size: int = 16, num_workers: int = 0) -> Iterator[int]:
    """Write the features of all files to `output` (.parquet, .npz or .csv); yields the number of images done.

    A stopped run is continued by the same call, and what it writes is the same to the byte.  what, block: as
    `LoadedModel.features` takes them.  num_workers: processes that decode images; memory does not grow with the number
    of images.  The file holds paths, `features` (or `codes`), thumbnails and sizes of the images (not in CSV), and a
    description (`embedding_file.Embeddings.meta`).
    Raises ConfigError for an ending or a combination that is not written, DataError for an image that cannot be read.
    """
    writer = writer_for(output)
    model.check(what, block)
    column = _column(model, what)
    if output.suffix == ".csv" and what == "patches":
        raise ConfigError(f"--output {output}: --what patches gives {column.shape[0]} x {column.shape[1]} numbers an "
                          "image, too many for the columns of a CSV file. Use a name ending in .parquet or .npz.")
    columns = {CODES if what == "codes" else FEATURES: column}
    if output.suffix != ".csv":
        columns.update({THUMBNAILS: Column(np.dtype(np.uint8), (SIDE, SIDE)), SIZES: Column(np.dtype(np.int32), (2,))})
    meta = description(model, what, block)
    part_size = _part_size(column, batch_size)
    key = {**files_key(paths), **meta, "batch_size": batch_size, "part_size": part_size,
           "max_pixels": model.reading.max_pixels}
    key.pop("model"), key.pop("folder")
    meta["work"] = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    if (description_of(output) or {}).get("work") == meta["work"]:
        log.info("%s: holds these features already.", output)
        yield len(paths)
        return
    cut = EvalTransform(model.image_size, crop_share=model.crop_share, interpolation=model.interpolation)

    def compute(numbers: Sequence[int]) -> Iterator[Rows]:
        with ordered_reader(ImageFiles(paths, model.reading), EmbedTransform(cut),
                            batches=-(-len(numbers) // batch_size), num_workers=num_workers) as reader:
            for batch in reader.in_order(numbers, batch_size):
                found = model.features(batch.images, what=what, block=block)
                rows = {next(iter(columns)): found.reshape(-1, *column.shape).astype(column.dtype, copy=False),
                        THUMBNAILS: batch.thumbnails, SIZES: batch.sizes}
                yield {name: rows[name] for name in columns}

    yield from in_parts(output, key, len(paths), part_size, compute,
                        lambda path, parts: writer(path, parts, Written(meta, paths, columns)))


def description(model: LoadedModel, what: str, block: Optional[int]) -> dict[str, Any]:
    """What features depend on, and where they come from, as a file of them keeps it."""
    found = {"model": model.source, "kind": model.kind, "fingerprint": model.fingerprint(), "what": what,
             "block": block, "image_size": list(model.image_size), "grid": list(model.grid),
             "crop_share": model.crop_share, "interpolation": model.interpolation, "upright": model.reading.upright,
             "precision": model.precision, "runtime": model.runtime, "version": __version__, "folder": os.getcwd()}
    if what == "codes":
        found["num_codes"] = int(model.model.num_codes)
    return found


def _column(model: LoadedModel, what: str) -> Column:
    if what == "codes":
        return Column(code_dtype(model.model.num_codes), tuple(int(side) for side in model.grid))
    height, width = model.image_size
    shape = model.features(np.zeros((1, 3, height, width), np.float32), what=what).shape[1:]
    return Column(np.dtype(np.float32), shape)


def _part_size(column: Column, batch_size: int) -> int:
    """Images of a part: whole batches, so that a continued run sees the batches that an uninterrupted one sees."""
    wanted = min(PART_IMAGES, PART_BYTES // (4 * int(np.prod(column.shape, dtype=np.int64))))
    return max(1, wanted // batch_size) * batch_size
