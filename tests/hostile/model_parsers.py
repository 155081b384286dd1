# SPDX-License-Identifier: Apache-2.0
"""Readers of settings, checkpoints, weights, features, caches and exports."""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mutations import canary, yaml_lines
from seeds import Seed, single, written_by

CONFIG = """_base_: base.yml
kind: tokenizer
output: runs/x
encoder: {width: 96, depth: 3, num_heads: 3, patch_size: 8, positions: absolute}
decoder: {width: 96, depth: 1, num_heads: 3, positions: absolute}
quantizer: {num_codes: 64, code_dim: 16, decay: 0.99, beta: 1.0, kmeans_iters: 10}
teacher: {name: hog}
optim:
  lr: 1.0e-3
  min_lr: 1.0e-5
  betas: [0.9, 0.99]
  steps: 300
  warmup_steps: 30
train: {batch_size: 64, log_every: 20, save_every: 100, keep_last: 2}
"""
BASE = "data:\n  dataset: digit_scenes\n  image_size: 32\n  size: 2000\nseed: 0\n"


def read_config(path: Path) -> Any:
    from beitv2_core.config.load import load_config

    return load_config(path)


def config_seeds() -> list[Seed]:
    files = {"config.yml": CONFIG.encode(), "base.yml": BASE.encode()}
    return [Seed(files, "config.yml", ("config.yml",)), Seed(files, "config.yml", ("base.yml",))]


def hostile_config(marker: Path) -> Iterator[Seed]:
    for line in yaml_lines(marker):
        for text in (line, f"{CONFIG}\n{line}"):
            yield Seed({"config.yml": text.encode("utf-8", "surrogatepass"), "base.yml": BASE.encode()}, "config.yml",
                       (), line[:40])
    yield Seed({"config.yml": b"a: [" + b"1, " * 300_000 + b"1]"}, "config.yml", (), "long")
    yield Seed({"config.yml": b"\n".join(f"k{i}: {i}".encode() for i in range(80_000))}, "config.yml", (), "many keys")
    both = b"_base_: [%s, %s]\nkind: tokenizer\n"
    chain = {f"c{i}.yml": both % ((f"c{i + 1}.yml".encode(),) * 2) for i in range(40)}
    yield Seed({**chain, "c40.yml": BASE.encode()}, "c0.yml", (), "bases twice each")


# -- checkpoints and weights -------------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> Any:
    from beitv2_core.checkpoint.store import CheckpointStore

    return CheckpointStore(path.parent).load(path)


def checkpoint_seeds() -> list[Seed]:
    from beitv2_core.checkpoint.store import CheckpointStore

    def write(folder: Path) -> None:
        weights = {"a.weight": np.arange(12, dtype="f4").reshape(3, 4), "ids": np.arange(3)}
        CheckpointStore(folder).save(7, weights, {"moment": np.ones(3, "f4")}, {
            "task": {"classes": ["a", "b"], "average": {"a.weight": np.zeros(3, "f4")}}, "versions": {"x": "1"},
            "rng": [1, 2, [3]]}, {"kind": "pretrain", "data": {"image_size": 32}, "seed": 3})

    files = written_by(write)
    return [Seed(files, "step_000007.pdckpt", tuple(files), "sealed" if sealed else "as it is", sealed)
            for sealed in (False, True, True)]


def sealed_checkpoint(files: dict[str, bytes]) -> dict[str, bytes]:
    """state.json with hashes of what is there: what somebody who means harm would write."""
    for name in [name for name in files if name.endswith("state.json")]:
        folder = name[: -len("state.json")]
        try:
            header = json.loads(files[name])
            header["sha256"] = {**header["sha256"], **{
                other[len(folder):]: hashlib.sha256(content).hexdigest() for other, content in files.items()
                if other.startswith(folder) and other != name and other[len(folder):] in header["sha256"]}}
            header.pop("state_sha256", None)
            header["state_sha256"] = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
            files[name] = json.dumps(header).encode("utf-8", "surrogatepass")
        except (ValueError, TypeError, KeyError, RecursionError):
            pass  # no header any more
    return files


