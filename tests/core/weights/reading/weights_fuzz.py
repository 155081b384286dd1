# SPDX-License-Identifier: Apache-2.0
"""Damaged and hostile weights files in every format, and a program that reads them all under a memory limit.

Run as a program: `weights_fuzz.py FOLDER` writes one file after the other into FOLDER, reads it and prints a line of
JSON with what came of it.  What a file of a format without checksums says after damage, an independent reader tells.
"""

from __future__ import annotations

import base64
import io
import json
import pickle
import pickletools
import random
import resource
import struct
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors
from weights_files import BOMB_BYTES, FORBIDDEN, Code, Saved, call, encode, named, stream

MEMORY = 6 * 2**30  # address space of the program, PyTorch included where it is installed
FORMATS = ("torch zip", "torch legacy", "torchscript", "pdparams", "safetensors")
SUFFIX = dict(zip(FORMATS, (".pth", ".pth", ".pt", ".pdparams", ".safetensors")))
CHECKSUMS = ("torch zip", "torchscript")

#: what each format holds when it is whole
ARRAYS = {"block.weight": np.arange(12, dtype="f4").reshape(3, 4) / 7, "block.bias": np.array([2.5, -1], "f2"),
          "ids": np.arange(5), "scalar": np.array(0.25, "f4")}


class Case(NamedTuple):
    """One file. must: "refuse", or "right" (refused, or loaded to what the file says)."""

    name: str
    kind: str
    format: str
    content: bytes
    must: str
    said: str = ""


# -- whole files -------------------------------------------------------------------------------------------------------


def pickled_body(saved: Saved, extra: dict | None = None, **changes) -> Code:
    """The dictionary of a torch file; `changes` go to its first tensor, `extra` beside the tensors."""
    tensors = {name: saved.tensor(array, **(changes if name == "block.weight" else {}))
               for name, array in ARRAYS.items()}
    return Code(encode({**tensors, **(extra or {})}))


def build(format: str, extra: dict | None = None, **changes) -> tuple[bytes, Saved]:
    """The pickle of a file and its storages."""
    saved = Saved(legacy=format == "torch legacy")
    if format == "pdparams":
        class Tensor:
            def __init__(self, name, array):
                self.parts = name, array

            def __reduce__(self):
                return tuple, (self.parts,)

        state = OrderedDict((name, Tensor(name, array)) for name, array in ARRAYS.items())
        body = pickle.dumps(state, 2)
        if extra:  # its instructions, before the end
            body = body[:-1] + b"(" + b"".join(encode(key) + encode(value) for key, value in extra.items()) + b"u."
        return body, saved
    body = pickled_body(saved, extra, **changes)
    if format == "torchscript":
        body = Code(named("__torch__.clip.CLIP") + b")\x81" + body + b"b")
    return stream(body), saved


def assemble(format: str, body: bytes, saved: Saved) -> bytes:
    """The file around a pickle."""
    if format == "torch legacy":
        return saved.old_bytes(body)
    return body if format == "pdparams" else saved.zip_bytes(body, script=format == "torchscript")


def whole(format: str) -> bytes:
    """The file as it should be."""
    return save_safetensors(ARRAYS, {"format": "pt"}) if format == "safetensors" else assemble(format, *build(format))


# -- damage ------------------------------------------------------------------------------------------------------------


