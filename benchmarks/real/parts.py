# SPDX-License-Identifier: Apache-2.0
"""What `real_runs.py` runs: commands of `beitv2`, and which needs which."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

from beitv2_core.config.load import read_tree
from beitv2_core.errors import ConfigError
from real.sets import SETS

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEACHERS = ("hog", "lite0")
#: what --set may name: sections of settings by the folder of their file, and the options of two commands
STAGES = ("tokenizer", "pretrain", "cls", "seg", "compare", "report")


class Part(NamedTuple):
    """One command.

    name: SET/PART, its folder below OUT.  command: arguments of `beitv2`.  config: the file of settings it reads.
    needs: parts that must have ended.  result: the file it leaves.  shares: an earlier comparison with the same
    settings; what it has trained from scratch is not trained again.
    """

    name: str
    command: tuple[str, ...]
    result: Path
    config: Optional[Path] = None
    needs: tuple[str, ...] = ()
    shares: Optional[str] = None

    def identity(self, others: Mapping[str, Part]) -> str:
        """SHA-256 of the command, its settings and those of all parts it needs; a checkout elsewhere has the same."""
        settings = [] if self.config is None else [read_tree(self.config)[0]]
        command = ["CONFIG" if word == str(self.config) else word for word in self.command]
        before = [others[name].identity(others) for name in self.needs]
        return hashlib.sha256(json.dumps([command, settings, before], sort_keys=True).encode()).hexdigest()


class Plan(NamedTuple):
    """What was asked for: the folders of the sets, by name; where results go; teachers; seeds; `--set` texts."""

    folders: Mapping[str, Path]
    out: Path
    teachers: Sequence[str] = TEACHERS
    seeds: int = 3
    changes: Sequence[str] = ()

    def changed(self, name: str, stage: str) -> list[str]:
        """`KEY=VALUE` of the changes to one stage of one set."""
        found = []
        for text in self.changes:
            parts = text.split("=", 1)[0].split(".")
            wanted, rest = (parts[0], parts[1:]) if parts[0] in SETS else (name, parts)
            if wanted == name and rest[:1] == [stage]:
                found.append(text[text.index(f"{stage}.") + len(stage) + 1:])
        return found

    def options(self, name: str, stage: str, defaults: Mapping[str, object]) -> list[str]:
        """Options of a command: the defaults with the changes over them."""
        changes = (text.partition("=") for text in self.changed(name, stage))
        values = {**defaults, **{key: value for key, _, value in changes}}
        return [word for key, value in values.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def check_changes(changes: Sequence[str]) -> None:
    """ConfigError for a `--set` that no part would read."""
    for text in changes:
        parts = text.partition("=")[0].split(".")
        if "=" not in text or (parts[1:] if parts[0] in SETS else parts)[:1] not in ([stage] for stage in STAGES):
            raise ConfigError(f"--set {text}: expected STAGE.KEY=VALUE or SET.STAGE.KEY=VALUE with STAGE one of "
                              f"{', '.join(STAGES)} and SET one of {', '.join(SETS)}.")


def parts_of(plan: Plan) -> dict[str, Part]:
    """All parts in the order they run, by name."""
    parts: list[Part] = []
    for name in plan.folders:
        for teacher in plan.teachers:
            parts += _stages(plan, name, teacher)
        for teacher in plan.teachers[::-1]:  # the real teacher's comparison first
            parts += _segmentations(plan, name, teacher) if name == "camvid" else [_comparison(plan, name, teacher)]
    if "camvid" in plan.folders and "tiny_imagenet20" in plan.folders:
        for teacher in plan.teachers[-1:]:
            parts += _segmentations(plan, "tiny_imagenet20", teacher)
    return {part.name: part for part in parts}


def _stages(plan: Plan, name: str, teacher: str) -> list[Part]:
    """Tokenizer, pretraining, report and pictures of patch features."""
    one, folder, out = SETS[name], plan.folders[name], plan.out / name
    root = f"data.root={str(folder / one.train)!r}"
    tokenizer, pretrain = out / f"tokenizer_{teacher}", out / f"pretrain_{teacher}"
    of_tokenizer = CONFIGS / "tokenizer" / (f"{name}.yml" if teacher == "hog" else f"{name}_{teacher}.yml")
    of_pretrain = CONFIGS / "pretrain" / f"{name}.yml"
    caches = "cache" in read_tree(of_tokenizer)[0]["teacher"]
    cache = [f"teacher.cache.path={str(out / f'features_{teacher}')!r}"] if caches else []
    probe = ["--train", str(folder / one.train)] if one.few_labels else []
    report = plan.options(name, "report", {"images": one.images, **({"train_images": 5000} if probe else {})})

    def trained(kind: str, config: Path, run: Path, *more: str) -> tuple[str, ...]:
        stage = config.parent.name
        return (kind, str(config), "--resume", "auto", "--set", root, f"output={str(run)!r}", *more,
                *plan.changed(name, stage))

    first, second = f"{name}/tokenizer_{teacher}", f"{name}/pretrain_{teacher}"
    shown, looked = out / f"report_{teacher}", out / f"look_{teacher}"
    return [
        Part(first, trained("train-tokenizer", of_tokenizer, tokenizer, *cache), tokenizer / "summary.json",
             of_tokenizer),
        Part(second, trained("pretrain", of_pretrain, pretrain, f"tokenizer.weights={str(tokenizer)!r}"),
             pretrain / "summary.json", of_pretrain, (first,)),
        Part(f"{name}/report_{teacher}", ("report", str(tokenizer), str(pretrain), "--data", str(folder / one.test),
                                          *probe, *report, "-o", str(shown)), shown / "summary.json", None, (second,)),
        Part(f"{name}/look_{teacher}", ("look", str(folder / one.test), "--model", str(pretrain), "--limit", "8", "-o",
                                        str(looked)), looked / "components.png", None, (second,)),
    ]


def _comparison(plan: Plan, name: str, teacher: str) -> Part:
    """Fine-tuning with all and with few labels against scratch, probe and neighbours against random weights."""
    one, folder = SETS[name], plan.folders[name]
    output, run = plan.out / name / f"compare_{teacher}", plan.out / name / f"pretrain_{teacher}"
    config = CONFIGS / "cls" / f"{name}.yml"
    options = plan.options(name, "compare", {"few_labels": one.few_labels, "few_steps": one.few_steps,
                                             "probe_images": 5000})
    command = ("compare", str(config), "--pretrained", str(run), "--seeds", str(plan.seeds), *options, "-o",
               str(output), "--set", f"data.root={str(folder / one.train)!r}",
               f"validation.root={str(folder / one.test)!r}", *plan.changed(name, "cls"))
    first = f"{name}/compare_{plan.teachers[-1]}"
    return Part(f"{name}/compare_{teacher}", command, output / "summary.json", config,
                (f"{name}/pretrain_{teacher}",), None if teacher == plan.teachers[-1] else first)


def _segmentations(plan: Plan, source: str, teacher: str) -> list[Part]:
    """UPerNet on CamVid from a backbone of `source` against scratch, a comparison a seed."""
    folder = plan.folders["camvid"]
    run, config = plan.out / source / f"pretrain_{teacher}", CONFIGS / "seg" / "camvid.yml"
    called = f"segment_{teacher}" if source == "camvid" else f"segment_from_{source}_{teacher}"
    data = [f"{part}.dataset_root={str(folder)!r}" for part in ("train_dataset", "val_dataset")]
    parts = []
    for seed in range(plan.seeds):
        output = plan.out / "camvid" / f"{called}_seed{seed}"
        command = ("segment", "compare", str(config), "--pretrained", str(run), "--output", str(output), "--opts",
                   f"run.seed={seed}", *data, *plan.changed("camvid", "seg"))
        first = f"segment_{plan.teachers[-1]}_seed{seed}"
        parts.append(Part(f"camvid/{output.name}", command, output / "summary.json", config,
                          (f"{source}/pretrain_{teacher}",), None if output.name == first else f"camvid/{first}"))
    return parts