def read_weights(path: Path) -> Any:
    from beitv2_core.weights.reading.foreign import read_tensors

    return read_tensors(path)[0]


def weights_seeds() -> list[Seed]:
    import weights_fuzz

    found = single({f"{form.replace(' ', '_')}{weights_fuzz.SUFFIX[form]}": weights_fuzz.whole(form)
                     for form in weights_fuzz.FORMATS})
    out = io.BytesIO()
    np.savez(out, a=np.ones(3, "f4"))
    return [*found, *single({"arrays.npz": out.getvalue()})]


def hostile_weights(marker: Path) -> Iterator[Seed]:
    import weights_fuzz

    for case in weights_fuzz.cases(marker, 1):
        name = f"weights{weights_fuzz.SUFFIX[case.format]}"
        yield Seed({name: case.content}, name, (), f"{case.format}, {case.kind}: {case.name}")


# -- features, caches, exports -----------------------------------------------------------------------------------------


def read_features(path: Path) -> Any:
    from beitv2_core.inference.embedding_file import description_of, read_embeddings

    description_of(path)
    found = read_embeddings(path)
    return found.same_space_as(found), [found.place(number) for number in range(min(len(found.paths), 3))]


def feature_seeds() -> list[Seed]:
    from beitv2_core.evaluation.parts import Column
    from beitv2_core.inference.embedding_file import WRITERS, Written

    columns = {"features": Column(np.dtype("f4"), (3,)), "thumbnails": Column(np.dtype("u1"), (32, 32)),
               "sizes": Column(np.dtype("i4"), (2,))}
    written = Written({"model": "x", "fingerprint": "y", "what": "mean", "block": None, "image_size": [32, 32],
                       "folder": "/data"}, ["a.png", "b/c.png"], columns)

    def write(folder: Path) -> None:
        part = folder / "part.npz"
        np.savez(part, **{name: np.zeros((2, *column.shape), column.dtype) for name, column in columns.items()})
        for ending, writer in WRITERS.items():
            try:
                writer(folder / f"features{ending}", [part], written)
            except ImportError:
                continue  # pyarrow is an extra
        part.unlink()

    return single(written_by(write))


def hostile_features(marker: Path) -> Iterator[Seed]:
    for name, made in {"packed": {"features": np.zeros((2, 20_000_000), "f4")}, "objects": {"features": np.array([{}])},
                       "packed paths": {"paths": np.array(["x" * 20_000_000, "y"]), "features": np.zeros((2, 3), "f4")},
                       "flat": {"features": np.zeros(2, "f4")}, "texts": {"features": np.array([["a"], ["b"]])},
                       "other count": {"features": np.zeros((5, 3), "f4")}, "none": {}}.items():
        out = io.BytesIO()
        np.savez_compressed(out, **{"paths": np.array(["a", "b"]), "beitv2": np.array("{}"), **made})
        yield Seed({"features.npz": out.getvalue()}, "features.npz", (), name)
    for number, content in enumerate(canary(marker)):
        yield Seed({"features.npz": content}, "features.npz", (), f"pickle {number}")
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        return
    for shape, dtype in (([2**40], "float32"), ([10**8], "float32"), ([-1], "float32"), ("x", "float32"), ([2], "O"),
                         ([2], "V9"), ([2], "<U1000000000"), ([], "float32"), ([2**70], "uint8")):
        layout = {"features": {"shape": shape, "dtype": dtype}}
        schema = pyarrow.schema([("path", pyarrow.string()), ("features", pyarrow.list_(pyarrow.float32(), 2))],
                                metadata={"beitv2": json.dumps({"columns": layout})})
        table = pyarrow.table({"path": ["a"], "features": [[0.0, 1.0]]}, schema=schema)
        parquet.write_table(table, sink := pyarrow.BufferOutputStream())
        yield Seed({"features.parquet": sink.getvalue().to_pybytes()}, "features.parquet", (), f"{shape} {dtype}")


