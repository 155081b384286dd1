# SPDX-License-Identifier: Apache-2.0
"""Labels as people write them, names or numbers, to the numbers of known classes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from ...errors import DataError

#: more than any known set of classes: such numbers are identifiers
MOST_CLASSES = 1_000_000
_NUMBER = re.compile(r"^[+-]?\d+(\.\d*)?$")


def number_words(words: Sequence[tuple[object, str]], classes: Sequence[str] | None,
                 setting: str) -> tuple[list[int], list[str]]:
    """(numbers, class names) of the labels of a list; words: (where it stands, label).

    classes: the known names: labels are all names of them, or all numbers below their count.  Without them, numbers
    stay what they are and the classes are "0", "1", ... up to the greatest; names are numbered in sorted order.
    Raises DataError naming the place for unknown names, numbers out of range, several labels and mixtures.
    """
    texts = {text for _, text in words}
    for where, text in words:
        if len(text.split()) > 1 and all(_NUMBER.match(part) for part in re.split(r"[\s,;|]+", text)):
            raise DataError(f"{where}: {text!r} are several labels ({setting}); expected one class an image.")
    if classes is not None:
        return label_words(words, classes, setting), list(classes)
    if all(text.isdecimal() for text in texts):
        numbers = [int(text) for _, text in words]
        greatest = max(numbers, default=0)
        if greatest > MOST_CLASSES:
            where = words[numbers.index(greatest)][0]
            raise DataError(f"{where}: label {greatest} would make {greatest + 1:,} classes ({setting}). Number the "
                            "classes from 0, or write names that are no plain numbers.")
        return numbers, [str(number) for number in range(max(numbers, default=-1) + 1)]
    if all(_NUMBER.match(text) for text in texts):
        where, text = next((where, text) for where, text in words if not text.isdecimal())
        raise DataError(f"{where}: label {text} is no whole number of at least 0 ({setting}). Number the classes "
                        "from 0, or write their names.")
    names = sorted(texts)
    number_of = {name: number for number, name in enumerate(names)}
    return [number_of[text] for _, text in words], names


def label_words(words: Sequence[tuple[object, str]], classes: Sequence[str], setting: str, *,
                only_names: bool = False) -> list[int]:
    """The numbers of labels that are all names of `classes`, or all numbers below their count.

    only_names: numbers are names too (folders).  Raises DataError naming the place, the label and the known classes:
    nothing is renumbered.
    """
    number_of = {name: number for number, name in enumerate(classes)}
    numbers = [(where, text) for where, text in words if text.isdecimal()]
    named = [(where, text) for where, text in words if text in number_of]
    if len(named) == len(words):
        for where, text in () if only_names else numbers:
            if int(text) < len(classes) and number_of[text] != int(text):
                raise DataError(
                    f"{where}: label {text} is the name of class {number_of[text]} and the number of class "
                    f"{classes[int(text)]!r} ({setting}). Use folders named as the classes instead of a list."
                )
        return [number_of[text] for _, text in words]
    unknown = [(where, text) for where, text in words if text not in number_of]
    if len(numbers) == len(words) and not named and not only_names:
        for where, text in words:
            if int(text) >= len(classes):
                raise DataError(f"{where}: label {text}, but there are {len(classes)} classes, 0 .. {len(classes) - 1} "
                                f"({_some(classes)}; {setting}). Use the numbers or names of the model's classes.")
        return [int(text) for _, text in words]
    where, text = next((one for one in unknown if not one[1].isdecimal()), unknown[0])
    if named and text.isdecimal() and not only_names:
        raise DataError(f"{where}: label {text} is a number, other labels are names of classes ({setting}). Write "
                        "names only, or numbers only.")
    near = difflib.get_close_matches(text, list(classes), n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    count = len({text for _, text in unknown})
    more = f" {count} names are like this." if count > 1 else ""
    raise DataError(f"{where}: {text!r} is none of the {len(classes)} classes known ({_some(classes)}; {setting})."
                    f"{hint}{more} Name the classes as they were when the model was trained.")


def _some(classes: Sequence[str], most: int = 8) -> str:
    return ", ".join(map(str, classes[:most])) + (", ..." if len(classes) > most else "")
