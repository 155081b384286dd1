# SPDX-License-Identifier: Apache-2.0
"""Text files that name images, as people write them: with labels, with label maps, or alone.

Any encoding that is met (UTF-8, UTF-16, a byte order mark, GBK), either line end, `#` comments, quotes; tabs, commas
or blanks between the columns, and blanks inside names; backslashes of Windows where the file is found with slashes.
A path is absolute, or relative to the root or to the list's own folder.
"""

from __future__ import annotations

import codecs
import itertools
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional, Union

from ...errors import DataError
from .image_file import EXTENSIONS, FOREIGN_EXTENSIONS

logger = logging.getLogger("beitv2_core")
PathLike = Union[str, Path]

#: endings of files that are lists where images are expected
LIST_EXTENSIONS = (".txt", ".csv", ".tsv", ".lst", ".list")
#: words of a first line that names the columns
HEADINGS = {"image", "images", "path", "paths", "file", "files", "filename", "filepath", "file_name", "file_path",
            "image_path", "img", "img_path", "name", "picture", "image_id", "fname"}
#: characters of a line, in which two of the longest paths (Linux: 4096 bytes) have room
LONGEST = 10_000
#: places at which a line is cut to find the files it names, and folders without the file that are kept in mind
MOST_GAPS, MOST_FOLDERS = 200, 10_000
_INVISIBLE = "\ufeff\u200b\u200e\u200f\u2060\x1a"
_AFTER_ENDING = re.compile(
    "(?:" + "|".join(re.escape(end) for end in (*EXTENSIONS, *FOREIGN_EXTENSIONS)) + r")(?P<gap>\s*[,;|]\s*|\s+)", re.I
)
_GAP = re.compile(r"\s*[,;|]\s*|\s+")


class Labelled(NamedTuple):
    """A line of a list with labels: its number, the path (below the root, or absolute), the label ("": none)."""

    line: int
    path: str
    label: str


class Pair(NamedTuple):
    """A line of a list of images and label maps: its number, both files as they can be opened (None: no label map)."""

    line: int
    image: str
    label_map: Optional[str]


def read_labelled(list_file: PathLike, root: PathLike, *, labels: bool = True, may_miss: float = 0.0,
                  setting: str = "data.list_file") -> list[Labelled]:
    """The lines `path label` of a list; a label of several words begins at a tab, a comma or an image's ending.

    root: folder that paths are relative to; the list's own folder is tried where they are not there.  labels: every
    line must have one.  may_miss: share of the files that may be missing (they are left in the list).
    Raises DataError naming file, line and what to do.
    """
    reader = _Reader(list_file, root, setting)
    found: list[Labelled] = []
    missing: list[tuple[int, str]] = []
    for number, text in reader.lines:
        parted = reader.part(text)
        if labels and not parted.rest:
            raise reader.error(number, f"{text!r} has no label; expected `path label`. Add a class name or number")
        if parted.file is None:
            missing.append((number, parted.path))
        found.append(Labelled(number, reader.below_root(parted), parted.rest))
    reader.check_missing(missing, len(found), may_miss)
    return found


def read_pairs(list_file: PathLike, root: PathLike, *, separator: Optional[str] = None, labels: bool = True,
               setting: str = "list") -> list[Pair]:
    """The lines `image label_map` of a list, every file there.

    separator: what parts the columns where it is known; where a line does not hold together with it (a blank inside a
    name), the parting at which both files exist is taken.  labels False: a label map may be left out.
    Raises DataError naming file, line and what to do.
    """
    reader = _Reader(list_file, root, setting)
    found: list[Pair] = []
    for number, text in reader.lines:
        both = reader.pair(text, separator)
        if both is not None:
            found.append(Pair(number, *both))
        else:
            parted = reader.part(text)
            if parted.file is None:
                raise reader.missing(number, parted.path)
            if parted.rest:
                raise reader.missing(number, parted.rest, "label map")
            if labels:
                raise reader.error(number, f"{text!r} names one file; expected `image label_map`. Add the label map")
            found.append(Pair(number, parted.file, None))
    if not found:
        raise DataError(f"{list_file}: names no file ({setting}); expected one `image label_map` a line.")
    return found


