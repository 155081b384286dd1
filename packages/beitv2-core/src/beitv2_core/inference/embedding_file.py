# SPDX-License-Identifier: Apache-2.0
"""Files of features: Parquet, .npz and CSV, with what they were made by."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ..errors import ConfigError, DataError, MissingDependencyError
from ..evaluation.parts import Column, join_npz, text_of
from ..files.json_text import parse_json
from ..files.npz import check_size, open_npz

#: key of the description: in the metadata of Parquet's schema; the array of that name in .npz; a CSV's first line
META = "beitv2"
FEATURES, CODES, THUMBNAILS, SIZES = "features", "codes", "thumbnails", "sizes"


class Embeddings(NamedTuple):
    """What a file of features holds.

    meta: model, fingerprint, what, block, image_size, crop_share, precision, runtime, version, folder (that relative
    paths are below).  features: float32 (images, ...) or codes.  thumbnails: uint8 (images, 32, 32), the grey of whole
    images, sizes: (height, width) of them; None in a CSV file.
    """

    source: str
    meta: dict[str, Any]
    paths: list[str]
    features: np.ndarray
    thumbnails: Optional[np.ndarray] = None
    sizes: Optional[np.ndarray] = None

    def same_space_as(self, other: Embeddings) -> bool:
        """Whether features of both files can be compared: of one model, block, kind and size."""
        keys = ("fingerprint", "what", "block", "image_size")
        return [self.meta.get(key) for key in keys] == [other.meta.get(key) for key in keys]

    def place(self, number: int) -> str:
        """Where the file of an image lies: as it was given, or below the folder the features were made in."""
        path = self.paths[number]
        beside = os.path.join(str(self.meta.get("folder", "")), path)
        return path if os.path.exists(path) or not os.path.exists(beside) else beside


class Written(NamedTuple):
    """What is to be written: the description, the paths, the columns of the parts and the codes' number of codes."""

    meta: Mapping[str, Any]
    paths: Sequence[str]
    columns: Mapping[str, Column]


def write_npz(path: Path, parts: Sequence[Path], written: Written) -> None:
    """Arrays by name; `codes` has the shape of the grid."""
    facts = [("paths", [text_of(one) for one in written.paths]), (META, json.dumps(written.meta))]
    if "num_codes" in written.meta:
        facts += [(name, written.meta[name]) for name in ("num_codes", "precision", "runtime")]
    join_npz(path, parts, len(written.paths), written.columns, facts, compress=False)


def write_parquet(path: Path, parts: Sequence[Path], written: Written) -> None:
    """Columns path, features or codes (lists, flattened), thumbnails (bytes), sizes; shapes are in the description."""
    pyarrow = _pyarrow(str(path))
    import pyarrow.parquet as parquet

    layout = {name: {"shape": list(column.shape), "dtype": column.dtype.name}
              for name, column in written.columns.items()}
    kinds = {name: _arrow_type(pyarrow, name, column) for name, column in written.columns.items()}
    schema = pyarrow.schema([("path", pyarrow.string()), *kinds.items()],
                            metadata={META: json.dumps({**written.meta, "columns": layout})})
    start = 0
    # Features hold no repetitions: packing them costs time and saves 8 %.
    with parquet.ParquetWriter(str(path), schema, compression="none", use_dictionary=["path", CODES]) as writer:
        for part in parts:
            with np.load(part) as rows:
                arrays = {name: rows[name] for name in written.columns}
            count = len(next(iter(arrays.values())))
            texts = [text_of(one) for one in written.paths[start : start + count]]
            columns = [pyarrow.array(texts), *(_arrow_array(pyarrow, kinds[name], array)
                                               for name, array in arrays.items())]
            writer.write_table(pyarrow.Table.from_arrays(columns, schema=schema), row_group_size=count)
            start += count


def _arrow_type(pyarrow: Any, name: str, column: Column) -> Any:
    length = int(np.prod(column.shape, dtype=np.int64))
    if name == THUMBNAILS:  # Parquet's smallest integers have 32 bits
        return pyarrow.binary(length)
    return pyarrow.list_(pyarrow.from_numpy_dtype(column.dtype), length)


def _arrow_array(pyarrow: Any, kind: Any, array: np.ndarray) -> Any:
    flat = np.ascontiguousarray(array).reshape(-1)
    if pyarrow.types.is_fixed_size_binary(kind):
        return pyarrow.FixedSizeBinaryArray.from_buffers(kind, len(array), [None, pyarrow.py_buffer(flat)])
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat), type=kind)


def write_csv(path: Path, parts: Sequence[Path], written: Written) -> None:
    """A first line `# {description}`, then the columns path, 0, 1, ...; floats with all their digits."""
    (name, column), start = next(iter(written.columns.items())), 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(f"# {json.dumps(written.meta)}\n")
        writer = csv.writer(file, lineterminator="\n")
        length = int(np.prod(column.shape, dtype=np.int64))
        writer.writerow(["path", *range(length)])
        form = "%.9g" if column.dtype == np.float32 else "%d"
        for part in parts:
            with np.load(part) as rows:
                array = rows[name].reshape(-1, length)
            for one, values in zip(written.paths[start : start + len(array)], array.tolist()):
                writer.writerow([text_of(one), *(form % value for value in values)])
            start += len(array)


