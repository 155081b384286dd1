# SPDX-License-Identifier: Apache-2.0
"""From image files to codes, in a stream that can be stopped and continued.

Codes are written in parts beside the output while the work goes on; a second run reads the finished parts instead of
computing them, and the parts become one .npz at the end.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data import ImageFiles, Reading, eval_reader, read_images
from ..data.sources.folder import find_images
from ..data.sources.image_file import EXTENSIONS, OFFICIAL
from ..data.sources.lists import is_list
from ..errors import DataError
from ..exported_model import Exported
from ..files.atomic import write_atomically, write_text_atomically

log = logging.getLogger("beitv2_core")
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
    parts = output.with_name(output.name + ".parts")
    made = {"precision": precision, "runtime": tokenizer.runtime if isinstance(tokenizer, Exported) else "paddle"}
    key = {**_key(paths, tokenizer, fingerprint, part_size, crop_share, reading), **made}
    _open_parts(parts, key)
    names = []
    with eval_reader(ImageFiles(paths, reading), tokenizer.image_size, batch_size=batch_size, crop_share=crop_share,
                     num_workers=num_workers) as reader:
        for start in range(0, len(paths), part_size):
            numbers = range(start, min(start + part_size, len(paths)))
            name = parts / f"part_{start // part_size:06d}.npy"
            names.append(name)
            if not name.exists():
                codes = np.concatenate([encode(tokenizer, batch.images)
                                        for batch in reader.in_order(numbers, batch_size)])
                table = codes.reshape(len(codes), *tokenizer.grid).astype(code_dtype(tokenizer.num_codes))
                with write_atomically(name) as temporary, open(temporary, "wb") as file:
                    np.save(file, table)
            yield numbers.stop
    _join(output, names, paths, tokenizer, made)
    shutil.rmtree(parts)


def _key(paths: Sequence[str], tokenizer: Any, fingerprint: str, part_size: int, crop_share: float,
         reading: Reading) -> dict[str, Any]:
    digest = hashlib.sha256()
    for path in paths:
        stat = os.stat(path)
        digest.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return {
        "images": len(paths),
        "files": digest.hexdigest(),
        "tokenizer": fingerprint,
        "image_size": list(np.atleast_1d(tokenizer.image_size).tolist()),
        "part_size": part_size,
        "crop_share": crop_share,
        "upright": reading.upright,
    }


def _open_parts(parts: Path, key: dict[str, Any]) -> None:
    """Keep the parts of the same work, drop those of another."""
    manifest = parts / "manifest.json"
    if parts.is_dir():
        try:
            same = json.loads(manifest.read_text(encoding="utf-8")) == key
        except (OSError, ValueError):
            same = False
        if same:
            log.info("%s: continuing with %d finished part(s).", parts, len(list(parts.glob("part_*.npy"))))
            return
        strange = [path.name for path in parts.iterdir() if not _is_part(path.name)]
        if strange:
            raise DataError(f"{parts}: holds {strange[0]}, which is no part of codes; it is left alone. Give another "
                            "--output, or move the folder away.")
        log.warning("%s: parts of other images or another tokenizer; they are computed anew.", parts)
        shutil.rmtree(parts)
    write_text_atomically(manifest, json.dumps(key))


def _is_part(name: str) -> bool:
    return name == "manifest.json" or (name.startswith(("part_", ".part_", ".manifest.json."))
                                      and name.endswith((".npy", ".tmp")))


def _join(output: Path, names: Sequence[Path], paths: Sequence[str], tokenizer: Any,
          made: Mapping[str, str]) -> None:
    """Copy the parts into one .npz, a part at a time, and put it in place when it is complete."""
    rows, columns = tokenizer.grid
    header = {
        "descr": np.lib.format.dtype_to_descr(code_dtype(tokenizer.num_codes)),
        "fortran_order": False,
        "shape": (len(paths), int(rows), int(columns)),
    }
    with write_atomically(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        with archive.open("codes.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            for name in names:
                file.write(np.ascontiguousarray(np.load(name)).tobytes())
        for key, value in _facts(paths, tokenizer, made):
            with archive.open(f"{key}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, value, allow_pickle=False)


def _facts(paths: Sequence[str], tokenizer: Any, made: Mapping[str, str]) -> Iterable[tuple[str, np.ndarray]]:
    yield "paths", np.asarray([os.fsencode(path).decode("utf-8", "replace") for path in paths])
    yield "num_codes", np.asarray(tokenizer.num_codes)
    for name, value in made.items():
        yield name, np.asarray(value)