def read_images(list_file: PathLike, root: Optional[PathLike] = None, *, setting: str = "list") -> list[str]:
    """The images a list names, as they can be opened, in its order; what follows a path (a label) is left out.

    root: folder that paths are relative to; default: the list's own.  Raises DataError naming file and line.
    """
    reader = _Reader(list_file, Path(list_file).parent if root is None else root, setting)
    found = []
    for number, text in reader.lines:
        parted = reader.part(text)
        if parted.file is None:
            raise reader.missing(number, parted.path)
        found.append(parted.file)
    if not found:
        raise DataError(f"{list_file}: names no image ({setting}); expected one path a line.")
    return found


def is_list(path: PathLike) -> bool:
    """Whether a file is a list of images by its ending."""
    return str(path).lower().endswith(LIST_EXTENSIONS)


def read_words(path: PathLike, *, what: str) -> list[tuple[int, str]]:
    """(line number, text) of the lines of a text file that say something: no blank ones, no `#` comments, decoded.

    For lists of class names.  what: the setting or option that named the file.  Raises DataError where it cannot be
    read or is no text.
    """
    return _lines(path, what, lambda text: True)


class _Parted(NamedTuple):
    """A line cut into path and rest; file: the path as it can be opened, None where there is no such file."""

    path: str
    rest: str
    file: Optional[str]


class _Reader:
    """A list's lines, and where the files they name are."""

    def __init__(self, list_file: PathLike, root: PathLike, setting: str) -> None:
        self.list_file, self.root, self.setting = Path(list_file), str(root), setting
        self.folders = list(dict.fromkeys((self.root, str(self.list_file.parent))))
        self._names: dict[str, set[str]] = {}
        self.lines = _lines(list_file, setting, lambda text: self.part(text).file is not None)
        if self.lines and self._is_heading(self.lines[0][1]):
            logger.info("%s: line %d names the columns.", list_file, self.lines[0][0])
            del self.lines[0]

    def part(self, text: str) -> _Parted:
        """Cut a line after its path: where the file exists, else where an image's ending says so."""
        whole, rest = _unquoted(text)
        file = self.find(whole)
        if file is not None or rest is not None:
            return _Parted(whole, rest or "", file)
        likeliest = None
        for path, rest in _cuts(text):
            file = self.find(path)
            if file is not None:
                return _Parted(path, rest, file)
            likeliest = likeliest or _Parted(path, rest, None)
        return likeliest or _Parted(text, "", None)

    def pair(self, text: str, separator: Optional[str]) -> Optional[tuple[str, str]]:
        """Both files of a line, where there is a parting at which both exist."""
        whole, rest = _unquoted(text)
        if rest is not None:
            partings: Iterator[tuple[str, str]] = iter([(whole, _unquoted(rest)[0])])
        else:
            known = text.partition(separator)[::2] if separator and text.count(separator) == 1 else None
            gaps = ((text[: gap.start()], text[gap.end():]) for gap in _gaps(text))
            partings = gaps if known is None else itertools.chain([known], gaps)
        for image, label_map in partings:
            label = self.find(label_map.strip().strip("\"'"))
            if label is not None:
                found = self.find(image.strip())
                if found is not None:
                    return found, label
        return None

    def find(self, path: str) -> Optional[str]:
        """The file as it can be opened; None where it is neither below the root nor beside the list."""
        if not path:
            return None
        for spelled in dict.fromkeys((path, path.replace("\\", "/"))):
            for folder in [""] if os.path.isabs(spelled) else self.folders:
                file = os.path.join(folder, spelled)
                if self._exists(file):
                    return file
        return None

    def below_root(self, parted: _Parted) -> str:
        """The path as written, below the root, where it is there; else one that can be joined to the root."""
        if parted.file is None or os.path.isabs(parted.path):
            return parted.path
        inside = os.path.join(self.root, "")
        if parted.file.startswith(inside):
            return parted.file[len(inside):]
        return os.path.abspath(parted.file)

    def _exists(self, file: str) -> bool:
        """Whether there is such a file; a folder's names are read once, not a file's state a million times."""
        folder, name = os.path.split(file)
        names = self._names.get(folder)
        if names is None:
            try:
                names = {entry.name for entry in os.scandir(folder or ".") if not entry.is_dir()}
            except (OSError, ValueError):  # no such folder, or a name no folder can have
                if len(self._names) >= MOST_FOLDERS:
                    return False
                names = set()
            self._names[folder] = names
        return name in names

    def _is_heading(self, text: str) -> bool:
        words = [word.strip("\"' ").lower() for word in _GAP.split(text)]
        return words[0] in HEADINGS and self.find(text) is None and self.part(text).file is None

    def error(self, number: int, message: str) -> DataError:
        return DataError(f"{self.list_file}, line {number}: {message} ({self.setting}).")

    def missing(self, number: int, path: str, what: str = "image") -> DataError:
        """What is known of a path that leads nowhere."""
        hint = "Give a path relative to that folder, or an absolute one"
        if re.match(r"^[A-Za-z]:[\\/]", path):
            hint = "It is a path of another machine (Windows): write it relative to the folder of the data"
        elif "\\" in path:
            hint = "It was also looked for with / in place of \\"
        below = " or ".join(repr(os.path.abspath(folder)) for folder in self.folders)
        return self.error(number, f"there is no {what} {path!r} below {below}. {hint}")

    def check_missing(self, missing: list[tuple[int, str]], total: int, may_miss: float) -> None:
        """Refuse a list of which too many files are not there."""
        if not missing:
            return
        if len(missing) > may_miss * total:
            first = self.missing(*missing[0])
            more = f" {len(missing)} of {total} lines are like this." if len(missing) > 1 else ""
            raise DataError(f"{first}{more}")
        logger.warning("%s: %d of %d files are missing, the first in line %d: %s.", self.list_file, len(missing), total,
                       *missing[0])


