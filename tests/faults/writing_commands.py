# SPDX-License-Identifier: Apache-2.0
"""What writes files that last, each with the reader that must never take half of it: for replayed power cuts."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image
from writing_runs import Mark, Writing, training

from beitv2_core.errors import BEiTError, ConfigError, DataError


def all_writings(scratch: Path) -> list[Writing]:
    """Every kind of file that the commands leave, with sources made in `scratch`."""
    scratch.mkdir(parents=True, exist_ok=True)
    return [training(), *view_caches(), shards(scratch), *embeddings(), *weights(), model_folder(scratch), export(),
            download(scratch), evaluation(), corrupt_list(scratch)]


def view_caches() -> list[Writing]:
    """Codes and features of views."""
    from beitv2_core.data.view_cache import ViewCache

    rows = np.arange(24)
    codes = np.random.RandomState(0).randint(0, 64, (24, 700))
    features = np.random.RandomState(1).randn(24, 40, 9).astype(np.float16).astype(np.float32)
    kinds = {"codes": (codes, lambda folder, who: ViewCache.of_codes(folder, who, rows=24, patches=700, num_codes=64)),
             "features": (features, lambda folder, who: ViewCache.of_features(folder, who, rows=24, patches=40, width=9,
                                                                              dtype="float16"))}

    def writing(name: str) -> Writing:
        values, make = kinds[name]

        def run(folder: Path, mark: Mark) -> None:
            cache = make(folder / "cache", {"made_by": "one"})
            for start in range(0, 24, 4):
                cache.write(rows[start : start + 4], values[start : start + 4])
                mark("rows")  # no promise: they can be computed again

        def check(folder: Path, marks: list[str]) -> str:
            who = random.Random(len(list(folder.rglob("*"))) + len(marks)).choice(("one", "another"))
            try:
                found, whole = make(folder / "cache", {"made_by": who}).read(rows)
            except ConfigError:
                assert who == "another", "a cache refuses those who made it"
                return "refused to another"
            if who == "another":
                assert not whole.any(), "rows of one network are given as another's"
            np.testing.assert_array_equal(found[whole], values[whole])
            return f"rows for {who}"

        return Writing(f"cache of {name}", run, check)

    return [writing("codes"), writing("features")]


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.RandomState(seed).randint(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)


def shards(scratch: Path) -> Writing:
    """Tar shards over older ones of the same name, and the index beside each."""
    from beitv2_core.data import ImageFolder, ShardSet
    from beitv2_core.data.sources.shard_writer import write_shards

    for number in range(9):
        picture(scratch / "old" / "ab"[number % 2] / f"{number}.png", number)
        picture(scratch / "new" / "xyz"[number % 3] / f"{number}.png", 100 + number)
    held: dict[str, Any] = {}

    def write(folder: Path, name: str, per_shard: int) -> None:
        list(write_shards(ImageFolder(scratch / name, with_classes=True), folder / "shards", per_shard=per_shard,
                          overwrite=True))
        held[name] = contents(folder)

    def contents(folder: Path) -> Any:
        found = ShardSet(folder / "shards", with_classes=True)
        images = [found.content(index) for index in range(len(found))]
        found.close()
        return found.classes, None if found.labels is None else found.labels.tolist(), images

    def run(folder: Path, mark: Mark) -> None:
        write(folder, "new", 3)
        mark("written")

    def check(folder: Path, marks: list[str]) -> str:
        try:
            found = contents(folder)
        except DataError as error:
            assert not marks and "make-shards" in str(error), error
            return "refused"
        [name] = [name for name, one in held.items() if one == found] or ["a mixture"]
        assert name != "a mixture" and (name == "new" or not marks), name
        return name

    return Writing("shards and their index", run, check, lambda folder: write(folder, "old", 2))


def embeddings() -> list[Writing]:
    """Files of features over older ones, made in parts."""
    from beitv2_core.evaluation.parts import Column, in_parts
    from beitv2_core.inference.embedding_file import FEATURES, Written, read_embeddings, writer_for

    sets = {name: np.random.RandomState(seed).randn(40, 60).astype(np.float32) for seed, name in enumerate(("old",
                                                                                                         "new"))}
    def writing(suffix: str) -> Writing:
        def write(folder: Path, name: str, mark: Mark = lambda text: None) -> None:
            features, out = sets[name], folder / f"features{suffix}"
            written = Written({"model": name, "what": "mean"}, [f"{i}.png" for i in range(40)],
                              {FEATURES: Column(features.dtype, (60,))})
            join = partial(lambda path, parts: writer_for(out)(path, parts, written))
            for done in in_parts(out, {"by": name}, 40, 12, lambda numbers: iter([{FEATURES: features[list(numbers)]}]),
                                 join):
                mark(f"part {done}")
            mark("written")

        def which(folder: Path) -> str:
            found = read_embeddings(folder / f"features{suffix}")
            name = found.meta["model"]
            np.testing.assert_array_equal(found.features, sets[name])
            assert len(found.paths) == 40
            return name

        def check(folder: Path, marks: list[str]) -> str:
            name = which(folder)
            assert name == "new" or "written" not in marks
            write(folder, "new")  # goes on with the parts that are left
            assert which(folder) == "new" and not (folder / f"features{suffix}.parts").exists()
            return name

        return Writing(f"features as {suffix}", lambda folder, mark: write(folder, "new", mark), check,
                       lambda folder: write(folder, "old"))

    return [writing(suffix) for suffix in (".npz", ".csv", ".parquet")]


def files_old_or_new(name: str, write: Callable[[Path, str], Any]) -> Writing:
    """Single files over older ones: each has the old content or the new, and the new once that was reported."""
    held: dict[str, dict[str, bytes]] = {}

    def keep(folder: Path, which: str) -> None:
        write(folder, which)
        held[which] = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def run(folder: Path, mark: Mark) -> None:
        keep(folder, "new")
        mark("written")

    def check(folder: Path, marks: list[str]) -> str:
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
                 if path.is_file() and not path.name.startswith(".")}
        for one in held["old"]:
            assert found[one] in (held["old"][one], held["new"][one]), f"{one} is half written"
        if marks:
            assert found == held["new"], "what was reported is lost"
        return "new" if found == held["new"] else "old" if found == held["old"] else "some new"

    return Writing(name, run, check, lambda folder: keep(folder, "old"))


def weights() -> list[Writing]:
    """Converted weights in three formats."""
    from beitv2_core.weights.writers import write_paddle, write_safetensors, write_torch

    writers = {".safetensors": lambda path, state: write_safetensors(path, state, {}), ".pth": write_torch,
               ".pdparams": write_paddle}

    def writing(suffix: str) -> Writing:
        def write(folder: Path, which: str) -> None:
            state = {f"layer.{i}": np.random.RandomState(i + 10 * (which == "new")).randn(30, 40).astype(np.float32)
                     for i in range(4)}
            writers[suffix](folder / "weights" / f"model{suffix}", state)

        return files_old_or_new(f"weights as {suffix}", write)

    return [writing(suffix) for suffix in writers]


def model_folder(scratch: Path) -> Writing:
    """A folder of config.json and model.safetensors over an older one."""
    import untrained_runs

    from beitv2_core.assembly.loaded_weights import read_model
    from beitv2_core.conversion.folder import write_model_folder

    models = {name: read_model(untrained_runs.pretraining(scratch / f"model_{name}", f"model.depth={depth}"))
              for name, depth in (("old", 4), ("new", 6))}
    held: dict[str, dict[str, bytes]] = {}

    def write(folder: Path, name: str) -> None:
        write_model_folder(folder / "model", models[name], {"image_size": len(name), "name": name})
        held[name] = contents(folder)

    def contents(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (folder / "model").iterdir() if path.is_file()}

    def run(folder: Path, mark: Mark) -> None:
        write(folder, "new")
        mark("written")

    def check(folder: Path, marks: list[str]) -> str:
        try:
            found = read_model(folder / "model")
        except BEiTError as error:
            assert not marks, error
            return "refused"
        [name] = [name for name, one in held.items() if one == contents(folder)] or ["a mixture"]
        assert name != "a mixture" and (name == "new" or not marks), name
        np.testing.assert_equal(dict(found.weights), dict(models[name].weights))
        return name

    return Writing("model folder", run, check, lambda folder: write(folder, "old"))


def export() -> Writing:
    """An exported model."""
    from export_models import tokenizer

    from beitv2_core.exported_model import load_exported
    from beitv2_core.exporting import export_model, exportable_tokenizer

    def run(folder: Path, mark: Mark) -> None:
        export_model(exportable_tokenizer(tokenizer()), folder / "exports" / "tokenizer", form="paddle", batches=(1,))
        mark("written")

    def check(folder: Path, marks: list[str]) -> str:
        path = folder / "exports" / "tokenizer"
        if not path.exists():
            assert not marks
            return "none"
        load_exported(path)
        return "new"

    return Writing("exported model", run, check)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The files of a folder on a web server of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def download(scratch: Path) -> Writing:
    """A file that was fetched, without a hash that is known."""
    from beitv2_core.weights.published.download import resolve_weights

    content = np.random.RandomState(0).bytes(30_000)
    (scratch / "served").mkdir(exist_ok=True)
    (scratch / "served" / "model.pth").write_bytes(content)
    address: list[str] = []

    def fetch(folder: Path, place: str) -> bytes:
        with mock.patch.dict(os.environ, BEITV2_CACHE=str(folder / "cache")):
            return resolve_weights(f"{place}/model.pth").read_bytes()

    def run(folder: Path, mark: Mark) -> None:
        with served(scratch / "served") as place:
            address.append(place)
            fetch(folder, place)
        mark("fetched")

    def check(folder: Path, marks: list[str]) -> str:
        try:
            found = fetch(folder, address[-1])  # nothing answers there any more
        except BEiTError:
            assert not marks
            return "to be fetched again"
        assert found == content, "half a download is used"
        return "new"

    return Writing("download", run, check)


def evaluation() -> Writing:
    """Tables, numbers and a figure of an evaluation of segmentation."""
    from beitv2_seg.reading.evaluate import Evaluation, write_evaluation
    from beitv2_seg.reading.metrics import ConfusionMatrix

    def write(folder: Path, which: str) -> None:
        matrix = ConfusionMatrix(3)
        draws = np.random.RandomState(which == "new")
        matrix.add(draws.randint(0, 3, (40, 40)), draws.randint(0, 3, (40, 40)))
        write_evaluation(Evaluation(matrix.scores(), matrix.counts, 1, 0), ["a", "b", "c"], folder / "evaluation")

    return files_old_or_new("evaluation", write)


def corrupt_list(scratch: Path) -> Writing:
    """The list of files that cannot be decoded: lines may be lost, and no other line may come of it."""
    from beitv2_core.data.sources.corrupt import CorruptFiles

    paths = [scratch / f"broken_{number:02}_{'x' * 150}.png" for number in range(40)]
    for path in paths:
        path.write_bytes(b"no image")

    def run(folder: Path, mark: Mark) -> None:
        corrupt = CorruptFiles(1000, 0.5, folder / "run" / "corrupt_files.txt")
        for number, path in enumerate(paths):
            corrupt.add(str(path), "it is no image at all")
            if number % 8 == 0:
                mark("listed")  # no promise: they are met again

    def check(folder: Path, marks: list[str]) -> str:
        # one more than there are is allowed: a line that came of nothing would be too many
        again = CorruptFiles(1000, (len(paths) + 0.5) / 1000, folder / "run" / "corrupt_files.txt")
        for path in paths:
            again.add(str(path), "it is no image at all")
        lines = (folder / "run" / "corrupt_files.txt").read_bytes().decode().split("\n")
        assert {str(path) for path in paths} <= {line.partition("\t")[0] for line in lines}
        return "listed"

    return Writing("list of broken files", run, check)

