# SPDX-License-Identifier: Apache-2.0
"""The file of a network that teaches without its code: an ONNX file, a Paddle graph, or a folder of `beitv2 export`.

Shape suffixes: B batch.
"""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from beitv2_core.errors import BEiTError, ConfigError, WeightsError
from beitv2_core.files.hashing import sha256_of
from beitv2_core.runners import choose
from beitv2_core.weights.published.download import resolve_weights

FORMS = {".onnx": "onnx", ".json": "paddle", ".pdmodel": "paddle"}
#: of a tensor that lies in a file of its own, in ONNX's bytes: key "location", then the file's name
_LOCATION = re.compile(rb"\n\x08location\x12(.)", re.DOTALL)


class Graph(NamedTuple):
    """A loaded graph.

    run: images (B, 3, H, W) float32, normalised, to the outputs in order.  outputs: their names.  input_shape: as
    `runners.Runtime`.  identity: of the files and of what runs them.  mean, std, grid: where the file says them.
    """

    source: str
    run: Callable[[np.ndarray], Sequence[np.ndarray]]
    outputs: tuple[str, ...]
    input_shape: tuple[Optional[int], ...]
    identity: dict[str, str]
    mean: Optional[tuple[float, ...]] = None
    std: Optional[tuple[float, ...]] = None
    grid: Optional[tuple[int, int]] = None
    described: bool = False


def open_graph(weights: str, sha256: str | None, *, device: str, threads: int) -> Graph:
    """Load the graph of a path or URL; sha256: that the file must have.

    Raises WeightsError where it is missing, has another hash, is of no known form or cannot be loaded,
    MissingDependencyError where its runtime is not installed, ConfigError for more inputs than one.
    """
    from beitv2_core.exported_model import is_exported  # pydantic takes its time

    if "://" not in weights and is_exported(weights):
        return _exported(weights, sha256, device, threads)
    path = _graph_file(weights) if "://" not in weights else Path(weights)
    if path.suffix not in FORMS:
        raise WeightsError(f"teacher 'file': {weights}: expected an ONNX file (.onnx), a graph of paddle.jit.save "
                           "(.json or .pdmodel, with its .pdiparams beside it), or a folder of `beitv2 export`.")
    path = resolve_weights(weights if "://" in weights else path, sha256)
    kind = choose(FORMS[path.suffix], None, "f32", where=path)
    try:
        runtime = kind(path, device=device, threads=threads, precision="f32")
    except (BEiTError, ModuleNotFoundError):
        raise
    except Exception as error:  # each runtime raises types of its own
        raise WeightsError(f"teacher 'file': {path}: cannot be loaded by {kind.name} "
                           f"({' '.join(str(error).split())}). Weights in files of their own (.pdiparams, .onnx.data) "
                           "must lie beside it.") from None
    return Graph(str(weights), runtime, runtime.outputs, runtime.input_shape,
                 {"file": _hash_of_all(path), "runtime": kind.name})


def choose_output(graph: Graph, output: Union[str, int, None]) -> int:
    """The number of the output that a setting names, or of the only one; ConfigError naming all where it is open."""
    names = graph.outputs
    if output is None and len(names) == 1:
        return 0
    if output is None and graph.described and "patches" in names:
        return names.index("patches")
    if isinstance(output, int) and 0 <= output < len(names):
        return output
    if output in names:
        return names.index(str(output))
    listed = ", ".join(f"{number} ({name})" for number, name in enumerate(names))
    came = "it has several outputs" if output is None else f"there is no output {output!r}"
    raise ConfigError(f"teacher 'file': {graph.source}: {came}. Set teacher.options.output to one of: {listed}.")


def images_at_once(graph: Graph, images: np.ndarray, output: int) -> np.ndarray:
    """One output, (B, ...), of images (B, 3, H, W), also of a graph that takes a fixed number of them."""
    fixed = graph.input_shape[0] if graph.input_shape else None
    if fixed is None or fixed == len(images):
        return np.asarray(_run(graph, images)[output])
    parts = []
    for start in range(0, len(images), fixed):
        part = images[start:start + fixed]
        filled = np.concatenate([part, np.zeros((fixed - len(part), *part.shape[1:]), part.dtype)])
        parts.append(np.asarray(_run(graph, filled)[output])[:len(part)])
    return np.concatenate(parts)


def _run(graph: Graph, images: np.ndarray) -> Sequence[np.ndarray]:
    try:
        return graph.run(np.ascontiguousarray(images))
    except BEiTError:
        raise
    except Exception as error:  # each runtime raises types of its own
        raise WeightsError(f"teacher 'file': {graph.source}: cannot compute images of shape {images.shape} float32 "
                           f"({' '.join(str(error).split())}). Set teacher.options.input_size to a size it was "
                           "exported for; it must take float32 images of shape (batch, 3, height, width).") from None


def _exported(weights: str, sha256: str | None, device: str, threads: int) -> Graph:
    from beitv2_core.exported_model import load_exported

    if sha256:
        raise ConfigError(f"teacher.sha256: {weights} is a folder of `beitv2 export`, whose model.json holds the hash "
                          "of every file. Leave teacher.sha256 out.")
    model = load_exported(weights, device=device, threads=threads)
    about = model.description
    return Graph(weights, lambda images: list(model.run_normalised(images).values()), about.outputs,
                 (None, 3, *about.image_size), {"file": model.fingerprint(), "runtime": model.runtime},
                 about.mean or (0.0,), about.std or (1.0,), about.grid, True)


def _graph_file(weights: str) -> Path:
    """The file that a path names; a path without an ending, as paddle.jit.save takes it, names its graph."""
    path = Path(weights).expanduser()
    written = [path.with_name(path.name + end) for end in (".json", ".pdmodel")]
    return next((one for one in written if not path.exists() and one.is_file()), path)


def _hash_of_all(path: Path) -> str:
    """SHA-256 over a graph and the files that hold its weights."""
    beside = [path.with_suffix(".pdiparams")] if FORMS[path.suffix] == "paddle" else _external(path)
    digests = [sha256_of(path), *(sha256_of(one) for one in beside if one.is_file())]
    return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _external(path: Path) -> list[Path]:
    """Files beside an ONNX file in which tensors of it lie; found without the package onnx."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        buffer: Any = content
        names = {content[found.end():found.end() + found[1][0]].decode("utf-8", "replace")
                 for found in _LOCATION.finditer(buffer)}
    return [path.parent / name for name in sorted(names) if "\0" not in name]
