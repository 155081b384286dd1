# SPDX-License-Identifier: Apache-2.0
"""From image files to codes, in a stream that can be stopped and continued.

They are written by `parts.in_parts`, as one .npz at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import ImageFiles, Reading, eval_reader, read_images
from ..data.sources.folder import find_images
from ..data.sources.image_file import EXTENSIONS, OFFICIAL
from ..data.sources.lists import is_list
from ..errors import DataError
from ..exported_model import Exported
from .parts import Column, Rows, files_key, in_parts, join_npz, text_of

PART_SIZE = 256
# Two codes whose cosines differ by less are decided by the image alone: rounding depends on the batch it is in.
TIE_TOLERANCE = 2e-5


def list_images(inputs: Sequence[str | Path]) -> list[str]:
    """The image files that are named, listed in the named lists (.txt, .csv, ...) or lie below the named folders.

    In that order.  DataError when there is none, for a missing one, and for a list's line that names no file.
    """
    paths: list[str] = []
    for item in map(Path, inputs):
        if item.is_dir():
            paths += [str(item / path) for path in sorted(find_images(item))]
        elif item.is_file():
            paths += read_images(item) if is_list(item) else [str(item)]
        else:
            raise DataError(f"{item}: no such file or folder. Give images, folders of images, or lists of them.")
    if not paths:
        raise DataError(f"no images in {', '.join(map(str, inputs))}; looked for {', '.join(EXTENSIONS)}.")
    return paths


def encode(tokenizer: Any, images: np.ndarray) -> np.ndarray:
    """Codes int64 (B, N) of images (B, 3, H, W) in [0, 1]: those the image has on its own, whatever the batch.

    tokenizer: a VQKD, or an exported one, which needs no Paddle.  Matrix products round differently for other batch
    sizes. An image with a patch between two almost equally near codes is therefore encoded again alone.
    """
    if isinstance(tokenizer, Exported):
        found = tokenizer.run(images)
        codes, gaps = found["codes"], found["gaps"]
    else:
        import paddle

        codes, gaps = codes_and_gaps(tokenizer, paddle.to_tensor(images))
    if len(images) > 1:
        for index in np.flatnonzero(gaps < TIE_TOLERANCE).tolist():
            codes[index] = encode(tokenizer, images[index : index + 1])[0]
    return codes


def codes_and_gaps(tokenizer: Any, batch: Any) -> tuple[np.ndarray, np.ndarray]:
    """Codes (B, N), and the smallest difference (B,) between best and second-best cosine among an image's patches.

    The encoder computes in the precision that surrounds the call (`mixed_precision`), the rest in float32.
    """
    import paddle
    import paddle.nn.functional as F

    with paddle.no_grad():
        codebook = tokenizer.quantize.codebook
        unit_BNE = F.normalize(tokenizer.features(batch).astype("float32"), axis=-1)
        codes = tokenizer.quantize.nearest_codes(unit_BNE.reshape([-1, unit_BNE.shape[-1]]))
        gaps = []
        for unit_NE in unit_BNE:  # an image at a time: the (patches x codes) table stays small
            best, _ = paddle.topk(paddle.matmul(unit_NE, codebook, transpose_y=True), 2, axis=-1)
            gaps.append(float((best[:, 0] - best[:, 1]).min()))
        return codes.reshape(unit_BNE.shape[:2]).numpy(), np.asarray(gaps)


def code_dtype(num_codes: int) -> np.dtype:
    """The smallest unsigned integer type that holds every code."""
    return np.min_scalar_type(num_codes - 1)


def encode_files(
    tokenizer: Any,
    paths: Sequence[str],
    output: Path,
    *,
    batch_size: int = 16,
    fingerprint: str = "",
    part_size: int = PART_SIZE,
    crop_share: float = 1.0,
    reading: Reading = OFFICIAL,
    num_workers: int = 0,
    precision: str = "f32",
) -> Iterator[int]:
    """Write the codes of all files to `output` (.npz); yields the number of images done, part by part.

    The file holds codes (images, rows, columns), paths, num_codes, precision and runtime.  fingerprint: identifies the
    tokenizer; parts left by another tokenizer, precision or runtime, other files or another crop are not used.
    reading: how the tokenizer's run reads image files; num_workers: processes that decode them.  precision: in which
    the tokenizer computes here (files without this entry, of version 0.2 and before: f32).
    Raises DataError for a folder of the parts' name that holds other files: it is somebody's.
    """
    made = {"precision": precision, "runtime": tokenizer.runtime if isinstance(tokenizer, Exported) else "paddle"}
    key = {**files_key(paths), "tokenizer": fingerprint,
           "image_size": list(np.atleast_1d(tokenizer.image_size).tolist()), "part_size": part_size,
           "crop_share": crop_share, "upright": reading.upright, **made}
    codes = Column(code_dtype(tokenizer.num_codes), tuple(int(side) for side in tokenizer.grid))
    facts = [("paths", [text_of(path) for path in paths]), ("num_codes", tokenizer.num_codes), *made.items()]

    def compute(numbers: Sequence[int]) -> Iterator[Rows]:
        with eval_reader(ImageFiles(paths, reading), tokenizer.image_size, batch_size=batch_size,
                         crop_share=crop_share, num_workers=num_workers) as reader:
            for batch in reader.in_order(numbers, batch_size):
                yield {"codes": encode(tokenizer, batch.images).reshape(-1, *codes.shape).astype(codes.dtype)}

    def join(path: Path, parts: Sequence[Path]) -> None:
        join_npz(path, parts, len(paths), {"codes": codes}, facts, compress=True)

    yield from in_parts(output, key, len(paths), part_size, compute, join)
