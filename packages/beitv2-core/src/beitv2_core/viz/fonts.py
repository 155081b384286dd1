"""Names in any writing: fonts that have the letters where they are installed, else a readable replacement."""

from __future__ import annotations

from functools import cache
from typing import Any

from matplotlib import font_manager
from matplotlib.text import Text

BASE = "DejaVu Sans"  # comes with matplotlib
#: families that hold Chinese, Japanese, Korean and many other letters, likeliest first
FAMILIES = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Micro Hei",
            "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC", "Heiti SC", "Hiragino Sans GB",
            "Microsoft YaHei", "SimHei", "SimSun", "AR PL UMing CN", "Malgun Gothic", "Arial Unicode MS", "Unifont", "Noto Sans")


@cache
def families() -> tuple[str, ...]:
    """The fonts a figure's letters are looked for in, in this order."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return (BASE, *(family for family in FAMILIES if family in installed))


def readable(words: str) -> str:
    """The words with every letter that no font has as its number (U+732B); bytes of no letter as \\xe9."""
    return words if words.isascii() else "".join(_shown(letter) for letter in words)


def make_readable(figure: Any) -> None:
    """Replace in all texts of a figure what would be drawn as empty boxes, each with a warning."""
    for text in figure.findobj(Text):
        text.set_text(readable(text.get_text()))
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            labels = [label.get_text() for label in axis.get_ticklabels()]
            shown = [readable(label) for label in labels]
            if shown != labels:  # tick labels are made anew when they are drawn
                axis.set_ticks(axis.get_ticklocs(), shown)


@cache
def _letters() -> frozenset[str]:
    found: set[str] = set()
    for family in families():
        found |= set(map(chr, font_manager.get_font(font_manager.findfont(family)).get_charmap()))
    return frozenset(found)


def _shown(letter: str) -> str:
    if letter.isspace() or letter in _letters():
        return letter
    code = ord(letter)
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"U+{code:04X}"
