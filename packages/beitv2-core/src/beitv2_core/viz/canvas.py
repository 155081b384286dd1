"""What every figure shares: size, style and a write that is whole or absent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from beitv2_core.errors import ShapeError

INK, ACCENT, SECOND = "#263238", "#00695c", "#ef6c00"
_STYLE: Any = {"font.size": 9, "axes.titlesize": 10, "axes.edgecolor": "#90a4ae", "axes.labelcolor": INK,
          "text.color": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
          "axes.spines.right": False}


class Canvas:
    """A figure of `width` x `height` inches; leaving the block writes it to `path` (PNG), creating parent folders."""

    def __init__(self, path: str | Path, width: float, height: float):
        self.path, self._size = Path(path), (width, height)

    def __enter__(self) -> Figure:
        self._style = rc_context(_STYLE)
        self._style.__enter__()
        self.figure = Figure(figsize=self._size, dpi=130, layout="constrained", facecolor="white")
        FigureCanvasAgg(self.figure)
        return self.figure

    def __exit__(self, kind: Any, *exc: Any) -> None:
        try:
            if kind is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
                self.figure.savefig(temporary, format="png")
                os.replace(temporary, self.path)
        finally:
            self._style.__exit__(kind, *exc)


def as_pictures(images: np.ndarray, where: str) -> np.ndarray:
    """Pictures as uint8 (B, H, W, 3): taken as they are, or from float (B, 3, H, W) in [0, 1]."""
    if images.ndim == 4 and images.shape[-1] == 3 and images.dtype == np.uint8:
        return images
    if images.ndim == 4 and images.shape[1] == 3 and np.issubdtype(images.dtype, np.floating):
        return np.clip(np.rint(images.transpose(0, 2, 3, 1) * 255), 0, 255).astype(np.uint8)
    raise ShapeError(
        f"{where}: pictures have shape {images.shape} of {images.dtype}; expected uint8 (B, H, W, 3) or float "
        "(B, 3, H, W) in [0, 1]."
    )


def show(axes: Any, picture: np.ndarray, title: str | None = None, **options: Any) -> None:
    """A picture without ticks, pixels kept sharp."""
    axes.imshow(picture, interpolation="nearest", **options)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if title:
        axes.set_title(title)
