# SPDX-License-Identifier: Apache-2.0
"""Run both stages into one folder: choose or read the settings, train, measure, judge; continue after any kill."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import yaml

from ..config import STAGES, TwoStagesConfig, load_config, parse_config
from ..config.load import read_tree
from ..errors import ConfigError
from ..files.atomic import write_text_atomically
from ..files.json_text import read_json_object
from .choose import Request, choice_lines, draft, timed_settings

log = logging.getLogger("beitv2_core")
CONFIG_FILE, SUMMARY_FILE = "config.yml", "summary.json"
DEFAULT_MINUTES = 30.0
Say = Callable[[str], None]


class Outcome(NamedTuple):
    """What a run left: its folder, the settings, and what summary.json holds."""

    folder: Path
    config: TwoStagesConfig
    summary: dict[str, Any]


def pretrain_images(images: str, output: str, *, minutes: Optional[float] = None, overrides: Sequence[str] = (),
                    say: Say = print, began: Optional[float] = None, only_choose: bool = False) -> Outcome:
    """Choose settings for these images, train both stages, report. A run that was begun there is continued.

    images: a folder of any depth, a list (.txt, .csv) or tar files; minutes: for everything, default 30; overrides:
    `a.b=c`, as after --set; began: `time.monotonic()` when the command began; only_choose: say what would be chosen and
    write nothing.
    Raises ConfigError where the folder holds another run, or this one was begun with other options; DataError for
    images from which nothing can be learnt; and what `TrainLoop.run` raises.
    """
    began = time.monotonic() if began is None else began
    folder = Path(output)
    request = Request(os.path.abspath(images), output, DEFAULT_MINUTES if minutes is None else minutes,
                      tuple(overrides))
    if only_choose:
        return Outcome(folder, _choose(request, began, say), {})

    def choose(say: Say) -> TwoStagesConfig:
        kept = _kept(folder)
        if kept is None:
            return _choose(request, began, say)
        _refuse_other_request(kept, request, minutes is not None)
        say(f"{folder / CONFIG_FILE}: the settings chosen before; the run is continued")
        return kept

    return _run(folder, choose, began, say)


def pretrain_settings(config: TwoStagesConfig, *, say: Say = print, began: Optional[float] = None) -> Outcome:
    """Train both stages with these settings, and report. A run that was begun there is continued.

    Raises ConfigError where the folder holds another run or was begun with other settings.
    """
    folder = Path(config.output)

    def choose(say: Say) -> TwoStagesConfig:
        kept = _kept(folder)
        if kept is not None and kept.model_copy(update={"output": config.output}) != config:
            raise ConfigError(f"{folder}: holds a run of other settings ({folder / CONFIG_FILE}). Continue it with "
                              "that file, or choose another folder by -o.")
        return config

    return _run(folder, choose, time.monotonic() if began is None else began, say)


def _choose(request: Request, began: float, say: Say) -> TwoStagesConfig:
    """The settings of a new run, told line by line."""
    sketch = draft(request)
    for line in sketch.found.lines():
        say(line)
    config = timed_settings(sketch, request, began, say)
    for line in choice_lines(config):
        say(line)
    return config


def _run(folder: Path, choose: Callable[[Say], TwoStagesConfig], began: float, say: Say) -> Outcome:
    from ..engine import distributed
    from ..engine.run_folder import RunFolder, as_output_error

    distributed.init()
    main = distributed.is_main()
    quiet: Say = say if main else (lambda line: None)
    outer = RunFolder(folder)
    if main:
        outer.open()
    try:
        config = choose(quiet)
        if main:
            text = yaml.safe_dump(config.resolved(), sort_keys=False, width=120)
            with as_output_error(folder):
                write_text_atomically(folder / CONFIG_FILE, text)
        distributed.barrier()
        config = load_config(folder / CONFIG_FILE, schema=TwoStagesConfig)  # in a launch: what the first process chose
        seconds = {"choosing": time.monotonic() - began}
        for stage in STAGES:
            start = time.monotonic()
            _train(getattr(config, stage), quiet)
            if main and stage == "tokenizer":
                _show_codes(config, quiet)
            seconds[stage] = time.monotonic() - start
        summary = _conclude(config, seconds, began, quiet) if main else {}
        distributed.barrier()
        return Outcome(folder, config, summary)
    except BaseException as error:
        distributed.fail(error)
        raise
    finally:
        if main:
            outer.close()


def _train(config: Any, say: Say) -> None:
    """Train one stage, or continue it; nothing where it is finished."""
    from ..assembly import build_training
    from ..engine import distributed

    done = _finished(Path(config.output))
    distributed.barrier()  # all have looked before any of them trains
    if done:
        say(f"{config.output}: finished before")
        return
    say(f"{config.output}: training of the {'backbone' if config.kind == 'pretrain' else config.kind}")
    build_training(config).run(resume="auto")


def _show_codes(config: TwoStagesConfig, say: Say) -> None:
    """A first picture, long before the report, which has it too."""
    from ..engine.run_folder import as_output_error
    from ..evaluation.report import draw_codes

    path = Path(config.output) / "figures" / "code_map.png"
    if not path.exists():
        with as_output_error(Path(config.output)):
            draw_codes(config.tokenizer.output, path)
        say(f"{path}: a first picture: images that were held out, and the codes of their patches")


def _finished(folder: Path) -> bool:
    """Whether a stage wrote its summary, the last thing it does, after its last step."""
    summary = read_summary(folder)
    return bool(summary) and summary.get("steps") == summary.get("total_steps")


def _kept(folder: Path) -> Optional[TwoStagesConfig]:
    """The settings of a run of both stages that was begun in this folder, None where there is none.

    Raises ConfigError where the folder holds something else.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        others = (folder / "checkpoints", *(folder / stage for stage in STAGES))
        other = next((one for one in others if one.exists()), None)
        if other is not None:
            raise ConfigError(f"{folder}: holds {other.name}, but no settings of both stages ({CONFIG_FILE}): it is "
                              "not a run that this command began. Choose another folder by -o.")
        return None
    tree, _ = read_tree(path)
    if tree.get("kind") != "two_stages":
        raise ConfigError(f"{folder}: holds a {tree.get('kind')!r} run. Choose another folder by -o.")
    config: TwoStagesConfig = parse_config({**tree, "output": str(folder)}, TwoStagesConfig, str(path))
    return config