def truncations(format: str, data: bytes) -> Iterator[Case]:
    for tenth in range(10):
        yield Case(f"{tenth}/10", "truncated", format, data[: len(data) * tenth // 10], "refuse")
    yield Case("last byte", "truncated", format, data[:-1], "refuse")


def flips(format: str, data: bytes, rng: random.Random) -> Iterator[Case]:
    for number in range(60):
        damaged = bytearray(data)
        for _ in range(1 if number % 3 else 4):
            damaged[rng.randrange(len(data) if number % 2 else min(len(data), 400))] ^= 1 << rng.randrange(8)
        yield Case(str(number), "bit flip", format, bytes(damaged), "right")


def swaps(format: str, rng: random.Random) -> Iterator[Case]:
    """Instructions exchanged, left out, doubled, or replaced by another one."""
    body, saved = build(format)
    starts = [position for _, _, position in pickletools.genops(body)] + [len(body)]
    steps = [body[start:end] for start, end in zip(starts, starts[1:])]
    for number in range(48):
        mixed, place = list(steps), rng.randrange(1, len(steps) - 1)
        other = rng.randrange(1, len(steps) - 1)
        if number % 4 == 0:
            mixed[place], mixed[other] = mixed[other], mixed[place]
        elif number % 4 == 1:
            del mixed[place]
        elif number % 4 == 2:
            mixed.insert(other, mixed[place])
        else:
            mixed[place] = rng.choice(pickletools.opcodes).code.encode("latin1") + mixed[place][1:]
        yield Case(str(number), "instructions", format, assemble(format, b"".join(mixed), saved), "right")


# -- malice ------------------------------------------------------------------------------------------------------------


def hostile_calls(format: str, marker: Path) -> Iterator[Case]:
    command = f"open({str(marker)!r}, 'w')"
    for name in FORBIDDEN:
        last = name.rpartition(".")[2]
        shell = last in ("system", "popen", "Popen", "check_output", "spawn", "run")
        argument = f"touch {marker}" if shell else command
        yield Case(name, "forbidden global", format, assemble(format, *build(format, {"x": call(name, argument)})),
                   "refuse", last)
    writes = {"INST": f"(S'touch {marker}'\nios\nsystem\n", "OBJ": f"(cos\nsystem\nS'touch {marker}'\no",
              "NEWOBJ": f"cos\nsystem\n(S'touch {marker}'\nt\x81", "EXT1": "\x82\x01", "PERSID": f"P{marker}\n",
              "BINPERSID": f"S'{marker}'\nQ", "NEXT_BUFFER": "\x97", "BUILD a function":
              "ctorch._utils\n_rebuild_tensor_v2\n}S'call'\ncos\nsystem\nsb",
              "dotted": f"c__builtin__\neval.__call__\n(S'{marker}'\ntR", "BUILD a list": "]}S'append'\nNsb",
              "attribute of a class": f"ccollections\nOrderedDict.__class__\n(S'{marker}'\ntR"}
    for name, code in writes.items():
        extra = {"x": Code(code.encode("latin1"))}
        yield Case(name, "forbidden instruction", format, assemble(format, *build(format, extra)), "refuse")


class Reduces:
    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def reduce_payloads(marker: Path) -> Iterator[Case]:
    """What `pickle.dumps` makes of objects that run something when they are read, in every protocol."""
    import os
    import subprocess

    write = f"open({str(marker)!r}, 'w').close()"
    def payloads() -> dict[str, Reduces]:  # made anew: an iterator in one can be used up only once
        return {"system": Reduces(os.system, (f"touch {marker}",)), "exec": Reduces(exec, (write,)),
                "eval": Reduces(eval, (write,)), "call": Reduces(subprocess.call, (["touch", str(marker)],)),
                "items": Reduces(dict, (), None, None, iter([("k", Reduces(exec, (write,)))])),
                "state": Reduces(OrderedDict, (), Reduces(exec, (write,)))}

    for protocol in range(6):
        for name in payloads():
            top, inside = payloads()[name], {"w": ARRAYS["ids"], "x": [payloads()[name]]}
            yield Case(f"{name} {protocol}", "__reduce__", "pdparams", pickle.dumps(top, protocol), "refuse")
            yield Case(f"{name} inside {protocol}", "__reduce__", "pdparams", pickle.dumps(inside, protocol), "refuse")


def oversize(format: str) -> Iterator[Case]:
    changes = [{"size": (2**31, 4)}, {"size": (2**40, 2**40)}, {"size": (3, 5)}, {"size": (13,), "stride": (1,)},
               {"size": (-3, 4)}, {"size": (2**62, 2, 0, 2**62), "stride": (1, 1, 1, 1)}, {"offset": 1},
               {"offset": 2**62}, {"offset": -1}, {"stride": (2**61, 1)}, {"stride": (-4, 1)}, {"stride": (4,)},
               {"size": (2**20, 2**20), "stride": (0, 0)}, {"numel": 2**40}, {"numel": 13}, {"numel": -1},
               {"size": (3.0, 4)}, {"kind": "DoubleStorage"}, {"kind": "ComplexDoubleStorage"}]
    for change in changes:
        # A zero-size tensor is none, however large its other sides; what no array can have must still be refused.
        yield Case(str(change), "oversize", format, assemble(format, *build(format, **change)), "refuse")


def oversize_arrays() -> Iterator[Case]:
    def array(shape, dtype="f4", data=bytes(48), order=False) -> bytes:
        made = call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), (0,), "b")
        kind = Code(call("numpy.dtype", dtype, 0, 1) + encode((3, "<", None, None, None, -1, -1, 0)) + b"b")
        raw = Code(b"B" + struct.pack("<I", len(data)) + data)
        return b"\x80\x03}" + encode("w") + made + encode((1, shape, kind, order, raw)) + b"bs."

    for shape in ((3, 5), (2**40, 2**40), (-3, -4), (3, 4, 2**62), "text", (3.0, 4.0), ((3, 4),), (2**62, 0, 2**62)):
        yield Case(f"shape {shape}", "oversize", "pdparams", array(shape), "refuse")
    for dtype in ("O", "O8", "V8", "S4", "U4", "M8", "f99", "i3", "f4,O", "<f4><"):
        yield Case(f"dtype {dtype}", "oversize", "pdparams", array((3, 4), dtype), "refuse")


