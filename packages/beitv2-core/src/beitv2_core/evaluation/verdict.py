# SPDX-License-Identifier: Apache-2.0
"""Whether a run is well, in words: by the files in its folder, and by what a report measured on test images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union

import yaml

from ..engine.health import Row, findings, information, read_rows, steps_of, tokenizer_of
from ..errors import DataError
from ..yaml_text import parse_yaml

HEALTHY, TOO_EARLY = "healthy", "too early to tell"
TOO_FEW, GUESSING = "too few test images to tell", "no better than guessing on test images"
#: test images below which the accuracy of hidden codes says nothing
FEWEST_IMAGES = 20
STAGES = ("tokenizer", "pretrain")


class Verdict(NamedTuple):
    """state: "healthy", "too early to tell" or what is wrong ("codebook collapsed"); sentences: why, what to do."""

    state: str
    sentences: list[str]

    def text(self) -> str:
        """One paragraph for a console."""
        return "\n".join([f"verdict: {self.state}", *(f"  {sentence}" for sentence in self.sentences)])


def verdict(run_folder: Union[str, Path]) -> Verdict:
    """What the settings and metrics of a run say: of a tokenizer, of pretraining, or of both stages in one folder.

    run_folder: with config.yml and metrics.jsonl; or with the folders `tokenizer` and `pretrain`, then what is wrong
    with the first stage comes first.  Reads no checkpoint and needs no Paddle.
    Raises DataError for a folder without them.
    """
    folder = Path(run_folder)
    parts = [folder / stage for stage in STAGES if (folder / stage / "config.yml").is_file()]
    return together([_of_stage(part) for part in parts or [folder]])


def together(verdicts: list[Verdict]) -> Verdict:
    """One verdict of several runs: the first that is not healthy names it."""
    state = next((one.state for one in verdicts if one.state != HEALTHY), HEALTHY)
    return Verdict(state, [sentence for one in verdicts for sentence in one.sentences])


def on_test_images(judged: Verdict, report: Mapping[str, Any]) -> Verdict:
    """The verdict on runs with what their report measured on test images, which were not trained on.

    report: `images` and `masked_code_accuracy` of summary.json.  A run that only its training images speak for is not
    healthy: it learnt them by heart, or the test images are too few.
    """
    images, masked = report["images"], report["masked_code_accuracy"]
    best, guess = max(masked["heads"].values()), masked["most_frequent_share"]
    said = (f"on {images} test image{'s' * (images != 1)}: {best:.1%} of {masked['patches']:,} hidden codes predicted, "
            f"the commonest code alone is {guess:.1%}")
    if images < FEWEST_IMAGES:
        state, advice = TOO_FEW, f"; give at least {FEWEST_IMAGES} (`beitv2 report RUN --data TEST_FOLDER`)."
    elif best <= guess:
        state, advice = GUESSING, ("; what is predicted in training was learnt by heart. Give more images, or train "
                                   "fewer steps.")
    else:
        state, advice = HEALTHY, "."
    return Verdict(state if judged.state == HEALTHY else judged.state, [*judged.sentences, said + advice])


def _of_stage(folder: Path) -> Verdict:
    config = _settings(folder)
    rows = read_rows(folder / "metrics.jsonl")
    failed = sorted(folder.glob("failing_batch_step_*.npz"))
    if failed:
        step = failed[-1].name.split("_")[3]
        return Verdict("loss is not finite", [
            f"{config['kind']}: loss is not finite at step {step}: see {failed[-1].name}. Lower optim.lr (now "
            f"{config['optim']['lr']:g}), see docs/troubleshooting.md."])
    tokenizer = read_rows(tokenizer_of(config))
    found = findings(config, rows, tokenizer)
    if found:
        return Verdict(found[0].state, [f"{config['kind']}: {one.sentence()}" for one in found])
    done, asked = (int(rows[-1]["step"]) if rows else 0), steps_of(config, rows)
    if len(rows) < 2 or done < 0.1 * asked:
        advice = ("Train on, nothing is wrong so far." if done < asked else
                  "So short a run tells nothing: give it more steps (`beitv2 pretrain IMAGES`: --minutes).")
        return Verdict(TOO_EARLY, [f"{config['kind']}: step {done} of {asked}. {advice}"])
    return Verdict(HEALTHY, [f"{config['kind']}: {text}." for text in _seen(config, rows, tokenizer)])


def _settings(folder: Path) -> Mapping[str, Any]:
    try:
        config = parse_yaml((folder / "config.yml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{folder}: no settings of a run ({error}). Give the run folder of a training.") from None
    if not isinstance(config, dict) or config.get("kind") not in STAGES:
        raise DataError(f"{folder}: config.yml is not of a tokenizer or pretraining run. Give one of these.")
    return config


def _seen(config: Mapping[str, Any], rows: list[Row], tokenizer: list[Row]) -> list[str]:
    """What a healthy run shows, in words."""
    last: dict[str, Any] = {name: value for row in rows for name, value in row.items()}
    said = [f"step {last['step']} of {steps_of(config, rows)}"]
    if "usage" in last:
        codes = config["quantizer"]["num_codes"]
        said.append(f"{round(last['usage'] * codes)} of {codes} codes used in training, "
                    f"perplexity {last['perplexity']:.1f}")
    if "acc_mim" in last:
        guess = last.get("acc_commonest")
        said.append(f"{last['acc_mim']:.1%} of the hidden codes predicted in training"
                    + (f", {last['acc_mim'] / guess:.1f} x the commonest code" if guess else ""))
        known = information(last, tokenizer)
        if known is not None:
            said.append(f"{known:.2f} of {known + last['loss_mim']:.2f} nats of a hidden code known")
    if "rankme" in last:
        said.append(f"RankMe {last['rankme']:.1f} of {config['model']['width']}, alpha-ReQ "
                    f"{last['alpha_req']:.2f}")
    if "acc_knn" in last:
        said.append(f"{last['acc_knn']:.1%} of labelled images are among their own class (kNN)")
    return ["; ".join(said)]
