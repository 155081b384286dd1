# SPDX-License-Identifier: Apache-2.0
"""What a run's own numbers say about it: collapses, in words and with what to do.

Judged from the settings and the lines of metrics.jsonl alone, by the same rules while a run goes on and after it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from beitv2_core.engine.trackers import TrackedRun, Tracker

log = logging.getLogger("beitv2_core")
Row = Mapping[str, Any]

#: share of hidden patches above which too little of an image is left to predict from (the paper hides 0.4)
MOST_HIDDEN = 0.9
#: share of used codes, and perplexity as a share of the codes, below which a codebook counts as collapsed
FEWEST_USED, LEAST_PERPLEXITY = 0.2, 0.05
#: codes a window must have counted, as a multiple of the codebook, before unused ones mean anything
COUNTED = 4
#: reconstruction loss below which the teacher's features are told without looking
NOTHING_LEFT = 0.02
#: accuracy above which hidden codes are known without learning
TOO_EASY = 0.95
#: RankMe below which features count as collapsed, and below which the images themselves are alike
LEAST_RANK, RANK_OF_ONE_IMAGE = 2.0, 1.2
#: nats by which the loss has to be below that of guessing, in the first half of a run and in the second
BETTER_THAN_GUESSING = (0.01, 0.05)
#: nats by which the loss of such a run jumps from one line to the next if its steps are too long, not too short
JUMP = 0.05
#: log lines that are averaged, so that one of them decides nothing
WINDOWS = 3
#: share of a run before which it is too early to say that it learns nothing
TOO_EARLY = 0.05


class Finding(NamedTuple):
    """Something that went wrong: what it is called, since which step (0: from the start), what is seen, what to do."""

    state: str
    step: int
    what: str
    advice: str

    def sentence(self) -> str:
        """All of it."""
        return f"{self.state} at step {self.step}: {self.what}. {self.advice}."


def findings(config: Mapping[str, Any], rows: Sequence[Row], tokenizer: Sequence[Row] = ()) -> list[Finding]:
    """What is wrong with a run, most telling first; empty for a run that is well, or of another kind.

    config: resolved settings.  rows: its lines of metrics so far.  tokenizer: those of its tokenizer's run, if known.
    """
    kind = config.get("kind")
    if kind == "tokenizer":
        return list(_tokenizer(config, rows))
    return list(_pretraining(config, rows, tokenizer)) if kind == "pretrain" else []


def read_rows(metrics: Path) -> list[Row]:
    """The lines of a metrics.jsonl; none where there is no such file, and without lines that a kill or a power cut
    tore."""
    rows: list[Row] = []
    try:
        lines = metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


class HealthWatch(Tracker):
    """Says in the log, once each, what goes wrong while a run goes on."""

    def __init__(self, run: TrackedRun):
        self.config, self.said = run.config, set[str]()
        self.rows = read_rows(run.path / "metrics.jsonl")
        self.tokenizer = read_rows(tokenizer_of(run.config))
        self._say()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Judge the run with one more line."""
        self.rows.append({"step": step, **values})
        self._say()

    def close(self) -> None:
        """Nothing to write."""

    def _say(self) -> None:
        for found in findings(self.config, self.rows, self.tokenizer):
            if found.state not in self.said:
                self.said.add(found.state)
                log.warning("%s", found.sentence())


def tokenizer_of(config: Mapping[str, Any]) -> Path:
    """Where a pretraining run's tokenizer has its metrics, if it is a run folder."""
    return Path(str((config.get("tokenizer") or {}).get("weights", ""))) / "metrics.jsonl"


def information(row: Row, tokenizer: Sequence[Row] = ()) -> Optional[float]:
    """Nats that a pretraining run knows of a hidden patch's code: the entropy of the codes minus the loss.

    A lower bound of the mutual information of a hidden code and what is visible; 0 is guessing by frequency.  Of runs
    on the same codes, the larger one has learnt more (docs/health.md).
    row: a line of metrics.  tokenizer: lines of its tokenizer's run, whose perplexity counts where the line has none.
    None where no entropy is known.
    """
    codes = row.get("perplexity_targets") or _last(tokenizer, "perplexity")
    return math.log(codes) - float(row["loss_mim"]) if codes and "loss_mim" in row else None