def _refuse_other_request(kept: TwoStagesConfig, request: Request, minutes_given: bool) -> None:
    """Raise ConfigError where the run was begun by other options: they were used when its settings were chosen."""
    path, before = Path(kept.output) / CONFIG_FILE, kept.chosen
    if before is None:
        raise ConfigError(f"{kept.output}: holds a run of settings written by hand. Continue it by `beitv2 pretrain "
                          f"{path} -o {kept.output}`, or choose another folder by -o.")
    changed = []
    if before.images != request.images:
        changed.append(f"IMAGES: {before.images} -> {request.images}")
    if minutes_given and before.minutes != request.minutes:
        changed.append(f"--minutes: {before.minutes:g} -> {request.minutes:g}")
    if before.overrides != list(request.overrides):
        changed.append(f"--set: {' '.join(before.overrides) or 'none'} -> {' '.join(request.overrides) or 'none'}")
    if changed:
        raise ConfigError(f"{kept.output}: this run was begun with other options ({'; '.join(changed)}); its settings "
                          "were chosen for those. Type the same command to continue it, or choose another folder by "
                          "-o.")


def _conclude(config: TwoStagesConfig, seconds: dict[str, float], began: float, say: Say) -> dict[str, Any]:
    """Report on the held-out images, verdict and summary.json of a trained run; what was concluded before stays."""
    from ..assembly.cards import card_beside, write_run_card
    from ..engine.run_folder import as_output_error
    from ..evaluation.report import Settings, make_report
    from ..evaluation.verdict import on_test_images, verdict

    folder, start = Path(config.output), time.monotonic()
    before = read_summary(folder)
    if "report" in before:
        return before
    say(f"{folder}: report on images that were held out")
    count = config.report.images
    with as_output_error(folder):
        report = make_report(Settings(config.tokenizer.output, config.pretrain.output, images=count,
                                      train_images=2 * count, num_workers=config.pretrain.data.num_workers), folder)
    judged = on_test_images(verdict(folder), report)
    summary = {
        "stages": {stage: read_summary(folder / stage) for stage in STAGES},
        "report": report,
        "verdict": {"state": judged.state, "sentences": judged.sentences},
        "seconds": {name: round(value, 1) for name, value in {
            **seconds, "report": time.monotonic() - start, "total": time.monotonic() - began}.items()},
    }
    with as_output_error(folder):
        write_text_atomically(folder / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    with card_beside(folder):
        write_run_card(folder)
    return summary


def read_summary(folder: Path) -> dict[str, Any]:
    """summary.json of a run folder; empty where there is none."""
    return read_json_object(folder / SUMMARY_FILE)
