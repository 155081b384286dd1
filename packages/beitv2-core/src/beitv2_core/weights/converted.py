# SPDX-License-Identifier: Apache-2.0
"""Files in our format: safetensors under our names, with kind and architecture in the metadata.

Tensors of the original file that our models do not have are stored under `KEPT`; loaders ignore them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import metadata as installed
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from beitv2_core.errors import CheckpointError
from beitv2_core.files.json_text import parse_json
from beitv2_core.rel_pos_index import table_rows
from beitv2_core.weights.architecture import ShapeReader, UnknownKeywords, completed
from beitv2_core.weights.identify import IdentifiedWeights, Kinds, ShapesOf, check_shapes
from beitv2_core.weights.kind import Kind
from beitv2_core.weights.writers import write_safetensors

FORMAT = "beitv2"
SCHEMA_VERSION = 1
MOST_PATCHES = 2**14  # of a described trunk: images of 2048 x 2048 pixels
#: a number of an architecture above which a tensor has to be that long
LARGEST = 100_000
TABLE = "relative_position_bias_table"
KEPT = "_kept/"
_PACKAGE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,60}[A-Za-z0-9])?")


def write_converted(path: Path, found: IdentifiedWeights, kind: Kind) -> None:
    """Write a model of a kind as one file of ours; CheckpointError where it cannot be written."""
    metadata = {
        "format": FORMAT, "schema_version": str(SCHEMA_VERSION), "kind": found.kind, "package": kind.package,
        "version": version_of(kind.package), "origin": found.origin, "architecture": json.dumps(found.architecture),
        "prefix": found.prefix, "absent": json.dumps(found.missing_in_source),
    }
    if found.classes is not None:
        metadata["classes"] = json.dumps(found.classes, ensure_ascii=False)
    kept = {KEPT + name: array for name, array in found.unmapped.items()}
    write_safetensors(path, {**found.weights, **kept}, metadata)


def is_converted(metadata: Mapping[str, Any]) -> bool:
    """Whether a file's metadata is that of a conversion."""
    return metadata.get("format") == FORMAT


def without_kept(tensors: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The tensors of the model alone."""
    return {name: array for name, array in tensors.items() if not name.startswith(KEPT)}


def parse_converted(tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], kinds: Kinds,
                    shapes_of: ShapesOf) -> IdentifiedWeights:
    """The model in a converted file, from its tensors and metadata.

    What the architecture lacks because it was written before a keyword existed has the value it had then.
    Raises CheckpointError for another version of the format, for a kind that no installed package knows, naming the
    package the file was written with, for keywords of a newer version, for metadata that is no description, and for
    tensors that are not those of the described architecture.
    """
    version = metadata.get("schema_version")
    if version != str(SCHEMA_VERSION):
        raise CheckpointError(f"written in version {version} of the converted format, this program reads "
                              f"{SCHEMA_VERSION}. Use the version of beitv2-core that wrote it, or convert again.")
    try:
        name, origin, prefix = str(metadata["kind"]), metadata["origin"], metadata["prefix"]
        architecture, missing = parse_json(metadata["architecture"]), tuple(parse_json(metadata["absent"]))
        classes = tuple(map(str, parse_json(metadata["classes"]))) if "classes" in metadata else None
        if classes is not None and len(classes) != architecture.get("num_classes"):
            raise ValueError(f"{len(classes)} class names")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(error) from None
    if name not in kinds:
        package = str(metadata.get("package", ""))  # not trusted: anybody can write such a file
        advice = f"It was written with the package {package}: install that, if you trust the file" \
            if _PACKAGE.fullmatch(package) else "Install the package that has this kind"
        raise CheckpointError(f"no installed package knows a model of kind {name!r}; known: {', '.join(kinds)}. "
                              f"{advice}.")
    kind, weights = kinds[name], without_kept(tensors)
    try:
        architecture = completed(architecture, _read(kind, architecture, weights), kind.trunks)
        _check_sizes(kind, architecture, weights)
        shapes = shapes_of(kind, architecture)
    except UnknownKeywords as error:
        written = metadata.get("version") or "a version that its files do not name (0.2.0 or older)"
        raise CheckpointError(
            f"{', '.join(error.args)}: a keyword of its architecture that {kind.package} {version_of(kind.package)} "
            f"does not know; the file was written by {written}. Install that version of {kind.package} or a newer one, "
            "or convert the original file again with this one.") from None
    except CheckpointError:
        raise
    except Exception as error:  # anybody can write a description, and constructors raise anything for odd values
        raise _damaged(error) from None
    check_shapes(weights, shapes)
    kept = {name[len(KEPT):]: array for name, array in tensors.items() if name.startswith(KEPT)}
    return IdentifiedWeights(name, origin, weights, architecture, prefix, kept, missing, classes=classes,
                             converted=True)


def version_of(package: str) -> str:
    """The installed version of a package; "" where it is used without being installed."""
    try:
        return installed.version(package)
    except installed.PackageNotFoundError:
        return ""


def _read(kind: Kind, stored: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The architecture as the weights tell it, and the stored one where they do not."""
    trunk = kind.trunk_of(stored)
    image, patch = ((size, size) if isinstance(size, int) else size for size in (trunk["image_size"],
                                                                                trunk["patch_size"]))
    grid = (image[0] // patch[0], image[1] // patch[1])
    return kind.read(ShapeReader(weights, grid=grid, hints={**stored, **trunk}))


def _check_sizes(kind: Kind, architecture: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> None:
    """ValueError where building the described model would take time or memory that its weights do not call for."""
    longest = max((size for array in weights.values() for size in array.shape), default=0)
    for described in (architecture, *(value for value in architecture.values() if isinstance(value, Mapping))):
        for name, value in described.items():
            if isinstance(value, int) and value > max(longest, LARGEST):
                raise ValueError(f"{name} is {value}, and no tensor is longer than {longest}")
    for part in kind.trunks:
        trunk = architecture[part] if part else architecture
        (height, width), (down, across) = (
            (size, size) if isinstance(size, int) else size for size in (trunk["image_size"], trunk["patch_size"]))
        grid = (height // down, width // across)
        rows = {array.shape[0] for name, array in weights.items()
                if name.startswith(f"{part}." if part else "") and name.endswith(TABLE)}
        if grid[0] * grid[1] > MOST_PATCHES or rows and table_rows(grid) not in rows:
            raise ValueError(f"{grid[0]} x {grid[1]} patches, and tables of {sorted(rows)} rows")
        for name, value in (*architecture.items(), *trunk.items()):
            if name.endswith(("depth", "layers")) and isinstance(value, int) and value > len(weights):
                raise ValueError(f"{name} is {value}, and there are {len(weights)} tensors")


def _damaged(error: Exception) -> CheckpointError:
    return CheckpointError(f"its description is damaged ({type(error).__name__}: {error}). Convert it again.")
