# SPDX-License-Identifier: Apache-2.0
"""What every figure shares: size, style and a write that is whole or absent."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from beitv2_core.errors import ShapeError
from beitv2_core.files.atomic import write_atomically
from beitv2_core.viz.fonts import families, make_readable

INK, MUTED, PALE = "#263238", "#78909c", "#eceff1"
ACCENT, SECOND = "#00796b", "#e07b39"
#: curves of one panel, in this order
SERIES = (ACCENT, SECOND, "#5c6bc0", "#ad1457", "#8d6e63", MUTED)
#: little to much, white to dark: prints well and does not shout
HEAT = LinearSegmentedColormap.from_list("heat", ["#f4f9f8", "#a7d5cf", "#3f9d93", "#0b5f56", "#06332e"])
_STYLE: dict[Any, Any] = {"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.titlepad": 6,
          "axes.edgecolor": "#b0bec5", "axes.labelcolor": INK, "axes.axisbelow": True,
          "axes.spines.top": False, "axes.spines.right": False, "text.color": INK,
          "xtick.color": "#b0bec5", "ytick.color": "#b0bec5", "xtick.labelcolor": INK, "ytick.labelcolor": INK,
          "xtick.labelsize": 8, "ytick.labelsize": 8, "grid.color": "#eceff1", "legend.fontsize": 8,
          "legend.frameon": False, "lines.linewidth": 1.4}


class Canvas:
    """A figure of `width` x `height` inches; leaving the block writes it to `path` (PNG), creating parent folders.

    The file is whole or absent: it is written beside `path` under another name and renamed.  After an error in the
    block nothing is written and what was at `path` stays.
    """

    def __init__(self, path: str | Path, width: float, height: float, *, title: str | None = None):
        self.path, self._size, self._title = Path(path), (width, height), title

    def __enter__(self) -> Figure:
        self._style = rc_context({**_STYLE, "font.family": list(families())})
        self._style.__enter__()
        self.figure = Figure(figsize=self._size, dpi=130, layout="constrained", facecolor="white")
        FigureCanvasAgg(self.figure)
        if self._title:
            self._heading = self.figure.suptitle(self._title, x=0.01, ha="left", fontsize=10.5)
        return self.figure

    def __exit__(self, kind: Any, *exc: Any) -> None:
        try:
            if kind is None:
                make_readable(self.figure)
                if self._title:
                    _wrap(self._heading, 0.98 * self.figure.bbox.width)
                with write_atomically(self.path) as temporary:
                    self.figure.savefig(temporary, format="png")
        finally:
            self._style.__exit__(kind, *exc)


def _wrap(text: Any, width: float) -> None:
    """Break a text into lines of at most `width` pixels.  The layouts of Matplotlib 3.6 do not see its own `wrap`."""
    words = text.get_text()
    for columns in range(len(words) - 1, 20, -1):
        if text.get_window_extent().width <= width:
            return
        text.set_text(textwrap.fill(words, columns, break_long_words=False))


def as_images(images: np.ndarray, where: str) -> np.ndarray:
    """Images as uint8 (B, H, W, 3): taken as they are, or from float (B, 3, H, W) in [0, 1]."""
    images = np.asarray(images)
    if images.ndim == 4 and images.size:
        if images.shape[-1] == 3 and images.dtype == np.uint8:
            return images
        if images.shape[1] == 3 and np.issubdtype(images.dtype, np.floating):
            return np.clip(np.rint(images.transpose(0, 2, 3, 1) * 255), 0, 255).astype(np.uint8)
    raise ShapeError(
        f"{where}: images have shape {images.shape} of {images.dtype}; expected uint8 (B, H, W, 3) or float "
        "(B, 3, H, W) in [0, 1], at least one."
    )


def cell_width(shape: tuple[int, ...], height: float) -> float:
    """Inches that an image of (B, H, W, 3) `shape` takes at `height` inches, within reason for very wide ones."""
    return float(np.clip(height * shape[2] / shape[1], 0.5 * height, 3 * height))


def show(axes: Any, image: np.ndarray, title: str | None = None, **options: Any) -> Any:
    """An image without ticks, pixels kept sharp; returns the image artist."""
    drawn = axes.imshow(image, **{"interpolation": "nearest", **options})
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title, loc="center", fontsize=9)
    return drawn


def name_row(axes: Any, name: str) -> None:
    """A label left of a row of images."""
    axes.set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center", labelpad=6)
