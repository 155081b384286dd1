"""`beitv2 codebook`: how a tokenizer uses its codes, and what they look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import typer

from . import options


def codebook(
    run: str = typer.Argument(..., help="tokenizer run folder, .pdckpt checkpoint or weights file", show_default=False),
    data: Optional[str] = typer.Option(
        None, help="folder of pictures, or digit_scenes; default: what the tokenizer was trained on (its test pictures)"
    ),
    limit: int = typer.Option(2000, min=1, help="most pictures looked at"),
    codes: int = typer.Option(16, min=1, help="most and least used codes in the gallery, each"),
    output: Optional[Path] = typer.Option(None, "--output", "-o", help="folder of figures; default: RUN/figures"),
    name: Optional[str] = options.NAME,
    batch_size: int = typer.Option(64, "--batch-size", "-b", min=1),
) -> None:
    """Measure codebook usage and perplexity; draw the histogram and the patches nearest to each code."""
    from ..assembly import load_tokenizer
    from ..evaluate import eval_batches, nearest_patches
    from ..viz.codebook import code_gallery, code_histogram

    model = load_tokenizer(run, name=name)
    dataset = find_data(data, run, model, limit)
    batches = eval_batches(dataset, model.image_size, batch_size=batch_size, limit=limit)
    stats, gallery = nearest_patches(model, batches)
    folder = output or figures_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    code_histogram(stats.counts, folder / "code_histogram.png")
    order = stats.counts.argsort()[::-1]
    used = [int(code) for code in order if stats.counts[code] > 0]
    chosen = list(dict.fromkeys(used[:codes] + used[-codes:]))
    code_gallery({code: gallery[code] for code in chosen}, stats.counts, folder / "code_gallery.png")
    summary = {
        "pictures": min(limit, len(dataset)),
        "num_codes": model.num_codes,
        "codes_used": int((stats.counts > 0).sum()),
        "usage": stats.used,
        "perplexity": stats.perplexity,
        "most_frequent_share": stats.most_frequent,
    }
    (folder / "codebook.json").write_text(
        json.dumps({**summary, "counts": stats.counts.tolist()}, indent=1) + "\n", encoding="utf-8"
    )
    for key, value in summary.items():
        typer.echo(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    typer.echo(f"figures: {folder / 'code_histogram.png'}, {folder / 'code_gallery.png'}")


def find_data(data: Optional[str], run: str, model: Any, limit: int) -> Any:
    """The pictures named on the command line, or those of the run's own settings."""
    from ..assembly import build_dataset
    from ..assembly.restore import read_config
    from ..config.schema import pair
    from ..config.sections import DataConfig

    if data == "digit_scenes":
        settings = DataConfig(dataset="digit_scenes", size=limit, image_size=pair(model.image_size))
    elif data is not None:
        settings = DataConfig(dataset="folder", root=data, image_size=pair(model.image_size))
    else:
        settings = read_config(run).data
    return build_dataset(settings, split="test", size=limit)


def figures_folder(run: str) -> Path:
    """RUN/figures for a run folder or one of its checkpoints; `figures` in the current folder otherwise."""
    path = Path(run)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "config.yml").is_file() and (folder / "checkpoints").is_dir():
            return folder / "figures"
    return Path("figures")
