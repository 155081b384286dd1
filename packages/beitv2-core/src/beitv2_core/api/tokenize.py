# SPDX-License-Identifier: Apache-2.0
"""Images to codes: what `beitv2 tokenize` calls."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from ..engine.progress import Progress, showing
from ..errors import ConfigError
from ..exported_model import Exported, is_exported, load_exported
from ..files.durable import make_folder
from ..runtime import require_paddle
from .arguments import Paths, live_model, paths_of, workers


class Tokens(NamedTuple):
    """Codes (images, rows, columns) of 0 .. num_codes - 1 in the smallest unsigned type, and the files they are of.

    file: the .npz they were written to, None where none was asked for.
    """

    codes: np.ndarray
    paths: list[str]
    num_codes: int
    file: Optional[Path]


def tokenize(images: Paths, tokenizer: Union[str, Path], out: Union[str, Path, None] = None, *,
             name: Optional[str] = None, batch_size: int = 16, crop_share: float = 1.0,
             max_pixels: Optional[int] = None, num_workers: Optional[int] = None, runtime: Optional[str] = None,
             precision: str = "f32", progress: Optional[bool] = None) -> Tokens:
    """The codes of any number of images.

    images: images, folders of images, or lists of them (.txt, .csv).  tokenizer: run folder, .pdckpt checkpoint,
    exported folder or file of published weights.  out: a .npz file to write (codes, paths, num_codes, precision,
    runtime); the same call continues after an interruption.  name: published tokenizer that a weights file must be.
    batch_size: images per batch, does not change the result.  crop_share: share of the short side that the central crop
    keeps.  max_pixels: refuse image files of more pixels; default: the run's data.max_pixels.  num_workers: processes
    that decode images, default one per processor core.  runtime, precision: what runs an exported model, and in which
    numbers.  progress: as for `pretrain`.
    Raises ConfigError, DataError, CheckpointError, ExportError.
    """
    if out is None:
        with tempfile.TemporaryDirectory(prefix="beitv2_codes_") as folder:
            return tokenize(images, tokenizer, Path(folder) / "codes.npz", name=name, batch_size=batch_size,
                            crop_share=crop_share, max_pixels=max_pixels, num_workers=num_workers, runtime=runtime,
                            precision=precision, progress=progress)._replace(file=None)
    file = Path(out)
    if file.suffix != ".npz":
        raise ConfigError(f"--output {file}: expected a name ending in .npz, for example codes.npz.")
    from ..evaluation.codes import encode_files, list_images

    paths = list_images(paths_of(images))
    model: Any
    if is_exported(tokenizer):
        computing: Any = contextlib.nullcontext()
        model = load_exported(tokenizer, kind="tokenizer", runtime=runtime, precision=precision)
        reading = model.reading
    else:
        require_paddle()
        computing = live_model(tokenizer, runtime=runtime, precision=precision)
        from ..assembly import load_tokenizer, reading_of_run

        model, reading = load_tokenizer(str(tokenizer), name=name), reading_of_run(str(tokenizer))
    if max_pixels is not None:
        reading = reading._replace(max_pixels=max_pixels)
    make_folder(file.parent)
    with computing, showing(progress), Progress("tokenize", len(paths), 0, images_per_step=1) as shown:
        for done in encode_files(model, paths, file, batch_size=batch_size, fingerprint=fingerprint(model),
                                 crop_share=crop_share, reading=reading, num_workers=workers(num_workers),
                                 precision=precision):
            shown.advance(done)
            if done < len(paths):
                shown.line(done, {})
    with np.load(file) as written:
        return Tokens(written["codes"], paths, model.num_codes, file)


def fingerprint(model: Any) -> str:
    """SHA-256 of all weights (or of the exported files): tokenizers with one fingerprint give the same codes."""
    if isinstance(model, Exported):
        return model.fingerprint()
    from ..assembly.restore import fingerprint as of_weights

    return of_weights(model)
