# SPDX-License-Identifier: Apache-2.0
"""Changes to the bytes and to the structure of a file, each a function of a seeded generator."""

from __future__ import annotations

import io
import json
import pickle
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

INTEGERS = (0, 1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\1\0WEBPVP8X", b"GIF89a", b"BM", b"II*\0", b"MM\0*",
         b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x1f\x8b\x08", b"PAR1", b"P6\n", b"\0\0\0\x0cjP  \r\n\x87\n",
         b"%PDF-1.7",
         b"\0\0\0 ftypavif", b"\x80\x04", b"{\"", b"---\n", b"\xef\xbb\xbf", b"\xff\xfe", b"version https://git-lfs")
#: names that lead out of a folder, to what is no file, or to none that can be opened
TRICKS = ("../../../../etc/passwd", "/etc/passwd", "/dev/zero", "/proc/self/mem", "..", "", ".", "a\0b", "x" * 5000,
          "\ud800", "C:\\windows\\x", "~/x", "$(touch x)", "file:///etc/passwd", "a/" * 2000 + "b", "\u202egnp.x",
          "%2e%2e%2f", "-rf", "con", "\n", "\x1b[2J")
DEEP = 50_000


def canary(marker: Path) -> list[bytes]:
    """Pickles that write a file when they are executed."""
    class Runs:
        def __reduce__(self) -> Any:
            return exec, (f"open({str(marker)!r}, 'w').close()",)

    return [pickle.dumps(Runs(), protocol) for protocol in range(5)] + [
        f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()]


def mutated(name: str, data: bytes, rng: random.Random, marker: Path) -> bytes:
    """One changed copy of a file: by its structure where its kind has one, else byte by byte; sometimes both."""
    kind = name.rpartition(".")[2].lower()
    structured = {"json": json_changed, "yml": yaml_changed, "txt": text_changed, "csv": text_changed,
                  "npz": zip_changed, "pth": zip_changed, "npy": npy_changed, "png": png_changed,
                  "safetensors": safetensors_changed, "tar": tar_changed}.get(kind)
    way = rng.random()
    if way < 0.02:
        return rng.choice(canary(marker))
    if structured is not None and way < 0.6:
        data = structured(data, rng, marker)
        return data if rng.random() < 0.8 else bytes_changed(data, rng)
    return bytes_changed(data, rng)


# -- bytes -------------------------------------------------------------------------------------------------------------


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, parts cut, put in, doubled or zeroed, numbers replaced, beginnings exchanged."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        size = len(out)
        place = rng.randrange(size + 1) if rng.random() < 0.5 else rng.randrange(min(size, 200) + 1)
        length = min(rng.choice((1, 2, 4, 16, 100, 1000)), max(size - place, 0))
        way = rng.randrange(12)
        if way in (0, 1) and size:
            out[min(place, size - 1)] ^= 1 << rng.randrange(8)
        elif way == 2:
            del out[place:]
        elif way == 3:
            del out[place : place + length]
        elif way == 4:
            out[place:place] = rng.randbytes(rng.choice((1, 3, 50, 2000)))
        elif way == 5:
            out[place:place] = out[place : place + length] * rng.choice((1, 2, 50, 500))
        elif way == 6:
            out[place : place + length] = bytes(length)
        elif way in (7, 8):
            form = rng.choice("BHIQ")
            number = struct.pack(rng.choice("<>") + form, rng.choice(INTEGERS) % 256 ** struct.calcsize(form))
            out[place : place + len(number)] = number
        elif way == 9:
            begin = rng.choice(MAGIC)
            out[: len(begin)] = begin
        elif way == 10:
            out += rng.choice((bytes(1000), bytes(out), rng.randbytes(100), b"\n"))
        else:
            other = rng.randrange(size + 1)
            out[place : place + length] = out[other : other + length]
    return bytes(out[: 2**20])


# -- JSON, YAML and text -----------------------------------------------------------------------------------------------


def odd_value(rng: random.Random) -> Any:
    """A value that is seldom expected."""
    return rng.choice((None, True, False, -1, 0, 0.5, -0.0, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30,
                       -(10**400), "", "x" * 100_000, "1e999", "0x10", "\0", "\ud800", [], {}, [[]], [None] * 1000,
                       {"": {}}, {"__array__": "gone"}, {"__array__": []}, [[[[1]]]], "@DEEP@", "@DIGITS@",
                       rng.choice(TRICKS), rng.choice(TRICKS)))


