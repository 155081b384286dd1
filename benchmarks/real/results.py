# SPDX-License-Identifier: Apache-2.0
"""The numbers of all parts that ended, as JSON and as a table; and the page of their figures."""

from __future__ import annotations

import csv
import json
import shutil
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from beitv2_core.files.atomic import write_atomically, write_text_atomically
from real.parts import CONFIGS, Part
from real.work import clock, note_of

TITLES = {"cifar10": "CIFAR-10", "tiny_imagenet20": "Tiny ImageNet, 20 classes", "camvid": "CamVid"}
#: whose pictures they are: this stands beside the figures of each set
SOURCES = {
    "cifar10": "Pictures: CIFAR-10 (Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).",
    "tiny_imagenet20": "Pictures: ImageNet, by Tiny ImageNet (Stanford CS231n); for research, not commercial; do not "
                       "publish them.",
    "camvid": "Pictures: CamVid (Brostow, Fauqueur and Cipolla 2009), in SegNet's split; CC BY-NC 4.0, for research.",
}
LITE0 = "EfficientNet-Lite0 learnt from the labels of ImageNet-1k; HOG from none."


class Row(NamedTuple):
    """One measurement, in per cent (points for the gain): of both starts, all seeds.

    against: "scratch" or "random weights" for a comparison, "" where there is none.
    """

    set: str
    teacher: str
    what: str
    values: tuple[float, ...]
    against: str = ""
    others: tuple[float, ...] = ()

    @property
    def gains(self) -> tuple[float, ...]:
        """Differences, seed by seed."""
        return tuple(one - other for one, other in zip(self.values, self.others))


def spread(values: Sequence[float], form: str = ".1f") -> str:
    """`mean +- standard deviation` (of the seeds themselves, not of their mean); one value has no spread."""
    mean = format(statistics.fmean(values), form)
    return mean if len(values) == 1 else f"{mean} +- {statistics.pstdev(values):.1f}"


def rows_of(parts: Mapping[str, Part], out: Path) -> list[Row]:
    """All measurements of the parts that ended, in their order; seeds of one comparison are one row."""
    found: list[Row] = []
    seeds: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for part in parts.values():
        summary = _summary(part, out)
        name, _, kind = part.name.partition("/")
        word, _, teacher = kind.partition("_")
        if summary is None:
            continue
        if word == "report":
            found += _of_report(TITLES[name], teacher, summary["report"])
        elif word == "compare":
            found += _of_comparison(TITLES[name], teacher, summary)
        elif word == "segment":
            backbone, _, _ = teacher.rpartition("_seed")
            for key, what in (("miou", "mIoU"), ("predicted", "classes predicted")):
                starts = (summary["pretrained"], summary["scratch"])
                pair = [100 * one["miou"] if key == "miou" else _predicted(part.result.parent / start)
                        for one, start in zip(starts, ("pretrained", "scratch"))]
                seeds.setdefault((backbone, what, TITLES[name]), []).append((pair[0], pair[1]))
    for (backbone, what, title), pairs in seeds.items():
        own, other = zip(*pairs)
        found.append(Row(title, _backbone(backbone), what, own, "scratch", other))
    return found


def _summary(part: Part, out: Path) -> Optional[dict[str, Any]]:
    if not note_of(part, out).get("finished") or part.result.suffix != ".json":
        return None
    found: dict[str, Any] = json.loads(part.result.read_text(encoding="utf-8"))
    return found


def _of_report(title: str, teacher: str, summary: Mapping[str, Any]) -> list[Row]:
    codes, masked = summary["codebook"], summary["masked_code_accuracy"]
    rows = [Row(title, teacher, f"codes used of {codes['num_codes']}", (float(codes["codes_used"]),)),
            Row(title, teacher, "perplexity of the codes", (codes["perplexity"],)),
            *(Row(title, teacher, f"accuracy of masked codes, {head}", (100 * value,), "the commonest code",
                  (100 * masked["most_frequent_share"],)) for head, value in masked["heads"].items())]
    probe = summary.get("linear_probe")
    if probe:
        rows.append(Row(title, teacher, f"linear probe, {summary['images']:,} test images",
                        (100 * probe["pretrained"],), "random weights", (100 * probe["random"],)))
    return rows


def _of_comparison(title: str, teacher: str, summary: Mapping[str, Any]) -> list[Row]:
    rows = [Row(title, teacher, f"fine-tuned, {labels if labels == 'all' else format(int(labels), ',')} labels",
                tuple(100 * value for value in starts["pretrained"]), "scratch",
                tuple(100 * value for value in starts["scratch"])) for labels, starts in summary["top1"].items()]
    frozen = summary["frozen"]  # its linear probe is the report's, on fewer test images
    return [*rows, *(Row(title, teacher, what, (100 * value,), "random weights", (100 * frozen["random"][what],))
                     for what, value in frozen["pretrained"].items() if what.startswith("kNN"))]