def _unquoted(text: str) -> tuple[str, Optional[str]]:
    """(what stands in quotes at the start, the rest); (text, None) where there are none."""
    if text.startswith(("\"", "'")) and text.find(text[0], 1) > 0:
        end = text.index(text[0], 1)
        return text[1:end].strip(), _bare(text[end + 1:])
    return text, None


def _bare(rest: str) -> str:
    """A label without the separators and quotes around it."""
    return rest.strip(" \t,;|").strip("\"'")


def _cuts(text: str) -> Iterator[tuple[str, str]]:
    """The ways to cut a line into path and rest, likeliest first: at a tab, behind an image's ending, at all gaps."""
    if "\t" in text:
        path, _, rest = text.partition("\t")
        yield path.strip(), _bare(rest)
    for end in itertools.islice(_AFTER_ENDING.finditer(text), MOST_GAPS):
        yield text[: end.start("gap")], _bare(text[end.end():])
    yield text, ""
    for gap in reversed(_gaps(text)):
        yield text[: gap.start()], _bare(text[gap.end():])


def _gaps(text: str) -> list[re.Match[str]]:
    return list(itertools.islice(_GAP.finditer(text), MOST_GAPS))


def _lines(path: PathLike, what: str, fits: Callable[[str], bool]) -> list[tuple[int, str]]:
    """Numbered lines; fits(line): whether a decoding makes sense, asked of lines with letters beyond ASCII."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}; {what}); expected a text file with one line "
                        "for each image.") from None
    best: Optional[list[tuple[int, str]]] = None
    for encoding, text in _readings(content):
        lines = [(number, line.strip().strip(_INVISIBLE).strip())
                 for number, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1)]
        lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
        longest = max(lines, key=lambda one: len(one[1]), default=(0, ""))
        if len(longest[1]) > LONGEST:
            raise DataError(f"{path}, line {longest[0]}: has {len(longest[1]):,} characters ({what}); expected at most "
                            f"{LONGEST:,}. Give a text file with one line for each image.")
        telling = [line for _, line in lines if not line.isascii()][:8]
        if encoding == "utf-8" or any(fits(line) for line in telling):
            best, used = lines, encoding
            break
        if best is None:
            best, used = lines, encoding
    if best is None:
        raise DataError(f"{path}: is no text ({what}): it holds zero bytes. Save it as text in UTF-8.")
    if used not in ("utf-8", "bytes"):
        logger.warning("%s: not UTF-8; read as %s. Save it as UTF-8 if names look wrong.", path, used)
    return best


def _readings(content: bytes) -> Iterator[tuple[str, str]]:
    """(encoding, text) of some bytes, likeliest first."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        yield from _decoded(content, "utf-16")
    elif b"\0" in content:
        odd = content[1::2].count(0) >= content[::2].count(0)
        yield from _decoded(content, "utf-16-le" if odd else "utf-16-be")
    else:
        content = content[len(codecs.BOM_UTF8):] if content.startswith(codecs.BOM_UTF8) else content
        found = list(_decoded(content, "utf-8"))
        yield from found
        if not found:
            yield from _decoded(content, "gb18030")
            yield "bytes", os.fsdecode(content)  # names on the disk may have these very bytes
            yield from _decoded(content, "cp1252")


def _decoded(content: bytes, encoding: str) -> Iterator[tuple[str, str]]:
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return
    if "\0" not in text:
        yield encoding, text