def _containers(tree: Any) -> Iterator[Any]:
    if isinstance(tree, (dict, list)):
        yield tree
        for value in tree.values() if isinstance(tree, dict) else tree:
            yield from _containers(value)


def tree_changed(tree: Any, rng: random.Random) -> Any:
    """Values replaced, left out, doubled or nested anew."""
    tree = json.loads(json.dumps(tree))
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = [one for one in _containers(tree) if one]
        if not places or rng.random() < 0.03:
            return odd_value(rng)
        chosen = rng.choice(places)
        key = rng.choice(list(chosen)) if isinstance(chosen, dict) else rng.randrange(len(chosen))
        way = rng.randrange(6)
        if way < 3:
            chosen[key] = odd_value(rng)
        elif way == 3:
            del chosen[key]
        elif way == 4 and isinstance(chosen, dict):
            chosen[rng.choice((*TRICKS[4:8], "extra", "id", "kind", "__proto__"))] = odd_value(rng)
        elif way == 4:
            chosen += chosen * rng.choice((1, 30))
        else:
            chosen[key] = rng.choice(([chosen[key]], {"x": chosen[key]}, str(chosen[key])))
    return tree


def _with_depth(text: str, rng: random.Random) -> str:
    deep = rng.choice(("[" * DEEP + "]" * DEEP, "[" * DEEP, '{"a":' * DEEP + "1" + "}" * DEEP))
    return text.replace('"@DEEP@"', deep).replace('"@DIGITS@"', "9" * 20_000)


def json_changed(data: bytes, rng: random.Random, _: Path) -> bytes:
    """JSON whose values are others."""
    text = data.decode("utf-8-sig")
    return _with_depth(json.dumps(tree_changed(json.loads(text), rng)), rng).encode("utf-8", "surrogatepass")


def yaml_lines(marker: Path) -> list[str]:
    """Lines that YAML gives a meaning of their own, or none."""
    laughs = "\n".join([f"a0: &a0 [{'x, ' * 9}x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]"
                                                      for i in range(1, 12)])
    maps = "\n".join(["m0: &m0 {k: 1}"] + [f"m{i}: &m{i} {{a: *m{i - 1}, b: *m{i - 1}}}" for i in range(1, 40)])
    merges = "\n".join(["g0: &g0 {k: 1}"] + [f"g{i}: &g{i} {{<<: [*g{i - 1}, *g{i - 1}]}}" for i in range(1, 40)])
    return [laughs, maps, merges, "r: &r {r: *r}", "s: &s [*s]", "? [1, 2]\n: x", "? {a: b}\n: x",
            f"x: !!python/object/apply:os.system ['touch {marker}']", "x: !!python/name:os.system",
            "x: !!python/object/new:os.system []", "x: !!int abc", "x: !!float abc", "x: !!timestamp abc",
            "x: !!binary '*'", "x: !!set [a]", "x: !!omap 3", "x: !!pairs 3", "x: !!bool maybe", "x: 2001-99-99",
            "x: 2001-01-01 99:99:99", "x: 0b", "x: 0x_", "x: ._", "x: -_", "x: 1:99:99:99:99:99:99.5",
            "x: " + "9" * 5000,
            "x: " + "1:" * 3000 + "1", "x: *gone", "&a &b x: y", "%YAML 9.9\n---", "---\nx: y\n---\nz: 1", "\t- x",
            "x: " + "[" * 3000, "x: " + "[" * 20_000 + "]" * 20_000, "\n".join(" " * i + "k:" for i in range(1500)),
            "x: |\n" + "  y\n" * 5000, "kind: [tokenizer]", "kind: {a: b}", "_base_: /dev/zero", "_base_: /dev/stdin",
            "_base_: .", "_base_: a\\0b", '_base_: "a\\0b"', "_base_: " + "x" * 5000,
            "_base_: [config.yml, config.yml]",
            "_base_: ../../../../../../etc/passwd", "_inherited_: false", "_inherited_: [1]", "null: x", "1.5: x",
            "true: x", "x" * 200_000 + ": 1", "x: '" + "y" * 200_000 + "'", "data: null", "data: []", "data: 3",
            "output: 7", "data: {image_size: .nan}", "data: {image_size: -.inf}", "x: !<tag:yaml.org,2002:str> []",
            "<<: 3", "<<: [1]", "x: &a !!map {<<: *a}", "=: 3", "x: =", "\x07: x", "\ufffe: x", "! x: y", "!!: x",
            "@x: y"]