def _predicted(run: Path) -> float:
    """Classes of a segmentation run that at least one pixel of the test images was given."""
    with open(run / "per_class_iou.csv", newline="", encoding="utf-8") as file:
        return float(sum(int(row["predicted_pixels"]) > 0 for row in csv.DictReader(file)))


def _backbone(text: str) -> str:
    """`lite0`, or `lite0, from Tiny ImageNet, 20 classes`."""
    if not text.startswith("from_"):
        return text
    source, _, teacher = text[len("from_"):].rpartition("_")
    return f"{teacher}, from {TITLES[source]}"


def as_table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| set | teacher | what | from pretraining | against | gain |", "|---|---|---|---|---|---|"]
    for row in rows:
        whole = row.what.startswith(("codes used", "classes predicted"))
        form = ".4g" if whole else ".1f"
        unit = "" if whole or row.what.startswith("perplexity") else " %"
        other = f"{row.against} {spread(row.others, form)}{unit}" if row.others else ""
        gain = spread(row.gains, "+.2g" if whole else "+.1f") if row.others else ""
        own = f"{spread(row.values, form)}{unit}"
        lines.append(f"| {row.set} | {row.teacher} | {row.what} | {own} | {other} | {gain} |")
    return "\n".join(lines) + "\n"


def write_results(parts: Mapping[str, Part], out: Path, facts: Mapping[str, Any], failed: Mapping[str, str],
                  data: Path) -> Path:
    """results.json, results.md and the page; returns the page's index."""
    rows, seconds = rows_of(parts, out), {name: note_of(part, out).get("seconds") for name, part in parts.items()}
    taken = {name: value for name, value in seconds.items() if value is not None}
    write_text_atomically(out / "results.json", json.dumps(
        {**facts, "rows": [{**row._asdict(), "gains": row.gains} for row in rows], "seconds": taken,
         "failed": dict(failed)}, indent=1) + "\n")
    machine, versions = facts["machine"], ", ".join(f"{name} {value}" for name, value in facts["versions"].items())
    times = "".join(f"| {name} | {clock(value)} |\n" for name, value in taken.items())
    not_there = "".join(f"- {name}: {why}\n" for name, why in failed.items())
    text = (f"# Real images\n\n{as_table(rows)}\n{LITE0} The spread is the standard deviation of the seeds. Gains are "
            f"in points, seed by seed.\n\nCommit {facts['commit'] or 'unknown'}; {machine['processor']}, "
            f"{machine['cores']} cores; {versions}.\n\n## Time\n| part | time |\n|---|---|\n{times}"
            f"| all | {clock(sum(taken.values()))} |\n" + (f"\n## Not there\n{not_there}" if not_there else ""))
    write_text_atomically(out / "results.md", text)
    return write_page(parts, out, data)


def write_page(parts: Mapping[str, Part], out: Path, data: Path) -> Path:
    """Copies of the parts' figures and an index, README.md, below OUT/page; the report has those of the trainings."""
    page, lines = out / "page", ["# Figures of real images", "", "[All numbers](../results.md). " + LITE0]
    shown: set[str] = set()
    for part in parts.values():
        name = part.name.partition("/")[0]
        kind = part.name.partition("/")[2].partition("_")[0]
        if not note_of(part, out).get("finished") or kind in ("tokenizer", "pretrain"):
            continue
        folder = part.result.parent
        pictures = sorted(folder.glob("*.png" if kind == "look" else "figures/*.png"))
        if not pictures:
            continue
        if name not in shown:
            shown.add(name)
            lines += ["", f"## {TITLES[name]}", "", SOURCES[name]]
        lines += ["", f"### {folder.name}", "", f"`{_typed(part, out, data)}`", ""]
        for picture in pictures:
            copy = page / part.name / picture.name
            with write_atomically(copy) as temporary:
                shutil.copyfile(picture, temporary)
            lines.append(f"![{picture.stem} of {part.name}]({copy.relative_to(page).as_posix()})")
    write_text_atomically(page / "README.md", "\n".join(lines) + "\n")
    return page / "README.md"


def _typed(part: Part, out: Path, data: Path) -> str:
    """The command as one would type it in the repository, with OUT and DATA for these folders."""
    text = " ".join(("beitv2", *part.command))
    for path, name in ((f"{CONFIGS.parent}/", ""), (str(out), "OUT"), (str(data), "DATA")):
        text = text.replace(path, name)
    return text
