# SPDX-License-Identifier: Apache-2.0
"""Images to features: what `beitv2 embed` calls."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Optional, Union

from ..engine.progress import Progress, showing
from ..inference.embedding_file import Embeddings, read_embeddings, writer_for
from .arguments import Paths, paths_of, workers

if TYPE_CHECKING:
    from ..inference.loaded import LoadedModel


def embed(images: Paths, model: Union[str, Path], out: Union[str, Path, None] = None, *, what: str = "mean",
          block: Optional[int] = None, image_size: Union[int, Sequence[int], None] = None,
          crop_share: Optional[float] = None, name: Optional[str] = None, batch_size: int = 16,
          max_pixels: Optional[int] = None, num_workers: Optional[int] = None, runtime: Optional[str] = None,
          precision: str = "f32", progress: Optional[bool] = None) -> Embeddings:
    """The features of any number of images, with paths, sizes and thumbnails.

    images: images, folders of images, or lists of them (.txt, .csv).  model: anything `load` takes.  out: a .parquet,
    .npz or .csv file to write, and to read back whole; the same call continues after an interruption.  what: "mean" of
    the patch tokens, "cls", "patches", or "codes" of a tokenizer.  block: raw tokens after this block, from 1; None:
    the last, as what follows the backbone reads it.  image_size: pixels that images are cut to, one number or (height,
    width), multiples of the patch.  crop_share: share of the short side that the central crop keeps; default: 0.875, of
    tokenizers 1, of exported models their own.  name, batch_size to precision, progress: as for `tokenize`.
    Raises ConfigError, DataError, CheckpointError, ExportError, ShapeError.
    """
    with tempfile.TemporaryDirectory(prefix="beitv2_features_") as folder:
        file = Path(folder) / "features.npz" if out is None else Path(out)
        write_features(images, model, file, what=what, block=block, image_size=image_size, crop_share=crop_share,
                       name=name, batch_size=batch_size, max_pixels=max_pixels, num_workers=num_workers,
                       runtime=runtime, precision=precision, progress=progress)
        return read_embeddings(file)


def write_features(images: Paths, model: Union[str, Path], file: Path, *, what: str, block: Optional[int],
                   image_size: Union[int, Sequence[int], None], crop_share: Optional[float], name: Optional[str],
                   batch_size: int, max_pixels: Optional[int], num_workers: Optional[int], runtime: Optional[str],
                   precision: str, progress: Optional[bool] = None) -> tuple[LoadedModel, int]:
    """`embed` without reading the file back, in constant memory: the model, and the number of images."""
    from ..assembly.loaded_weights import stage_of
    from ..evaluation.codes import list_images
    from ..inference.embed import embed_files
    from ..inference.loaded import load_model

    writer_for(file)
    paths = list_images(paths_of(images))
    if what == "codes" and Path(model).is_dir():  # a run of both stages: the one that has codes
        model = stage_of(model, ("tokenizer",))
    loaded = load_model(model, name=name, runtime=runtime, precision=precision, image_size=image_size)
    if crop_share is not None:
        loaded.cut_to(crop_share)
    if max_pixels is not None:
        loaded.reading = loaded.reading._replace(max_pixels=max_pixels)
    with showing(progress), Progress("embed", len(paths), 0, images_per_step=1) as shown:
        for done in embed_files(loaded, paths, file, what=what, block=block, batch_size=batch_size,
                                num_workers=workers(num_workers)):
            shown.advance(done)
            if done < len(paths):
                shown.line(done, {})
    return loaded, len(paths)
