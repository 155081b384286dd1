# SPDX-License-Identifier: Apache-2.0
"""`beitv2 codebook`: usage of a tokenizer's codes, and the image patches that have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Optional

import typer

from ..api.arguments import run_folder_of
from ..files.atomic import write_text_atomically
from . import options


def codebook(
    run: str = typer.Argument(..., help="tokenizer run folder, .pdckpt checkpoint or weights file", show_default=False),
    data: Optional[str] = typer.Option(
        None, help="folder of test images, or digit_scenes (default of a tokenizer trained on them: its test split)"
    ),
    limit: int = typer.Option(2000, min=1, help="number of images, spread evenly over all"),
    codes: int = typer.Option(16, min=1, help="codes in the gallery: this many of the most and of the least used"),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="folder of figures; default: RUN/codebook"),
    name: Optional[str] = options.NAME,
    batch_size: int = typer.Option(64, "--batch-size", "-b", min=1, help="images per batch"),
    max_pixels: Optional[int] = options.MAX_PIXELS,
    num_workers: Optional[int] = options.WORKERS,
) -> None:
    """Measure codebook usage and perplexity; draw the histogram and the patches nearest to each code."""
    from ..assembly import held_out, load_tokenizer, reading_of_run
    from ..assembly.held_out import data_of_run
    from ..data import eval_batches
    from ..evaluation.evaluate import nearest_patches
    from ..pixels.size import pair
    from ..viz.codebook import code_gallery, code_histogram

    model = load_tokenizer(run, name=name)
    dataset = held_out(data, [data_of_run(run)], run=run, image_size=pair(model.image_size), size=limit,
                       reading=reading_of_run(run, max_pixels=max_pixels))
    batches = eval_batches(dataset, model.image_size, batch_size=batch_size, limit=limit,
                           num_workers=options.workers(num_workers))
    stats, gallery = nearest_patches(model, batches)
    folder = output or run_folder_of(run) / "codebook"  # RUN/figures are those of the report
    code_histogram(stats.counts, folder / "code_histogram.png")
    order = stats.counts.argsort()[::-1]
    used = [int(code) for code in order if stats.counts[code] > 0]
    chosen = list(dict.fromkeys(used[:codes] + used[-codes:]))
    code_gallery({code: gallery[code] for code in chosen}, stats.counts, folder / "code_gallery.png")
    summary = {
        "images": min(limit, len(dataset)),
        "num_codes": model.num_codes,
        "codes_used": int((stats.counts > 0).sum()),
        "usage": stats.used,
        "perplexity": stats.perplexity,
        "most_frequent_share": stats.most_frequent,
    }
    write_text_atomically(folder / "codebook.json",
                          json.dumps({**summary, "counts": stats.counts.tolist()}, indent=1) + "\n")
    for key, value in summary.items():
        if key in ("usage", "most_frequent_share"):
            typer.echo(f"{key}: {100 * value:.4g} %")
        else:
            typer.echo(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    for name in ("codebook.json", "code_histogram.png", "code_gallery.png"):
        typer.echo(f"written: {folder / name}")