def yaml_changed(data: bytes, rng: random.Random, marker: Path) -> bytes:
    """YAML whose values are others, or with lines that mean something else."""
    import yaml

    text = data.decode()
    if rng.random() < 0.4:
        tree = tree_changed(yaml.safe_load(text), rng)
        return _with_depth(json.dumps(tree), rng).encode("utf-8", "surrogatepass")
    lines = text.splitlines()
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(lines) + 1)
        lines[place:place] = rng.choice(yaml_lines(marker)).split("\n") if rng.random() < 0.7 else [
            rng.choice(lines or [""]).replace(":", rng.choice((": !!int", ": *a", ": &a", ":", ": {", ": [", ": '")))]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def text_changed(data: bytes, rng: random.Random, _: Path) -> bytes:
    """Text with other lines, ends, encodings and names."""
    text = data.decode("utf-8", "replace")
    lines = text.splitlines()
    place = rng.randrange(len(lines) + 1)
    way = rng.randrange(8)
    if way == 0:
        lines[place:place] = [rng.choice(TRICKS)]
    elif way == 1:
        lines[place:place] = [rng.choice(("a b " * 50_000, " " * 200_000 + "x", "\t" * 100_000, ",|;" * 60_000,
                                          ".jpg " * 40_000, "'" * 99_999, "\"" + "a" * 99_999, "/" * 100_000))]
    elif way == 2:
        lines *= rng.choice((2, 200))
    elif way == 3 and lines:
        lines[place % len(lines)] = rng.choice(("{}", "# {}", "[", "nan", "inf,inf", "-1", "1e999", "#", "\0", "\\"))
    elif way == 4 and lines:
        words = re.split(r"([ ,\t])", lines[place % len(lines)])
        words[rng.randrange(len(words))] = str(odd_value(rng))
        lines[place % len(lines)] = "".join(words)
    elif way == 5:
        rng.shuffle(lines)
    joined = rng.choice(("\n", "\r\n", "\r")).join(lines)
    return joined.encode(rng.choice(("utf-8", "utf-8", "utf-16", "utf-16-le", "gb18030", "utf-32")), "replace")


# -- archives and binary headers ---------------------------------------------------------------------------------------


def npy_changed(data: bytes, rng: random.Random, marker: Path) -> bytes:
    """An array whose header says another type, shape or length."""
    length = struct.unpack("<H", data[8:10])[0]
    numbers = data[10 + length:]
    shape = rng.choice(("(1000000000000,)", "(-1,)", "(2, 1000000000)", "()", "(0,)", "3", "(1.5,)", "('a',)",
                        "(" * 5000, "(1,)" + " " * 60_000, "(4611686018427387904, 4)"))
    kind = rng.choice(("'<f4'", "'|O'", "'<U1000000000'", "'V0'", "'<f99'", "[('a', '<f4', (1000000,))]", "'<M8[ns]'",
                       "'S0'", f"__import__('os').system('touch {marker}')"))
    text = f"{{'descr': {kind}, 'fortran_order': {rng.choice(('False', 'True', '7'))}, 'shape': {shape}, }}"
    if rng.random() < 0.1:
        return data[:10 + length] + rng.choice(canary(marker))
    header = text.encode()[:65535] + b"\n"
    return data[:6] + b"\x01\x00" + struct.pack("<H", min(len(header), 65535)) + header[:65535] + numbers