def hostile_headers(data: bytes) -> Iterator[Case]:
    """Safetensors whose header says what is not so."""
    length = struct.unpack("<Q", data[:8])[0]
    header, numbers = json.loads(data[8: 8 + length]), data[8 + length:]

    def file(change, size=None) -> bytes:
        text = change if isinstance(change, bytes) else json.dumps(change).encode()
        return struct.pack("<Q", len(text) if size is None else size) + text + numbers

    for size in (0, 1, length - 1, length + 1, len(data), 2**31, 2**63, 2**64 - 1):
        yield Case(f"header of {size}", "oversize", "safetensors", file(data[8: 8 + length], size), "refuse")
    for key, values in {"shape": ([2**62, 4], [2**63, 2**63], [-3, 4], [3, 5], [3.5], "text", [2**64]),
                        "data_offsets": ([0, 2**62], [48, 0], [8, 56], [-1, 47], [0, 2**70], []),
                        "dtype": ("F64", "O", "", "F4096", 3)}.items():
        for value in values:
            changed = {**header, "block.weight": {**header["block.weight"], key: value}}
            yield Case(f"{key} {value}", "oversize", "safetensors", file(changed), "refuse")
    for text in (b"", b"{", b"[]", b"null", b"{}" * 9, b"[" * 50000, b'{"a":' * 50000, b"\xff" * 99):
        yield Case(str(text[:8]), "oversize", "safetensors", file(text), "refuse")


def bombs(format: str) -> Iterator[Case]:
    """Small files that ask for much memory."""
    def around(code: bytes) -> bytes:
        body = b"\x80\x04" + code + b"."
        return assemble(format, body, Saved(legacy=format == "torch legacy"))

    for name, code in BOMB_BYTES.items():
        yield Case(name, "bomb", format, around(code), "refuse")
    if format not in CHECKSUMS:
        return
    body, saved = build(format)
    for name, entry in (("storage", "archive/data/0"), ("pickle", "archive/data.pkl"), ("other", "archive/code/x.py")):
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(saved.zip_bytes(body, script=format == "torchscript"))) as old, \
                zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
            for kept in old.namelist():
                if kept != entry:
                    new.writestr(kept, old.read(kept))
            with new.open(entry, "w") as large:
                for _ in range(100):
                    large.write(bytes(2**20))
        yield Case(f"{name} of 100 MB", "bomb", format, out.getvalue(), "refuse", "zip bomb")
        lying = bytearray(out.getvalue())  # the same, declared small
        place = lying.rindex(entry.encode()) - 46
        lying[place + 24: place + 28] = struct.pack("<I", 48)
        yield Case(f"{name} declared small", "bomb", format, bytes(lying), "right" if name == "other" else "refuse")


def cases(marker: Path, seed: int) -> Iterator[Case]:
    """Every file, the same for one seed."""
    rng = random.Random(seed)
    for format in FORMATS:
        data = whole(format)
        yield Case("whole", "whole", format, data, "load")
        yield from truncations(format, data)
        yield from flips(format, data, rng)
        if format == "safetensors":
            yield from hostile_headers(data)
            continue
        yield from swaps(format, rng)
        yield from hostile_calls(format, marker)
        yield from oversize_arrays() if format == "pdparams" else oversize(format)
        yield from bombs(format)
    yield from reduce_payloads(marker)


# -- an independent reader ---------------------------------------------------------------------------------------------


class Plain(dict):
    """Stands for any object that a file makes and fills."""

    def __setstate__(self, state):
        self.update(state if isinstance(state, dict) else {})


