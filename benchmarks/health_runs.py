# SPDX-License-Identifier: Apache-2.0
"""Short pretraining runs with many settings: does a number without labels rank them as the linear probe does?

    python benchmarks/health_runs.py -o runs/health            # trains what is missing, measures, writes the table
    python benchmarks/health_runs.py -o runs/health --only-measure

Every run is a `beitv2 pretrain` of configs/pretrain/digit_scenes.yml with the changes below; one that is finished is
not repeated, one that was killed is continued.  Nothing is left out of the table but runs that did not end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: images the probe is fitted to and tested on; held-out images the numbers without labels are computed from
PROBE, HELD_OUT = (4000, 4000), 512
#: what all runs have in common: positions in a table and no [CLS] head learn most in few steps
SHORT = ["model.positions=absolute", "model.early_layers=null", "optim.steps=500", "optim.warmup_steps=50",
         "optim.lr=3e-3", "optim.min_lr=1e-4", "train.batch_size=32", "train.save_every=10000", "train.log_every=20"]
BRIEF = ["optim.steps=120", "health.unquantized_steps=40", "train.batch_size=32"]
#: tokenizer -> changes to configs/tokenizer/digit_scenes.yml
TOKENIZERS: dict[str, list[str]] = {
    "hog_64": [],
    "hog_16": [*BRIEF, "quantizer.num_codes=16"],
    "hog_256": [*BRIEF, "quantizer.num_codes=256"],
    "hog_fine": [*BRIEF, "teacher.options={num_orientations: 12}"],
    "hog_colour": [*BRIEF, "teacher.options={colour: 3.0}"],
    "random": [],  # `beitv2 init-tokenizer`: random weights and codes
    "collapsed": [*BRIEF, "quantizer.kmeans_init=false", "health.unquantized_steps=0", "health.revive_after=null"],
}
#: run -> (tokenizer, changes to configs/pretrain/digit_scenes.yml)
RUNS: dict[str, tuple[str, list[str]]] = {
    "steps_200": ("hog_64", ["optim.steps=200"]),
    "steps_1000": ("hog_64", ["optim.steps=1000"]),
    "plain": ("hog_64", []),
    "rate_3e-5": ("hog_64", ["optim.lr=3e-5", "optim.min_lr=1e-6"]),
    "mask_15": ("hog_64", ["mask.num_masked=15"]),
    "rate_3e-2": ("hog_64", ["optim.lr=3e-2"]),
    "random_codes": ("random", []),
    "cls_head": ("hog_64", ["model.early_layers=2"]),
    "steps_100": ("hog_64", ["optim.steps=100"]),
    "relative": ("hog_64", ["model.positions=shared_relative"]),
    "rate_3e-4": ("hog_64", ["optim.lr=3e-4"]),
    "depth_2": ("hog_64", ["model.depth=2"]),
    "mask_2": ("hog_64", ["mask.num_masked=2", "mask.min_block=1"]),
    "batch_64": ("hog_64", ["train.batch_size=64"]),
    "collapsed_codes": ("collapsed", []),
    "width_48": ("hog_64", ["model.width=48"]),
    "rate_1e-2": ("hog_64", ["optim.lr=1e-2"]),
    "codes_16": ("hog_16", []),
    "mask_10": ("hog_64", ["mask.num_masked=10"]),
    "decay_1": ("hog_64", ["optim.weight_decay=1.0"]),
    "depth_5": ("hog_64", ["model.depth=5"]),
    "rate_1e-1": ("hog_64", ["optim.lr=1e-1"]),
    "random_mask": ("hog_64", ["mask={kind: random, num_masked: 6}"]),
    "rate_1e-3": ("hog_64", ["optim.lr=1e-3"]),
    "drop_path_0.3": ("hog_64", ["model.drop_path=0.3"]),
    "crops_0.2": ("hog_64", ["data.crop_scale=[0.2, 1.0]"]),
    "no_positions": ("hog_64", ["model.positions=none"]),
    "codes_256": ("hog_256", []),
    "batch_16": ("hog_64", ["train.batch_size=16"]),
    "jitter": ("hog_64", ["data.color_jitter=0.4"]),
    "teacher_fine": ("hog_fine", []),
    "steps_2000": ("hog_64", ["optim.steps=2000"]),
    "teacher_colour": ("hog_colour", []),
    "width_192": ("hog_64", ["model.width=192"]),
}


def beitv2(*arguments: str) -> int:
    """Run a command of the command line; its exit status."""
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    command = [sys.executable, "-m", "beitv2_core.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def train(folder: Path) -> None:
    """Train what is not finished."""
    for name, (tokenizer, changes) in RUNS.items():
        source, run = folder / "tokenizers" / tokenizer, folder / "runs" / name
        if not (source / "summary.json").is_file():
            set_ = [*TOKENIZERS[tokenizer], f"output={source}", "train.save_every=1000"]
            command = "init-tokenizer" if tokenizer == "random" else "train-tokenizer"
            if tokenizer != "random" or not (source / "config.yml").is_file():
                beitv2(command, "configs/tokenizer/digit_scenes.yml", "--set", *set_)
        if not (run / "summary.json").is_file():
            print(f"== {name}", flush=True)
            beitv2("pretrain", "configs/pretrain/digit_scenes.yml", "--set", f"output={run}",
                   f"tokenizer.weights={source}", *SHORT, *changes)


def measure(folder: Path) -> None:
    """Perplexity of every tokenizer; features of held-out images and the linear probe of every run that ended.

    Both stay in their folders.
    """
    import numpy as np
    import paddle

    from beitv2_core.assembly import build_dataset, load_mim, load_tokenizer
    from beitv2_core.config.sections import DataConfig
    from beitv2_core.data import eval_batches
    from beitv2_core.data.views.transforms import normalise
    from beitv2_core.engine.metrics import perplexity
    from beitv2_core.evaluation.evaluate import linear_probe

    data = DataConfig(dataset="digit_scenes", size=PROBE[0], image_size=32)
    sets = [list(eval_batches(build_dataset(data, split=split, size=size), 32))
            for split, size in zip(("train", "test"), PROBE)]
    labels = [np.concatenate([batch.labels for batch in batches]) for batches in sets]

    def mean_features(model: Any, batches: list[Any]) -> list[Any]:
        """Mean patch feature of every block, (images, width) each."""
        parts = []
        with paddle.no_grad():
            for batch in batches:
                taps = tuple(range(model.depth))
                tapped = model.forward_tokens(paddle.to_tensor(normalise(batch.images)), taps=taps)[1]
                parts.append([tapped[i][:, 1:].mean(axis=1).numpy() for i in taps])
        return [np.concatenate(part) for part in zip(*parts)]

    pixels = np.concatenate([batch.images for batch in sets[1]])[:1000]
    for source in sorted((folder / "tokenizers").glob("*/")):
        if not (source / "perplexity.json").is_file():
            tokenizer = load_tokenizer(str(source))
            with paddle.no_grad():
                codes = tokenizer.tokenize(paddle.to_tensor(pixels)).numpy()
            counts = np.bincount(codes.reshape(-1), minlength=tokenizer.num_codes)
            (source / "perplexity.json").write_text(json.dumps(perplexity(counts)), encoding="utf-8")
    for run in sorted((folder / "runs").glob("*/")):
        made = run / "features.npz"
        if made.is_file() or not (run / "summary.json").is_file():
            continue
        model, _ = load_mim(str(run))
        trained, tested = (mean_features(model, batches) for batches in sets)
        probe = linear_probe((trained[-1], labels[0]), (tested[-1], labels[1]))
        np.savez(made, probe=probe, **{f"block{i}": block[:HELD_OUT] for i, block in enumerate(tested)})
        print(f"{run.name}: linear probe {probe:.3f}", flush=True)


def numbers(run: Path) -> dict[str, float]:
    """Numbers of a run that need no label, larger for better, and `probe`; from its files alone."""
    import numpy as np

    from beitv2_core.engine.health import information
    from beitv2_core.engine.spectrum import alpha_req, effective_rank, rankme

    stored = np.load(run / "features.npz")
    blocks = [stored[f"block{i}"] for i in range(len(stored.files) - 1)]
    last = blocks[-1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    codes = json.loads((run.parents[1] / "tokenizers" / RUNS[run.name][0] / "perplexity.json").read_text("utf-8"))
    known = information({**lines[-1], "perplexity_targets": codes}) or 0.0
    return {"probe": float(stored["probe"]), "information": known,
            "information x effective rank": known * effective_rank(last), "effective rank": effective_rank(last),
            "RankMe": rankme(last),
            "RankMe, centred": rankme(last - last.mean(0)),
            "RankMe, block before": rankme(blocks[-2]), "-alpha-ReQ": -alpha_req(last),
            "-alpha-ReQ, ranks 1-10": -alpha_req(last, (1, 10)), "accuracy on codes": lines[-1]["acc_mim"],
            "-loss": -lines[-1]["loss_mim"]}


def write_table(folder: Path) -> None:
    """table.md and health.png: every run with its numbers, and how each number ranks them (Spearman)."""
    import numpy as np
    from scipy.stats import spearmanr

    from beitv2_core.evaluation.verdict import verdict
    from beitv2_core.viz.canvas import ACCENT, SECOND, Canvas

    runs = {name: folder / "runs" / name for name in RUNS if (folder / "runs" / name / "features.npz").is_file()}
    found = {name: numbers(run) for name, run in runs.items()}
    states = {name: verdict(run).state for name, run in runs.items()}
    columns = [name for name in next(iter(found.values())) if name != "probe"]
    probes = np.array([values["probe"] for values in found.values()])
    same = np.array([RUNS[name][0] == "hog_64" for name in found])  # the same codes: their losses can be compared
    lines = ["| number | Spearman, runs on the same codes | all runs |", "|---|---|---|"]
    for column in columns:
        values = np.array([one[column] for one in found.values()])
        some, every = (spearmanr(probes[kept], values[kept])[0] for kept in (same, np.ones(len(same), bool)))
        lines.append(f"| {column} | {some:.2f} ({same.sum()}) | {every:.2f} ({len(same)}) |")
    lines += ["", "| run | probe | " + " | ".join(columns) + " | verdict |", "|---|" + "---|" * (len(columns) + 2)]
    for name in sorted(found, key=lambda name: -found[name]["probe"]):
        cells = [f"{100 * found[name]['probe']:.1f} %", *(f"{found[name][column]:.2f}" for column in columns)]
        lines.append(f"| {name} | {' | '.join(cells)} | {states[name]} |")
    text = "\n".join(lines) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)
    with Canvas(folder / "health.png", 10.5, 3.2) as figure:
        for axes, column in zip(figure.subplots(1, 3), ("information", "effective rank", "RankMe")):
            values = np.array([one[column] for one in found.values()])
            for kept, colour, label in ((same, ACCENT, "the same codes"), (~same, SECOND, "other codes")):
                axes.plot(values[kept], 100 * probes[kept], "o", color=colour, markersize=4, label=label)
            axes.set(title=f"{column}: {spearmanr(probes[same], values[same])[0]:.2f} on the same codes", xlabel=column,
                     ylabel="linear probe, %")
            axes.grid()
            axes.legend()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/health"), help="folder of the runs")
    parser.add_argument("--only-measure", action="store_true", help="train nothing")
    options = parser.parse_args()
    if not options.only_measure:
        train(options.output.resolve())
    measure(options.output.resolve())
    write_table(options.output.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main())
