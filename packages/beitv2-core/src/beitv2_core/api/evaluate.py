# SPDX-License-Identifier: Apache-2.0
"""Measures and figures of a tokenizer and a pretrained backbone: what `beitv2 report` calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

from ..engine.progress import showing
from ..errors import ConfigError
from ..evaluation.verdict import Verdict, on_test_images, together, verdict
from ..files.atomic import write_text_atomically
from ..files.json_text import parse_json
from .arguments import run_folder_of, workers


class Report(NamedTuple):
    """Both stages on test images.

    folder: where summary.json and the figures are.  images: how many were measured.  codes_used of num_codes codes
    occur, with that perplexity.  masked_code_accuracy: by head, as shares.  linear_probe: top-1 "pretrained" and
    "random" as shares, their difference "gain", and "train_images"; None without labelled images.  summary: all of it,
    as in summary.json.  verdict: whether the runs are well (state, sentences); None of checkpoints and files.
    """

    folder: Path
    images: int
    num_codes: int
    codes_used: int
    perplexity: float
    masked_code_accuracy: dict[str, float]
    linear_probe: Optional[dict[str, float]]
    figures: list[Path]
    summary: dict[str, Any]
    verdict: Optional[Verdict] = None


def evaluate(tokenizer_run: Union[str, Path], pretrain_run: Union[str, Path, None] = None, *,
             data: Optional[str] = None, train: Optional[str] = None, images: int = 1000, train_images: int = 3000,
             out: Union[str, Path, None] = None, batch_size: int = 128, max_pixels: Optional[int] = None,
             num_workers: Optional[int] = None, progress: Optional[bool] = None) -> Report:
    """Evaluate both stages on test images; write summary.json and figures.  The command is `beitv2 report`.

    tokenizer_run, pretrain_run: run folders or checkpoints; or, as the first alone, a pretraining run or the folder of
    both stages.  data: folder of test images, or "digit_scenes" (default of
    a run trained on them: its test split); with class folders a linear probe is fitted too.  train: class folders it is
    fitted on; default: the pretraining run's own images.  images: number of test images, spread evenly over all;
    train_images: of the linear probe.  out: folder; default: the pretraining run folder.  batch_size, max_pixels,
    num_workers, progress: as for `tokenize`.
    Raises ConfigError, DataError, CheckpointError.
    """
    from ..assembly.cards import card_beside, write_run_card
    from ..evaluation.report import Settings, make_report

    first, second = str(tokenizer_run), pretrain_run
    if second is None:
        whole = Path(first)
        first, second = both_stages(first)
        out = out or (whole if Path(second).parent == whole else None)
    settings = Settings(first, str(second), data, images, train_images, batch_size, train, max_pixels,
                        workers(num_workers))
    folder = Path(out) if out is not None else run_folder_of(second)
    with showing(progress):
        summary = make_report(settings, folder)
    judged = verdict_of(first, str(second))
    if judged is not None:
        judged = on_test_images(judged, summary)
        summary["verdict"] = {"state": judged.state, "sentences": judged.sentences}
    write_summary(folder / "summary.json", summary)
    with card_beside(folder):
        write_run_card(folder)
    return report_of(folder, summary, judged)


def both_stages(run: str) -> tuple[str, str]:
    """Tokenizer and pretraining run of a folder of both stages, or of a pretraining run, whose settings name the first.

    Raises ConfigError for another run.
    """
    stages = Path(run) / "tokenizer", Path(run) / "pretrain"
    if all(stage.is_dir() for stage in stages):
        return str(stages[0]), str(stages[1])
    from ..assembly.restore import read_config

    config = read_config(run)
    if config.kind != "pretrain" or config.tokenizer is None:
        raise ConfigError(f"{run}: a {config.kind!r} run alone; expected a pretraining run or a folder of both stages. "
                          "Give the tokenizer's run and the pretraining run.")
    return config.tokenizer.weights, run


def verdict_of(*runs: str) -> Optional[Verdict]:
    """The verdict on runs, in order; None where they are no run folders (a checkpoint, a file of weights)."""
    folders = [Path(run) for run in runs if (Path(run) / "metrics.jsonl").is_file()]
    return together([verdict(folder) for folder in folders]) if folders else None


def report_of(folder: Path, summary: dict[str, Any], judged: Optional[Verdict] = None) -> Report:
    """What `evaluate` returns, of a summary that was written in that folder."""
    codebook = summary["codebook"]
    return Report(folder=folder, images=summary["images"], num_codes=codebook["num_codes"],
                  codes_used=codebook["codes_used"], perplexity=codebook["perplexity"],
                  masked_code_accuracy=dict(summary["masked_code_accuracy"]["heads"]),
                  linear_probe=summary.get("linear_probe"), figures=[Path(one) for one in summary["figures"]],
                  summary=summary, verdict=judged)


def write_summary(path: Path, summary: dict[str, Any]) -> None:
    """Add the report to summary.json; the summary of the training stays in it, its verdict is the new report's."""
    try:
        existing = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        existing = {}
    existing["report"] = summary
    if "verdict" in existing and "verdict" in summary:  # a run of both stages keeps it beside its report too
        existing["verdict"] = summary["verdict"]
    write_text_atomically(path, json.dumps(existing, indent=2, sort_keys=True) + "\n")