def zip_changed(data: bytes, rng: random.Random, marker: Path) -> bytes:
    """A zip whose members are others, are missing, come twice, or unpack to very much."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except zipfile.BadZipFile:
        return bytes_changed(data, rng)
    place = rng.randrange(len(members))
    name, content = members[place]
    way = rng.randrange(7)
    if way in (0, 1):
        change = npy_changed if name.endswith(".npy") and rng.random() < 0.6 else None
        members[place] = name, change(content, rng, marker) if change else bytes_changed(content, rng)
    elif way == 2:
        members[place] = name, content + bytes(50 * 2**20)
    elif way == 3:
        del members[place]
    elif way == 4:
        members.insert(place, (name, rng.choice(canary(marker))))
    elif way == 5:
        members += [(rng.choice(TRICKS[:4]), content) for _ in range(rng.choice((1, 2000)))]
    else:
        other = rng.randrange(len(members))
        members[place], members[other] = (name, members[other][1]), (members[other][0], content)
    out = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED))
    import warnings

    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", how) as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for name, content in members:
            archive.writestr(name, content)
    changed = bytearray(out.getvalue())
    if rng.random() < 0.3:  # sizes that are not so
        at = changed.find(b"PK\x01\x02", rng.randrange(len(changed)))
        if at >= 0:
            field = rng.choice((20, 24, 42))
            changed[at + field : at + field + 4] = struct.pack("<I", rng.choice(INTEGERS) % 2**32)
    return bytes(changed)


def safetensors_changed(data: bytes, rng: random.Random, _: Path) -> bytes:
    """Tensors whose header is another one."""
    length = struct.unpack("<Q", data[:8])[0]
    text = _with_depth(json.dumps(tree_changed(json.loads(data[8 : 8 + length]), rng)), rng).encode()
    said = len(text) if rng.random() < 0.8 else rng.choice(INTEGERS)
    return struct.pack("<Q", said) + text + data[8 + length:]


def png_changed(data: bytes, rng: random.Random, _: Path) -> bytes:
    """Chunks changed, with checksums that fit: sizes, palettes, packed texts and profiles that become very large."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return bytes_changed(data, rng)
    way, place = rng.randrange(6), rng.randrange(len(chunks))
    if way == 0:
        depth, colour = rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 1))
        sizes = rng.choice(((0, 1), (2**31 - 1, 1), (2**31 - 1, 2**31 - 1), (1500, 1500), (1, 2_000_000), (65535,
                                                                                                           65535)))
        chunks[0] = b"IHDR", struct.pack(">IIBBBBB", *sizes, depth, colour, 0, 0, rng.choice((0, 1)))
    elif way == 1:
        packed = zlib.compress(bytes(rng.choice((10**5, 3 * 10**7))), 9)
        kind, head = rng.choice(((b"iCCP", b"p\0\0"), (b"zTXt", b"t\0\0"), (b"iTXt", b"t\0\1\0\0\0")))
        chunks.insert(1, (kind, head + packed))
    elif way == 2:
        chunks.insert(place, chunks[place])
    elif way == 3:
        del chunks[place]
    elif way == 4:
        chunks[place] = chunks[place][0], bytes_changed(chunks[place][1], rng)
    else:
        chunks.insert(1, rng.choice(((b"acTL", struct.pack(">II", 2**31 - 1, 0)), (b"PLTE", b"\0" * 769), (b"tRNS",
                                                                                                           b""),
                                     (b"eXIf", rng.randbytes(50)), (b"fcTL", bytes(26)), (b"pHYs", b"x"))))
    return data[:8] + b"".join(struct.pack(">I", len(content)) + kind + content +
                               struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks)


def tar_changed(data: bytes, rng: random.Random, _: Path) -> bytes:
    """A header of a tar changed, with a checksum that fits: names, sizes, kinds, extended headers."""
    out = bytearray(data)
    blocks = [at for at in range(0, len(out) - 511, 512) if out[at + 257 : at + 262] == b"ustar"]
    if not blocks:
        return bytes_changed(data, rng)
    at, way = rng.choice(blocks), rng.randrange(5)
    if way == 0:
        name = rng.choice(TRICKS).encode("utf-8", "surrogatepass")[:99]
        out[at : at + 100] = name.ljust(100, b"\0")
    elif way == 1:
        sizes = (b"77777777777", b"00000000000", b"00000000001", b"-0000000001", b"\x80" + b"\xff" * 11, b"\xff" * 12,
                 b"\x80" + bytes(7) + b"\x40\0\0\0", b"zzz")
        out[at + 124 : at + 136] = rng.choice(sizes).ljust(12, b"\0")
    elif way == 2:
        out[at + 156] = rng.choice(b"01234567LKSDNxgX")
    elif way == 3:
        extra = rng.choice((b"20 path=../../x\n", b"22 size=99999999999\n", b"9 size=x\n", b"99999999999 a=b\n",
                            b"x" * 300,
                            b"28 GNU.sparse.major=1\n", b"30 GNU.sparse.map=0,1,2\n", b"1 \n" * 100, b"0 =\n",
                            bytes(512)))
        head = bytearray(out[at : at + 512])
        head[124:136] = f"{len(extra):011o}\0".encode()
        head[156:157] = rng.choice((b"x", b"g", b"L", b"K"))
        out[at:at] = _checked(head) + extra.ljust(-(-len(extra) // 512) * 512, b"\0")
        return bytes(out)
    else:
        return bytes(out[: at + 512] + out[at:])
    out[at : at + 512] = _checked(out[at : at + 512])
    return bytes(out)


def _checked(head: bytearray) -> bytes:
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    return bytes(head)
