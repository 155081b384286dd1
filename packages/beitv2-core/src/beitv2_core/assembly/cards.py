# SPDX-License-Identifier: Apache-2.0
"""The model card of a run folder, of the folder of both stages, and of a model that is saved."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

from ..cards import CARD, GIVEN, MARK, Story, head_of, write_card
from ..errors import BEiTError, ConfigError
from ..files.atomic import write_text_atomically
from ..files.json_text import read_json_object
from .kinds import find_kind
from .loaded_weights import checkpoint_folder
from .origins import facts_of_run, origins_of, settings_of_run

log = logging.getLogger("beitv2_core")


@contextlib.contextmanager
def card_beside(folder: Path) -> Iterator[None]:
    """What goes wrong with a card is told in a line of the log: what it stands beside is done, and worth more."""
    try:
        yield
    except Exception as error:  # also of files that were edited by hand, or are of another version
        said = str(error) if isinstance(error, (BEiTError, OSError)) else f"{type(error).__name__}: {error}"
        log.warning("%s: the model card could not be written, all else was: %s. `beitv2 card RUN` writes that of a run "
                    "again.", folder / CARD, said.rstrip("."))


def write_run_card(folder: Path, summary: Optional[Mapping[str, Any]] = None, *, target: Optional[Path] = None,
                   given: Optional[Mapping[str, Any]] = None) -> Optional[Path]:
    """Write README.md of a run, from its files, into it or into `target`; None where there is nothing to tell.

    folder: of one stage or of both; summary: of a run that is just ending, whose summary.json is not there yet.
    given: entries of the head.  There is no card of a run that trains no model of a known kind (a linear probe), nor
    beside a README.md that somebody else wrote.  Raises ConfigError for a head of the card that cannot be read, OSError
    where nothing can be written; where it is the last thing that a command does, `card_beside` goes around it.
    """
    story = story_of(folder, summary)
    return None if story is None else write_card(target or folder, story, given)


def story_of(folder: Path, summary: Optional[Mapping[str, Any]] = None) -> Optional[Story]:
    """What the card of a run folder tells; None where it is none, or trains no model of a known kind."""
    config = settings_of_run(folder)
    if config is None:
        return None
    found = dict(read_json_object(folder / "summary.json") if summary is None else summary)
    stage = folder
    if config.get("kind") == "two_stages":
        stage = folder / "pretrain"
        config = settings_of_run(stage) or config.get("pretrain") or {}  # its own name the tokenizer that was trained
        found = {**found, **found.get("stages", {}).get("pretrain", {})}
    facts = facts_of_run(str(config.get("kind")))
    if facts is None:
        return None
    report = found.get("report") or {}
    verdict = found.get("verdict") or report.get("verdict") or {}
    return Story(folder.resolve().name, facts, config, found, read_json_object(stage / "environment.json"),
                 results=results_of(report), notes=[" ".join(verdict["sentences"])] if verdict.get("sentences") else [],
                 origins=origins_of(config, facts))


def results_of(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(what, value, on what) of a report of both stages."""
    if not report:
        return []
    codes, masked, where = report["codebook"], report["masked_code_accuracy"], f"{report['images']} test images"
    rows = [("codes used", f"{codes['codes_used']} of {codes['num_codes']}", where),
            ("perplexity of the codes", f"{codes['perplexity']:.1f}", where)]
    rows += [(f"masked-code accuracy, {head}", f"{100 * value:.1f} %", where)
             for head, value in masked["heads"].items()]
    probe = report.get("linear_probe")
    if probe:
        fitted = f"{where}, fitted on {probe['train_images']}"
        rows += [("linear probe, top-1", f"{100 * probe['pretrained']:.1f} %", fitted),
                 ("linear probe of random weights, top-1", f"{100 * probe['random']:.1f} %", fitted)]
    return rows


def write_saved_card(folder: Path, source: str, kind: str) -> Optional[Path]:
    """The card of a model that was saved into a folder: that of its run, or what its kind tells of a file."""
    checkpoint = checkpoint_folder(Path(source)) if Path(source).exists() else None
    run = None if checkpoint is None else checkpoint.parent.parent
    story = None if run is None else story_of(run)
    if checkpoint is not None and run is not None and story is not None:
        given = _given_in(run)
        if (run.parent / "pretrain").is_dir() and run.name == "pretrain":  # of both stages: their report too
            story, given = story_of(run.parent) or story, {**given, **_given_in(run.parent)}
        if checkpoint.stem != f"step_{story.summary.get('steps', -1):06d}":  # what was measured is of other weights
            story = story._replace(summary={}, results=(), notes=())
        return write_card(folder, story._replace(name=folder.resolve().name), given)
    own = Path(source) / CARD
    if own.is_file() and MARK in own.read_text(encoding="utf-8", errors="replace"):  # saved before: it knows the run
        write_text_atomically(folder / CARD, own.read_text(encoding="utf-8"))
        return folder / CARD
    try:
        facts = find_kind(kind).card
    except ConfigError:
        return None
    return write_card(folder, Story(folder.resolve().name, facts, {}, {}, {})) if facts.what else None


def _given_in(run: Path) -> dict[str, Any]:
    """What the user gave for the card of the run."""
    path = run / CARD
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    return {key: value for key, value in head_of(text, path).items() if key in GIVEN} if MARK in text else {}
