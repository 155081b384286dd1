# SPDX-License-Identifier: Apache-2.0
"""What follows from the looks at all images: what is to be done, and what is good to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..choosing.survey import MOSTLY, PLAIN_LEVELS
from .gather import Found
from .parts import OTHER, TEST, TRAIN, Finding, Part, Plan, Use
from .twins import ALIKE, SAME_FILE, SAME_PIXELS, Twin, groups

#: classes with fewer training images than this are named
FEW_IMAGES = 10
#: names that a sentence lists
MOST_NAMED = 8


class Judged(NamedTuple):
    """Everything that was found.  found: by the number of the split; leave_out: split -> images not worth keeping."""

    plan: Plan
    found: Sequence[Found]
    twins: Sequence[Twin]
    findings: Sequence[Finding]
    leave_out: Mapping[str, set[int]]

    @property
    def ready(self) -> bool:
        """Whether nothing is to be done."""
        return not any(finding.fault for finding in self.findings)

    def place(self, number: int) -> tuple[Part, int]:
        """The split and the image in it of a number over all splits."""
        for part in self.plan.parts:
            if number < part.images:
                return part, number
            number -= part.images
        raise IndexError(number)


def judge(plan: Plan, found: Sequence[Found], twins: Sequence[Twin], folder: Optional[Path]) -> Judged:
    """The findings, faults first.  folder: where lists of the images to keep are written, None: nowhere."""
    leave_out: dict[str, set[int]] = {part.name: set() for part in plan.parts}
    judged = Judged(plan, found, twins, (), leave_out)
    _fill(leave_out, judged)
    listed = [*plan.findings]
    for part, one in zip(plan.parts, found):
        listed += [*_unreadable(part, one, folder), *_turned(part, one), *_plain(part, one), *_labels(part, one),
                   *_classes(part, one), *_small(part, one), *_foreign(part)]
    listed += [*_between(judged, folder), *_within(judged, folder), *_unseen(plan)]
    for use in plan.uses:
        listed += _batch(plan, use)
    return judged._replace(findings=sorted(listed, key=lambda finding: not finding.fault))


def kept_list(part: Part, folder: Optional[Path]) -> str:
    """How to go on without the images that are not worth keeping."""
    if not part.list_setting:
        return "Take them out of the data (write tar files anew); findings.csv, which -o FOLDER writes, names them"
    if folder is None:
        return (f"Run the check with -o FOLDER: it writes FOLDER/{part.name}.txt without them, for "
                f"{part.list_setting.replace('LIST', f'FOLDER/{part.name}.txt')}")
    return f"Go on without them: {part.list_setting.replace('LIST', str(folder / f'{part.name}.txt'))}"


def steps_per_epoch(plan: Plan, use: Use) -> Optional[int]:
    """Updates of an epoch of a command; what does not fill one is left out, as the commands do."""
    if use.batch is None:
        return None
    images = next(part.images for part in plan.parts if part.name in use.reads)
    return images * use.repeats // use.batch


def _fill(leave_out: dict[str, set[int]], judged: Judged) -> None:
    """Mark what is not worth keeping: what cannot be read, training images that are test images too, second copies."""
    for part, one in zip(judged.plan.parts, judged.found):
        leave_out[part.name] |= set(one.broken) | {number for number, _, _ in one.faults}
    for group in groups(judged.twins):
        members = [judged.place(number) for number in group]
        for role in (TRAIN, TEST, OTHER):
            same = [(part, number) for part, number in members if part.role == role]
            labels = {label_of(part, number) for part, number in same}
            tested = role == TRAIN and any(part.role == TEST for part, _ in members)
            for part, number in same if tested or len(labels) > 1 else same[1:]:
                leave_out[part.name].add(number)


def label_of(part: Part, number: int) -> Optional[str]:
    """The class of an image by its name; None where images have none."""
    if part.labels is None or part.classes is None:
        return None
    return str(part.classes[int(part.labels[number])])


def _unreadable(part: Part, found: Found, folder: Optional[Path]) -> Iterator[Finding]:
    if found.broken:
        first = min(found.broken)
        yield Finding("unreadable", True, part.name, len(found.broken),
                      f"{part.name}: {len(found.broken)} of {part.images:,} files cannot be read (the first: "
                      f"{part.looks.path(first)}: {found.broken[first]})",
                      f"Repair or replace them. {kept_list(part, folder)}",
                      [(part.name, number) for number in sorted(found.broken)],
                      [found.broken[number] for number in sorted(found.broken)])


def _turned(part: Part, found: Found) -> Iterator[Finding]:
    turned = np.flatnonzero(found.turn > 1)
    if len(turned) and not part.upright:
        yield Finding("turned", True, part.name, len(turned),
                      f"{part.name}: {len(turned)} of {part.images:,} images are turned by their EXIF data, and are "
                      f"read as they are stored (the first: {part.looks.path(int(turned[0]))})",
                      f"Read them as viewers show them: {part.turn_setting}, in training and for this check",
                      [(part.name, int(number)) for number in turned],
                      [f"EXIF orientation {found.turn[number]}" for number in turned])


def _plain(part: Part, found: Found) -> Iterator[Finding]:
    plain = np.flatnonzero((found.spread >= 0) & (found.spread <= PLAIN_LEVELS))
    if len(plain):
        yield Finding("one-colour", len(plain) >= MOSTLY * part.images, part.name, len(plain),
                      f"{part.name}: {len(plain)} of {part.images:,} images are of one colour (the first: "
                      f"{part.looks.path(int(plain[0]))}): nothing can be learnt from these",
                      "Look at them: a mask or an empty frame among the images is to be taken out",
                      [(part.name, int(number)) for number in plain], ["one colour"] * len(plain))


def _labels(part: Part, found: Found) -> Iterator[Finding]:
    for kind in dict.fromkeys(kind for _, kind, _ in found.faults):
        here = [(number, words) for number, one, words in found.faults if one == kind]
        what, do = part.remedies[kind]
        yield Finding(kind, True, part.name, len(here),
                      f"{part.name}: {what} in {len(here)} of {part.images:,} samples (the first: {here[0][1]})", do,
                      [(part.name, number) for number, _ in here], [words for _, words in here], True)


def _classes(part: Part, found: Found) -> Iterator[Finding]:
    """Classes of the training images without an image, or with few."""
    counts, names = counted(part, found)
    what = "image" if part.labels is not None else "labelled pixel"
    if part.role != TRAIN or counts is None or names is None:
        return
    if part.labels is None and np.count_nonzero(counts) < 2 and "one-class" in part.remedies:
        words, do = part.remedies["one-class"]
        yield Finding("one-class", True, part.name, 1, f"{part.name}: {words}", do, of_classes=True)
    empty = [str(names[number]) for number in np.flatnonzero(counts == 0)]
    if empty:
        fault = not part.by_labels or not counts[0]  # a gap between labels may be meant
        yield Finding("empty-class", fault, part.name, len(empty),
                      f"{part.name}: no {what} of class {_few(empty)} ({len(empty)} of {len(names)} classes)",
                      part.remedies["empty-class"][1] if "empty-class" in part.remedies else
                      "Add some, or take the class out (its folder, or its number)", of_classes=True)
    few = [f"{names[number]} ({counts[number]})" for number in np.flatnonzero((counts > 0) & (counts < FEW_IMAGES))]
    if few:
        yield Finding("few-images", False, part.name, len(few),
                      f"{part.name}: fewer than {FEW_IMAGES} images of class {_few(few)}",
                      "Collect more: accuracy of such a class says little", of_classes=True)


def _small(part: Part, found: Found) -> Iterator[Finding]:
    if part.image_size is None:
        return
    height, width = part.image_size
    small = np.flatnonzero((found.width > 0) & ((found.width < width) | (found.height < height)))
    if len(small):
        yield Finding("small", False, part.name, len(small),
                      f"{part.name}: {len(small)} of {part.images:,} images have fewer than {width} x {height} pixels "
                      f"({part.size_setting}) and are enlarged (the first: {part.looks.path(int(small[0]))}: "
                      f"{found.width[small[0]]} x {found.height[small[0]]})",
                      f"Where they are many, lower {part.size_setting}",
                      [(part.name, int(number)) for number in small],
                      [f"{found.width[number]} x {found.height[number]}" for number in small])


def _foreign(part: Part) -> Iterator[Finding]:
    if part.left_out:
        yield Finding("left-out", False, part.name, len(part.left_out),
                      f"{part.name}: {len(part.left_out)} files of kinds that are not read are left out (the first: "
                      f"{part.left_out[0]})", "Convert them to JPEG or PNG; HEIC is read after pip install pillow-heif")


def _between(judged: Judged, folder: Optional[Path]) -> Iterator[Finding]:
    """Training images that are test images too."""
    leaks: dict[tuple[str, str], dict[int, tuple[int, str]]] = {}
    how = {frozenset((twin.first, twin.second)): twin.how for twin in judged.twins}
    for group in groups(judged.twins):
        members = [(number, *judged.place(number)) for number in group]
        for number, part, place in members:
            if part.role == TEST:
                for other, source, there in members:
                    if source.role == TRAIN:
                        key = how.get(frozenset((number, other)), "by way of another copy")
                        leaks.setdefault((source.name, part.name), {}).setdefault(place, (there, key))
    parts = {part.name: part for part in judged.plan.parts}
    for (first, second), found in leaks.items():
        source, test = parts[first], parts[second]
        files = [item for place, (there, _) in sorted(found.items()) for item in ((second, place), (first, there))]
        words = [word for place, (there, kind) in sorted(found.items())
                 for word in (f"{kind}: {source.looks.path(there)}", f"{kind}: {test.looks.path(place)}")]
        place, (there, kind) = min(found.items())
        yield Finding("leak", True, f"{first}, {second}", len(found),
                      f"{len(found)} of {test.images:,} images of {second} are in {first} too (the first: "
                      f"{test.looks.path(place)} is {source.looks.path(there)}, {kind}): what is measured there is "
                      "partly learnt by heart", kept_list(source, folder), files, words)


def _within(judged: Judged, folder: Optional[Path]) -> Iterator[Finding]:
    """Images that are there twice in one split: with one class, or with several."""
    for part in judged.plan.parts:
        twice: list[tuple[int, int]] = []
        against: list[tuple[int, int]] = []
        for group in groups(judged.twins):
            here = [place for one, place in map(judged.place, group) if one is part]
            labels = {label_of(part, place) for place in here}
            (twice if len(labels) < 2 else against).extend((place, here[0]) for place in here[1:])
        for kind, fault, found, what in (
                ("contradiction", True, against, "images are there again with another class"),
                ("duplicate", False, twice, "images are there twice or more often")):
            if found:
                place, first = found[0]
                yield Finding(kind, fault, part.name, len(found),
                              f"{part.name}: {len(found)} of {part.images:,} {what} (the first: "
                              f"{part.looks.path(place)} is {part.looks.path(first)})", kept_list(part, folder),
                              [item for place, first in found for item in ((part.name, place), (part.name, first))],
                              [word for place, first in found for word in (
                                  _said(part, first), _said(part, place))], kind == "contradiction")


def _said(part: Part, number: int) -> str:
    label = label_of(part, number)
    return f"is {part.looks.path(number)}" + ("" if label is None else f" ({label})")


def _unseen(plan: Plan) -> Iterator[Finding]:
    """Classes of test images that are not trained, and the other way round."""
    trained = next((part for part in plan.parts if part.role == TRAIN and part.classes is not None), None)
    for part in plan.parts:
        if trained is None or part.role != TEST or part.classes is None or part.labels is None:
            continue
        tested = {str(part.classes[number]) for number in np.unique(part.labels)}
        known = [str(name) for name in trained.classes or ()]
        unseen, missing = sorted(tested - set(known)), [name for name in known if name not in tested]
        if unseen:
            yield Finding("unseen-class", True, f"{trained.name}, {part.name}", len(unseen),
                          f"{part.name}: class {_few(unseen)} is not in {trained.name}: the "
                          "commands refuse such images",
                          f"Take these images out of {part.name}, or add training images of the class", of_classes=True)
        if missing:
            yield Finding("untested-class", False, f"{trained.name}, {part.name}", len(missing),
                          f"{part.name}: no image of class {_few(missing)} ({len(missing)} of {len(known)} classes): "
                          "their accuracy is not measured", f"Add some to {part.name}", of_classes=True)


def _batch(plan: Plan, use: Use) -> Iterator[Finding]:
    steps = steps_per_epoch(plan, use)
    if steps == 0 and use.batch_setting:
        part = next(part for part in plan.parts if part.name in use.reads)
        yield Finding("batch", True, part.name, part.images,
                      f"{use.command}: {part.images} images do not fill one update of {use.batch}",
                      f"Lower {use.batch_setting} to {part.images * use.repeats} or less, or add images")


def counted(part: Part, found: Found) -> tuple[Optional[np.ndarray], Optional[Sequence[str]]]:
    """(images of each class, names of the classes); None where there are none."""
    if part.labels is not None and part.classes is not None:
        return np.bincount(part.labels, minlength=len(part.classes)), part.classes
    if part.pixel_classes is not None and found.having is not None:
        return found.having[:-1], part.pixel_classes
    return None, None


def copies(judged: Judged, part: Part) -> dict[str, int]:
    """How many images of a split equal an earlier one of it, by how."""
    found: dict[str, set[int]] = {how: set() for how in (SAME_FILE, SAME_PIXELS, ALIKE)}
    for twin in judged.twins:
        (one, _), (other, number) = judged.place(twin.first), judged.place(twin.second)
        if one is part and other is part:
            found[twin.how].add(number)
    return {how: len(numbers) for how, numbers in found.items()}


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(str, names[:MOST_NAMED])) + (f", ... ({len(names)})" if len(names) > MOST_NAMED else "")
