# SPDX-License-Identifier: Apache-2.0
"""Readers of data: images, label maps, COCO, lists, shards."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from image_files import MAX_PIXELS, costly, images
from mutations import canary
from seeds import Seed, single

# -- images and label maps ---------------------------------------------------------------------------------------------


def read_image(path: Path) -> Any:
    from beitv2_core.data.sources.image_file import decode, explain

    try:
        return decode(path, upright=True, max_pixels=MAX_PIXELS)
    except Exception as error:  # as all callers do: decoders raise anything
        raise explain(path, error) from error


def read_sent_image(path: Path) -> Any:
    from beitv2_core.serve.image import read_image as received

    return received(path.read_bytes(), max_pixels=MAX_PIXELS, upright=True)


def read_label_map(path: Path) -> Any:
    from beitv2_seg.data.file_samples import FileSamples

    samples = FileSamples([[None, str(path)]], [], mode="train", num_classes=5)
    samples.max_pixels = MAX_PIXELS
    samples.label_map = {"1": 2, "7": 0} if path.name.startswith("grey") else {}
    return samples.label(0)


def costly_images(marker: Path) -> Iterator[Seed]:
    for name, content in costly():
        yield Seed({name: content}, name, (), name)
    for number, content in enumerate(canary(marker)):
        yield Seed({"x.png": content}, "x.png", (), f"pickle {number}")


def read_coco(path: Path) -> Any:
    from beitv2_seg.data.forms.find import find_samples

    found = find_samples(path, form="coco", unlabelled="background")
    return [found.drawn.label(image, found.label_map, ignored=255, unlisted=found.unlisted)
            for image, _ in found.files]


def coco_seeds() -> list[Seed]:
    from pycocotools import mask

    square = np.zeros((29, 41), np.uint8, order="F")
    square[3:9, 4:12] = 1
    packed = mask.encode(square)
    runs = [120, 6, 23, 6, 23, 6, 29 * 41 - 184]
    annotations = [{"id": 1, "image_id": 7, "category_id": 1, "segmentation": [[1, 1, 20, 1, 20, 20.5]], "iscrowd": 0},
                   {"id": 2, "image_id": 7, "category_id": 2, "iscrowd": 1,
                    "segmentation": {"size": [29, 41], "counts": runs}},
                   {"id": 3, "image_id": 7, "category_id": 2, "iscrowd": 0,
                    "segmentation": {"size": [29, 41], "counts": packed["counts"].decode()}}]
    tree = {"images": [{"id": 7, "file_name": "a.png", "height": 29, "width": 41}], "annotations": annotations,
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]}
    files = {"annotations/train.json": json.dumps(tree).encode(), "a.png": images()["rgb.png"]}
    return [Seed(files, ".", ("annotations/train.json",))]


def costly_coco(marker: Path) -> Iterator[Seed]:
    (seed,) = coco_seeds()
    tree = json.loads(seed.files["annotations/train.json"])

    def other(name: str, sides: tuple[int, int], outline: Any) -> Seed:
        changed = json.loads(json.dumps(tree))
        changed["images"][0].update(height=sides[0], width=sides[1])
        changed["annotations"] = [{**changed["annotations"][0], "segmentation": outline}]
        return Seed({**seed.files, "annotations/train.json": json.dumps(changed).encode()}, ".", (), name)

    square = [[1, 1, 20, 1, 20, 20]]
    yield other("large image", (60_000, 60_000), square)
    yield other("no image", (0, 0), square)
    yield other("negative image", (-5, 7), square)
    for far in (1e5, 1e9, 1e18, 1e300, -1e9, float("nan"), float("inf"), "x", None, [1]):
        yield other(f"corner {far}", (29, 41), [[1, 1, far, 1, 20, 20]])
    for counts in ([-1, 1190], [2**40, 1189 - 2**40], [0.5, 1188.5], ["1", 1188], [], "", "\0", "~" * 50_000, "z" * 9,
                   3,
                   None, [1189] * 3, "o" * 100_000):
        yield other(f"counts {str(counts)[:20]}", (29, 41), {"size": [29, 41], "counts": counts})
    for size in ([29], [29, 41, 3], ["29", "41"], 7, None, [2**31, 2**31]):
        yield other(f"size {size}", (29, 41), {"size": size, "counts": [1189]})


# -- lists and shards -------------------------------------------------------------------------------------------------


def read_list(path: Path) -> Any:
    from beitv2_core.data.sources.lists import read_images, read_labelled, read_pairs
    from beitv2_core.errors import DataError

    readers = [lambda: read_labelled(path, path.parent), lambda: read_images(path), lambda: read_pairs(path,
                                                                                                       path.parent)]
    own = readers.pop(2 if path.name.startswith("pairs") else 0)
    for other in readers:  # may refuse what is meant otherwise
        with contextlib.suppress(DataError):
            other()
    return own()


def list_seeds() -> list[Seed]:
    names = [f"{number}/an image {number}.png" for number in range(4)]
    files = {name: b"x" for name in names}
    texts = {"blanks.txt": "".join(f"{name} {name[0]}\n" for name in names),
             "tabs.txt": "image\tlabel\n" + "".join(f"{name}\ta word\n" for name in names),
             "commas.csv": "path,label\n" + "".join(f'"{name}",{name[0]}\n' for name in names),
             "pairs.txt": "".join(f"{name} {names[0]}\n" for name in names),
             "gbk.txt": "".join(f"{name} \u732b\n" for name in names)}
    return [Seed({**files, name: text.encode("gb18030" if name == "gbk.txt" else "utf-8")}, name, (name,), name)
            for name, text in texts.items()]


def read_shard(path: Path) -> Any:
    from beitv2_core.data.sources.image_file import Reading
    from beitv2_core.data.sources.shards import ShardSet

    shards = ShardSet(path, with_classes=True, max_corrupt=1.0, reading=Reading(True, MAX_PIXELS))
    try:
        return [shards.load(number) for number in range(min(len(shards), 3))]
    finally:
        shards.close()


def shard_seeds() -> list[Seed]:
    out, small = io.BytesIO(), images()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in {"a/0.jpg": small["baseline.jpg"], "a/0.cls": b"1", "a/1.png": small["palette.png"],
                              "a/1.json": b'{"label": 0, "text": [1, {"x": 2}]}',
                              f"a/{'n' * 120}.gif": small["frames.gif"], f"a/{'n' * 120}.cls": b"1"}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return single({"train.tar": out.getvalue()})


def hostile_shards(marker: Path) -> Iterator[Seed]:
    def of(name: str, members: Mapping[str, bytes], **beside: bytes) -> Seed:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            for path, content in members.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return Seed({"train.tar": out.getvalue(), **beside}, "train.tar", (), name)

    image = images()["rgb.png"]
    for name, label in {"deep": b"[" * 100_000, "digits": b"9" * 900_000, "huge": b"1e999", "arabic": "\u0663".encode(),
                        "superscript": "\u00b2".encode(), "nan": b"NaN", "pickle": canary(marker)[0]}.items():
        yield of(f"{name} in .json", {"a.png": image, "a.json": label})
        yield of(f"{name} in .cls", {"a.png": image, "a.cls": label})
    yield of("label 2**62", {"a.png": image, "a.cls": str(2**62).encode()})
    yield of("label 2**70", {"a.png": image, "a.json": str(2**70).encode()})
    yield of("label 200 million", {"a.png": image, "a.cls": b"200000000"})
    yield of("20,000 members", {f"{number}.txt": b"" for number in range(2000)})
    members = {"a.png": image, "a.cls": b"0"}
    for number, content in enumerate(canary(marker)):
        yield of(f"pickle as index {number}", members, **{"train.tar.index.npz": content})
    out = io.BytesIO()
    np.savez_compressed(out, stamp=np.zeros(20_000_000), names=np.zeros(9))
    yield of("packed index", members, **{"train.tar.index.npz": out.getvalue()})
    yield of("deep classes", members, **{"classes.txt": b"\xff" * 1000})
    yield Seed({"train.tar": costly_tar()}, "train.tar", (), "a member of 2**60 bytes")


def costly_tar() -> bytes:
    (seed,) = shard_seeds()
    out = bytearray(seed.files["train.tar"])
    out[124:136] = b"\x80" + (2**60).to_bytes(11, "big")
    out[156] = ord("L")
    out[148:156] = b" " * 8
    out[148:156] = f"{sum(out[:512]):06o}\0 ".encode()
    return bytes(out)