class Reference(pickle.Unpickler):
    """Python's unpickler with names replaced: what the file says, if it says anything."""

    storages: dict[str, bytes] = {}
    types = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}

    def find_class(self, module, name):
        if module.startswith("numpy") and name in ("_reconstruct", "ndarray", "dtype", "scalar"):
            return getattr(np.core.multiarray, name)
        if (module, name) == ("_codecs", "encode"):
            return lambda text, coding: text.encode({"latin1": "latin1"}[coding])
        if name == "_rebuild_tensor_v2":
            return self.tensor
        if module == "torch" and name in self.types:
            return self.types[name]
        return {"OrderedDict": OrderedDict, "tuple": tuple, "CLIP": Plain}[name]

    def persistent_load(self, pid):
        return np.frombuffer(self.storages[pid[2]], pid[1])[: pid[4]]

    @staticmethod
    def tensor(flat, offset, size, stride, *_):
        places = np.full(size, offset)
        for axis, step in enumerate(stride):
            places += (np.arange(size[axis]) * step).reshape([-1] + [1] * (len(size) - axis - 1))
        return np.asarray(flat[places])


def reference(format: str, content: bytes) -> dict[str, np.ndarray]:
    """The tensors an independent reader finds; raises what it will where there are none."""
    if format == "safetensors":
        return load_safetensors(content)
    storages, stream = {}, io.BytesIO(content)
    if format in CHECKSUMS:
        with zipfile.ZipFile(stream) as archive:
            storages = {name.rpartition("/")[2]: archive.read(name) for name in archive.namelist() if "/data/" in name}
            stream = io.BytesIO(archive.read("archive/data.pkl"))
    elif format == "torch legacy":
        for _ in range(3):
            Reference(stream).load()
        start = stream.tell()
        for _, _, position in pickletools.genops(content[start:]):
            end = start + position + 1
        stream.seek(end)
        for key, array in zip(Reference(stream).load(), ARRAYS.values()):
            count = struct.unpack("<q", stream.read(8))[0]
            storages[key] = stream.read(count * array.itemsize)
        stream = io.BytesIO(content[start:end])
    reader = Reference(stream, encoding="utf-8")
    reader.storages = storages
    value = reader.load()
    found = {str(key): item[1] if type(item) is tuple and isinstance(item[0], str) else item
             for key, item in value.items()}
    return {key: item for key, item in found.items() if isinstance(item, np.ndarray)}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Equal names, types, shapes and bytes."""
    return list(a) == list(b) and all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()
                                      for x, y in zip(a.values(), b.values()))


def outcome(case: Case, path: Path) -> tuple[str, str]:
    """What reading one file came to, and the message or fault."""
    from beitv2_core.errors import CheckpointError
    from beitv2_core.weights.reading.foreign import read_tensors

    path.write_bytes(case.content)
    try:
        found, _ = read_tensors(path)
    except CheckpointError as error:
        return ("refused" if str(error).startswith(str(path)) else "unnamed"), str(error)[:300]
    except BaseException as error:
        return "crashed", f"{type(error).__name__}: {error}"[:300]
    expected = {name: ARRAYS[name] for name in sorted(ARRAYS)}
    if same({name: found[name] for name in sorted(found)}, expected):
        return "loaded", "as written"
    if case.format in CHECKSUMS and case.kind == "bit flip":
        return "wrong", "damage went unnoticed although the format has checksums"
    try:
        said = reference(case.format, case.content)
    except Exception as error:
        return "wrong", f"loaded, where an independent reader fails: {type(error).__name__}: {error}"[:300]
    order = sorted if case.format == "safetensors" else list
    matches = same({name: found[name] for name in order(found)}, {name: said[name] for name in order(said)})
    return ("loaded", "as the file says") if matches else ("wrong", f"{found} instead of {said}"[:600])


def peak_memory() -> int:
    """The most memory this program has held, in bytes; ru_maxrss would count the parent's too."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return int(status.read_text().split("VmHWM:")[1].split()[0]) * 1024


def main(folder: Path, seed: int) -> None:
    """Read every file and report."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    marker = folder / "marker"
    for case in cases(marker, seed):
        path = folder / f"weights{SUFFIX[case.format]}"
        result, detail = outcome(case, path)
        line = {"name": case.name, "kind": case.kind, "format": case.format, "must": case.must, "said": case.said,
                "result": result, "detail": detail, "executed": marker.exists(),
                "peak": peak_memory() // 2**20}
        if result in ("wrong", "crashed", "unnamed"):
            line["content"] = base64.b64encode(case.content[:3000]).decode()
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
