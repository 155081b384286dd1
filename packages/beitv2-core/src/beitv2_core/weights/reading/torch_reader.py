# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own reader, where PyTorch is installed, behind our inspection of the file.

Torch checks neither the checksums of a zip nor whether a storage covers its tensors, so a file is inspected first; then
torch must accept it too, and gives the numbers, mapped from the disk where the file allows it.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError
from beitv2_core.weights.reading.pickled_values import PickledArray, PickledDtype, Record, TensorRef
from beitv2_core.weights.reading.restricted_pickle import numpy_globals
from beitv2_core.weights.reading.safe_pickle import inspect_torch_file

logger = logging.getLogger("beitv2_core")
OLDEST = (2, 6)  # weights_only could be made to run code before (CVE-2025-32434)
SWITCH = "BEITV2_TORCH"


def usable_torch() -> ModuleType | None:
    """PyTorch, or None where it is not installed, older than 2.6, broken, or switched off by BEITV2_TORCH=0."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers.group(1)), int(numbers.group(2))) < OLDEST:
        return None
    try:
        import torch
    except (ImportError, OSError) as error:
        logger.warning("PyTorch %s is installed but cannot be imported (%s); weights are read without it.",
                       version, error)
        return None
    module: ModuleType = torch
    return module


def load_with_torch(path: Path, torch: ModuleType) -> dict[str, Any]:
    """What `load_torch_file` gives for a file of torch.save, read by `torch.load(weights_only=True)`.

    Raises CheckpointError where our inspection or torch refuses the file; the message says which and why.
    """
    found = inspect_torch_file(path)
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            theirs = torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
    except Exception as error:  # torch raises many types, and its advice is to switch the protection off
        raise CheckpointError(
            f"{path}: PyTorch {torch.__version__} refuses it ({_reason(error)}). If you trust its source, save a plain "
            "dictionary of tensors from it."
        ) from None
    filled: dict[str, Any] = _fill(found, theirs, path, torch, {})
    return filled


def _harmless_globals() -> list[tuple[Any, str]]:
    """Names that checkpoints need and torch does not know, with the stand-ins our own reader has for them."""
    known: list[tuple[Any, str]] = [(function, name) for name, function in numpy_globals().items()]
    known += [(PickledDtype, "numpy.dtype"), (PickledArray, "numpy.ndarray"), (Record, "argparse.Namespace")]
    return known


def _can_be_mapped(path: Path) -> bool:
    """Whether every entry of the zip lies in it as it is; PyTorch before 1.6 wrote no zip."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _reason(error: Exception) -> str:
    """The cause in torch's message, which is long and recommends unsafe ways around it."""
    text = str(error).split("WeightsUnpickler error:")[-1].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.split(r"\. (?:Please|In PyTorch)", lines[0])[0][:200] if lines else type(error).__name__


def _fill(ours: Any, theirs: Any, path: Path, torch: ModuleType, done: dict[int, Any]) -> Any:
    """`ours` with torch's numbers in the place of every TensorRef; everything else stays as inspected."""
    if id(ours) in done:
        return done[id(ours)]
    result: Any = ours
    inside: Any
    if isinstance(ours, TensorRef):
        result = _array(ours, theirs, path, torch)
    elif isinstance(ours, dict):
        inside = theirs if isinstance(theirs, dict) else {}
        result = {key: _fill(value, inside.get(key), path, torch, done) for key, value in ours.items()}
    elif isinstance(ours, (list, tuple)):
        inside = theirs if isinstance(theirs, (list, tuple)) and len(theirs) == len(ours) else [None] * len(ours)
        result = type(ours)(_fill(value, other, path, torch, done) for value, other in zip(ours, inside))
    done[id(ours)] = result
    return result


def _array(ref: TensorRef, tensor: Any, path: Path, torch: ModuleType) -> NDArray[Any]:
    if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) == ref.size and tensor.layout == torch.strided:
        tensor = tensor.detach()
        array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        if array.dtype == ref.numpy_dtype:
            array.setflags(write=False)
            numbers: NDArray[Any] = array
            return numbers
    raise CheckpointError(f"{path}: PyTorch {torch.__version__} reads a tensor of size {ref.size} otherwise than "
                          "it is written. The file is damaged or unsafe.")
