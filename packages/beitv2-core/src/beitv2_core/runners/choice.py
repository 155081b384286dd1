# SPDX-License-Identifier: Apache-2.0
"""Which runtime runs a graph in which precision."""

from __future__ import annotations

from ..errors import ConfigError
from ..runtime import has_bfloat16
from .onnx_runtime import OnnxRuntime
from .open_vino import OpenVINO
from .paddle_inference import PaddleInference
from .runtime import PRECISIONS, Runtime

#: by name; of those that run a form of graphs in a precision, the first is taken where nothing is said
RUNTIMES: dict[str, type[Runtime]] = {kind.name: kind for kind in (PaddleInference, OnnxRuntime, OpenVINO)}


def choose(form: str, runtime: str | None, precision: str, *, where: object) -> type[Runtime]:
    """The class that runs graphs of `form` ("paddle" or "onnx"); where: the folder, for the error.

    Raises ConfigError for a runtime or precision that does not exist, does not go with the form or with each other, and
    for bf16 on a processor without bfloat16 units.
    """
    fitting = {name: kind for name, kind in RUNTIMES.items() if kind.form == form}
    able = [name for name, kind in fitting.items() if precision in kind.precisions]
    chosen = fitting[(able or list(fitting))[0]] if runtime is None else fitting.get(runtime)
    if chosen is None:
        raise ConfigError(f"{where}: --runtime {runtime}: {_forms()}. This is a graph in the form {form}: use "
                          f"{' or '.join(fitting)}.")
    if precision not in chosen.precisions:
        instead = (f"use --runtime {' or '.join(able)}" if able else
                   f"export the model as ONNX (--format onnx) for {precision}" if precision in PRECISIONS else
                   f"expected one of {', '.join(PRECISIONS)}")
        raise ConfigError(f"{where}: --precision {precision}: {chosen.name} computes in "
                          f"{' and '.join(chosen.precisions)}; {instead}.")
    if precision == "bf16" and not has_bfloat16():  # it would be slower there, and not more exact
        raise ConfigError(f"{where}: --precision bf16: this processor has no bfloat16 units (avx512_bf16 or amx_bf16 "
                          "among the flags of /proc/cpuinfo). Use --precision f32.")
    return chosen


def _forms() -> str:
    return "; ".join(f"{name} runs {kind.form}" for name, kind in RUNTIMES.items())