def steps_of(config: Mapping[str, Any], rows: Sequence[Row]) -> int:
    """The length of the run in steps, from its settings; of one given in epochs, the steps done so far."""
    return int((config.get("optim") or {}).get("steps") or (rows[-1]["step"] if rows else 0))


# -- the tokenizer -----------------------------------------------------------------------------------------------------


def _tokenizer(config: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[Finding]:
    codes = config["quantizer"]["num_codes"]
    counted = [row for row in _with_gap(rows, "usage", config) if row["codes_counted"] >= COUNTED * codes]
    alike = _since(rows, lambda row: row.get("rec_loss", 1.0) < NOTHING_LEFT)
    if alike is not None:
        yield Finding("images look alike", alike["step"],
                      f"the teacher's features are reconstructed to {1 - alike['rec_loss']:.1%} at once, so they are "
                      "the same for every image", "Look at the images (data.root), and at the teacher's settings")
        return
    gone = _since(counted, lambda row: row["usage"] < FEWEST_USED or row["perplexity"] < LEAST_PERPLEXITY * codes)
    if gone is not None:
        last = counted[-1]
        yield Finding("codebook collapsed", gone["step"],
                      f"{round(last['usage'] * codes)} of {codes} codes used, perplexity {last['perplexity']:.1f}",
                      _against_collapse(config))
    losses = _means(rows, "loss")
    if len(losses) > WINDOWS and losses[-1][1] > 1.2 * min(loss for _, loss in losses) + 0.05:
        best = min(losses, key=lambda one: one[1])
        yield Finding("loss rises", best[0], f"from {best[1]:.3f} to {losses[-1][1]:.3f}", _lower_rate(config))


def _against_collapse(config: Mapping[str, Any]) -> str:
    health, start = config["health"], config["quantizer"]["kmeans_init"]
    advice = [] if start else ["start from k-means (quantizer.kmeans_init=true)"]
    if not health["unquantized_steps"]:
        advice.append("train some steps before quantising (health.unquantized_steps)")
    if health["revive_after"] is None:
        advice.append("replace dead codes (health.revive_after=20)")
    text = ", ".join([*advice, "use fewer codes (quantizer.num_codes)", "lower the learning rate (optim.lr)"][:3])
    return text[0].upper() + text[1:]


# -- pretraining -------------------------------------------------------------------------------------------------------


def _pretraining(config: Mapping[str, Any], rows: Sequence[Row], tokenizer: Sequence[Row]) -> Iterator[Finding]:
    hidden = config["mask"]["num_masked"]
    patches = _patches(config["data"]["image_size"], config["model"]["patch_size"])
    if hidden > MOST_HIDDEN * patches:
        yield Finding("masks hide nearly everything", 0, f"{hidden} of {patches} patches of every image are hidden: "
                      "nothing is left to predict them from",
                      f"Set mask.num_masked={max(1, round(0.4 * patches))} (the paper hides 40 %)")
    alike = _since(rows, lambda row: row.get("rankme", math.inf) < RANK_OF_ONE_IMAGE
                   and row.get("acc_mim", 1.0) > TOO_EASY, named=("rankme",))
    easy = _since(rows, lambda row: row.get("acc_mim", 0.0) > TOO_EASY
                  or row.get("perplexity_targets", math.inf) < 2, named=("acc_mim",))
    if easy is not None:
        if alike is not None or _all_alike(tokenizer):
            yield Finding("images look alike", easy["step"], f"{easy['acc_mim']:.0%} of the hidden codes are right: "
                          "all images have the same features", "Look at the images (data.root)")
        else:
            yield Finding("codes say nothing", easy["step"], f"{easy['acc_mim']:.0%} of the hidden codes are right at "
                          "once: the tokenizer gives nearly every patch the same one",
                          "Train the tokenizer anew, see `beitv2 report` on its run")
        return
    warm = [row for row in rows if row["step"] > _warmup(config, rows)]
    stuck = _no_better_than_guessing(config, rows, warm, tokenizer)
    if stuck is not None:
        yield stuck
    flat = _since(warm, lambda row: row["rankme"] < LEAST_RANK, named=("rankme",))
    if flat is not None and sum("rankme" in row and row["step"] >= flat["step"] for row in warm) >= WINDOWS:
        yield Finding("features collapsed", flat["step"], f"RankMe {_last(warm, 'rankme'):.1f} of "
                      f"{config['model']['width']}", _lower_rate(config))


def _no_better_than_guessing(config: Mapping[str, Any], rows: Sequence[Row], warm: Sequence[Row],
                             tokenizer: Sequence[Row]) -> Optional[Finding]:
    """The loss stays at that of guessing codes by their frequency: the entropy of the hidden codes."""
    lines = [row for row in warm if information(row, tokenizer) is not None]
    if len(lines) < WINDOWS or lines[-1]["step"] < TOO_EARLY * steps_of(config, rows):
        return None
    above = [-(information(row, tokenizer) or 0.0) for row in lines]
    margin = BETTER_THAN_GUESSING[2 * lines[-1]["step"] >= steps_of(config, rows)]
    if sum(above[-WINDOWS:]) / WINDOWS < -margin:
        return None
    losses = [row["loss_mim"] for row in rows if "loss_mim" in row]
    now = sum(losses[-WINDOWS:]) / WINDOWS
    since = next((row["step"] for row, more in zip(lines, above) if more > -margin), lines[-1]["step"])
    what = f"the loss {now:.2f} is no better than that of guessing, {lines[-1]['loss_mim'] - above[-1]:.2f}"
    if max((after - before for before, after in zip(losses, losses[1:])), default=0.0) > JUMP:
        return Finding("learning rate too high", since, f"{what}, and jumps", _lower_rate(config))
    return Finding("learns too slowly", since, f"{what}, though it falls steadily",
                   f"Raise optim.lr (now {config['optim']['lr']:g}), or train longer")


def _lower_rate(config: Mapping[str, Any]) -> str:
    return f"Lower optim.lr to a third or less (now {config['optim']['lr']:g}), or give it a longer warm-up"


def _all_alike(tokenizer: Sequence[Row]) -> bool:
    return _last(tokenizer, "rec_loss", 1.0) < NOTHING_LEFT


def _warmup(config: Mapping[str, Any], rows: Sequence[Row]) -> int:
    """Steps of the warm-up; of one given in epochs, those until the learning rate no longer rose."""
    optim = config["optim"]
    if optim.get("warmup_steps") is not None or not optim.get("warmup_epochs"):
        return int(optim.get("warmup_steps") or 0)
    rates = [(row["lr"], row["step"]) for row in rows if "lr" in row]
    return max(rates)[1] if rates else 0


# -- lines -------------------------------------------------------------------------------------------------------------


def _since(rows: Sequence[Row], wrong: Any, named: Sequence[str] = ()) -> Optional[Row]:
    """The first line of the unbroken stretch of wrong ones that the run ends with; None where it ends well."""
    first = None
    for row in reversed([row for row in rows if all(name in row for name in named)]):
        if not wrong(row):
            break
        first = row
    return first


def _last(rows: Sequence[Row], name: str, default: float = 0.0) -> float:
    return next((float(row[name]) for row in reversed(rows) if name in row), default)


def _means(rows: Sequence[Row], name: str) -> list[tuple[int, float]]:
    """(step, mean of a value over `WINDOWS` lines), line by line."""
    lines = [row for row in rows if name in row]
    return [(lines[i]["step"], sum(row[name] for row in lines[i - WINDOWS + 1:i + 1]) / WINDOWS)
            for i in range(WINDOWS - 1, len(lines))]


def _with_gap(rows: Sequence[Row], name: str, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Lines with a value, and how many codes they counted."""
    batch = config["train"]["total_batch"] or config["train"]["batch_size"]
    patches = _patches(config["data"]["image_size"], config["encoder"]["patch_size"])
    before, found = config["health"]["unquantized_steps"], []
    for row in rows:
        if name in row:
            found.append({**row, "codes_counted": (row["step"] - before) * batch * patches})
            before = row["step"]
    return found


def _patches(image_size: Any, patch_size: Any) -> int:
    (height, width), (rows, columns) = ((size, size) if isinstance(size, int) else size
                                        for size in (image_size, patch_size))
    return (height // rows) * (width // columns)