def read_cache(path: Path) -> Any:
    from beitv2_core.data.view_cache import ViewCache

    cache = ViewCache.of_codes(path, {"precision": "f32"}, rows=4, patches=6, num_codes=300)
    return cache.read_or_compute(np.arange(4), np.zeros((4, 1)), lambda images: np.ones((len(images), 6), np.int64))


def cache_seeds() -> list[Seed]:
    files = written_by(read_cache)
    return [Seed(files, ".", (name,), name) for name in files]


def read_export(path: Path) -> Any:
    from beitv2_core.exported_model import load_exported

    model = load_exported(path, threads=1)
    return model.run(np.zeros((1, 3, *model.image_size), np.float32)) if model.image_size == (8, 8) else None


def onnx_graph() -> bytes:
    """A graph that gives the mean of each colour."""
    from onnx import TensorProto, helper

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 3])
    node = helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0)
    graph = helper.make_graph([node], "means", [image], [mean])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    return model.SerializeToString()


def export_seeds() -> list[Seed]:
    from beitv2_core.exported_model import Description

    graph = onnx_graph()
    about = Description(kind="features", format="onnx", image_size=(8, 8), crop_share=1.0, outputs=("mean",),
                        grid=(1, 1), files={"graph.onnx": hashlib.sha256(graph).hexdigest()}, versions={"onnx": "1"})
    files = {"model.json": about.as_json().encode(), "graph.onnx": graph}
    return [Seed(files, ".", ("model.json",)), Seed(files, ".", ("graph.onnx",), "", True)]


def sealed_export(files: dict[str, bytes]) -> dict[str, bytes]:
    about = json.loads(files["model.json"])
    about["files"] = {"graph.onnx": hashlib.sha256(files["graph.onnx"]).hexdigest()}
    return {**files, "model.json": json.dumps(about).encode()}


# -- readers that need Paddle ------------------------------------------------------------------------------------------


def read_teacher(path: Path) -> Any:
    from beitv2_core.teachers.graph import choose_output, images_at_once, open_graph

    graph = open_graph(str(path), None, device="cpu", threads=1)
    return images_at_once(graph, np.zeros((1, 3, 8, 8), np.float32), choose_output(graph, None))


def read_folder(path: Path) -> Any:
    from beitv2_core.inference.loaded import load_model

    return load_model(path).kind


def run_seeds() -> list[Seed]:
    from untrained_runs import pretraining

    files = written_by(lambda folder: pretraining(folder / "run"))
    small = tuple(name for name in files if name.endswith((".json", ".yml", "weights.safetensors")))
    return [Seed(files, "run", small, "sealed" if sealed else "as it is", sealed) for sealed in (True, True, False)]


def _numbers_in(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(tree, (dict, list)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _numbers_in(value, (*path, key))
    elif isinstance(tree, (int, float)):
        yield path


def hostile_folders(marker: Path) -> Iterator[Seed]:
    """Descriptions in which each number of the architecture is another one."""
    whole = folder_seeds()[0]
    name = "model/model.safetensors"
    data = whole.files[name]
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    described = json.loads(header["__metadata__"].get("architecture", "{}"))
    for path in _numbers_in(described):
        for value in (0, -1, 10**9, 2**70, 1e308, "x", None, []):
            changed = json.loads(json.dumps(described))
            inside = changed
            for key in path[:-1]:
                inside = inside[key]
            inside[path[-1]] = value
            head = {**header, "__metadata__": {**header["__metadata__"], "architecture": json.dumps(changed)}}
            text = json.dumps(head).encode()
            text += b" " * (-len(text) % 8)
            files = {**whole.files, name: len(text).to_bytes(8, "little") + text + data[8 + length:]}
            yield Seed(files, "model", (), f"{path} is {value}")


def folder_seeds() -> list[Seed]:
    from untrained_runs import pretraining

    from beitv2_core.inference.loaded import load_model

    def write(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as run:
            load_model(pretraining(Path(run))).save_pretrained(folder / "model")

    files = {name: content for name, content in written_by(write).items() if not name.endswith(".md")}
    return [Seed(files, "model", (name,), name) for name in files]