def _read_npz(path: Path) -> Embeddings:
    with open_npz(path) as saved:
        if META not in saved or "paths" not in saved:
            raise DataError(f"{path}: no features that `beitv2 embed` wrote. Give its output.")
        features = saved[FEATURES if FEATURES in saved else CODES]
        others = [saved[name] if name in saved else None for name in (THUMBNAILS, SIZES)]
        return Embeddings(str(path), parse_json(str(saved[META])), saved["paths"].tolist(), features, *others)


def _read_parquet(path: Path) -> Embeddings:
    _pyarrow(str(path))
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(str(path))
    text = (file.schema_arrow.metadata or {}).get(META.encode())
    if text is None:
        raise DataError(f"{path}: no features that `beitv2 embed` wrote. Give its output.")
    meta, count, start = parse_json(text), file.metadata.num_rows, 0
    layout, paths = meta.pop("columns"), []
    check_size(count * sum(math.prod(one["shape"]) * np.dtype(one["dtype"]).itemsize for one in layout.values()),
               os.path.getsize(path))
    arrays = {name: np.empty((count, *one["shape"]), one["dtype"]) for name, one in layout.items()}
    for group in range(file.num_row_groups):
        table = file.read_row_group(group)
        paths += table.column("path").to_pylist()
        for name, array in arrays.items():
            chunk = table.column(name).combine_chunks()
            buffer = chunk.buffers()[-1]
            rows = np.frombuffer(buffer, array.dtype)[: table.num_rows * array[:1].size].reshape(-1, *array.shape[1:])
            array[start : start + len(rows)] = rows
        start += table.num_rows
    return Embeddings(str(path), meta, paths, arrays[FEATURES if FEATURES in arrays else CODES],
                      arrays.get(THUMBNAILS), arrays.get(SIZES))


def _read_csv(path: Path) -> Embeddings:
    with open(path, encoding="utf-8", newline="") as file:
        first = file.readline()
        try:
            meta = parse_json(first.removeprefix("# ")) if first.startswith("# {") else None
        except ValueError:
            meta = None
        if meta is None:
            raise DataError(f"{path}: no features that `beitv2 embed` wrote: the first line is no description.")
        rows = csv.reader(file)
        length = len(next(rows)) - 1
        paths, values = [], []
        for row in rows:
            paths.append(row[0])
            values.append(np.asarray(row[1:], dtype=np.float32))
    return Embeddings(str(path), meta, paths, np.stack(values).reshape(len(paths), length))


Writer = Callable[[Path, Sequence[Path], Written], None]
#: by a file's ending
WRITERS: dict[str, Writer] = {".parquet": write_parquet, ".npz": write_npz, ".csv": write_csv}
READERS: dict[str, Callable[[Path], Embeddings]] = {".parquet": _read_parquet, ".npz": _read_npz, ".csv": _read_csv}


def writer_for(path: Path) -> Writer:
    """The function that writes files of this ending.

    Raises ConfigError for another ending, MissingDependencyError where a package for it is not installed.
    """
    if path.suffix not in WRITERS:
        raise ConfigError(f"--output {path}: expected a name ending in {', '.join(WRITERS)}.")
    if path.suffix == ".parquet":
        _pyarrow(f"--output {path}")
    return WRITERS[path.suffix]


def read_embeddings(source: Path) -> Embeddings:
    """What `beitv2 embed` wrote, in memory.

    Raises DataError for a missing or damaged file and for one of another origin, MissingDependencyError without the
    package that reads its format.
    """
    if source.suffix not in READERS:
        raise DataError(f"{source}: expected a file of features, ending in {', '.join(READERS)}.")
    if not source.is_file():
        raise DataError(f"{source}: no such file. `beitv2 embed IMAGES --model MODEL -o {source}` writes it.")
    try:
        return _checked(READERS[source.suffix](source))
    except (DataError, MissingDependencyError):
        raise
    except Exception as error:  # each format raises its own types
        reason = " ".join(str(error).split())
        raise DataError(f"{source}: cannot be read ({type(error).__name__}: {reason}). Write it again with "
                        "`beitv2 embed`.") from error


def _checked(found: Embeddings) -> Embeddings:
    """What was read, where it is what `beitv2 embed` writes; ValueError else."""
    if not isinstance(found.meta, dict) or not all(isinstance(path, str) for path in found.paths):
        raise ValueError("the description is no dictionary, or the paths are no texts")
    rows = [array for array in (found.features, found.thumbnails, found.sizes) if array is not None]
    if found.features.ndim < 2 or found.features.dtype.kind not in "fiu" \
            or any(array.shape[:1] != (len(found.paths),) for array in rows):
        raise ValueError(f"{len(found.paths)} paths and arrays of shape {[array.shape for array in rows]}")
    return found


def description_of(source: Path) -> Optional[dict[str, Any]]:
    """The description alone; None where there is no such file or it cannot be read."""
    try:
        if source.suffix == ".npz":
            with open_npz(source) as saved:
                return dict(parse_json(str(saved[META])))
        if source.suffix == ".parquet":
            import pyarrow.parquet as parquet

            return dict(parse_json(parquet.read_schema(str(source)).metadata[META.encode()]))
        with open(source, encoding="utf-8") as file:
            return dict(parse_json(file.readline().removeprefix("# ")))
    except Exception:  # noqa: BLE001  a file of anybody's: what cannot be read is not ours
        return None


def _pyarrow(where: str) -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(f"{where}: Parquet is written and read by pyarrow, which cannot be imported "
                                     f"({error}). Type: pip install 'beitv2-core[parquet]', or use a name ending in "
                                     ".npz.") from None
    return pyarrow
