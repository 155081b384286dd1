# SPDX-License-Identifier: Apache-2.0
"""What lasts is written by one writer: `beitv2_core/files` alone syncs, renames and makes folders.

So a power cut can be tested in one place, and a record of its calls is complete (`tests/faults/recorded_writes.py`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITER = "beitv2-core/src/beitv2_core/files/"
BLOCKS = {"write_atomically", "write_folder_atomically", "write_files_together", "whole_or_absent", "_together"}
#: calls that the writer alone makes
ITS_OWN = {("os", name) for name in ("replace", "rename", "link", "symlink", "fsync", "fdatasync", "truncate", "mkdir",
                                     "makedirs")} | {("shutil", "move")}
ITS_OWN_METHODS = {"rename", "mkdir", "hardlink_to", "symlink_to", "touch"}
#: calls that write a file, allowed inside a block of the writer
WRITES = {"write_text", "write_bytes", "savez", "savez_compressed", "save_file", "save_tensors", "LargeFile", "savefig",
          "imwrite", "copyfile", "copy2", "copytree", "tofile"}
LIBRARIES = {("np", "save"), ("paddle", "save"), ("onnx", "save"), ("jit", "save")}
#: functions that write outside a block, and why they may
ALLOWED = {
    "inference/embedding_file.py: write_csv": "to the temporary path it is given",
    "evaluation/parts.py: join_npz": "to the temporary path it is given",
    "evaluation/parts.py: _entry": "into the archive it is given",
    "weights/writers.py: save_tensors": "to the temporary path it is given",
    "exporting/onnx.py: write_onnx": "into the temporary folder it is given",
    "exporting/writer.py: _write": "into the temporary folder it is given",
    "conversion/reference.py: _write_folder": "into a folder that is removed after the comparison",
    "engine/run_folder.py: open": "the lock, whose content is nothing",
    "data/view_cache.py: __init__": "rows with checksums of their own, beside an identity that is on the disk before",
}


def name_of(node: ast.expr) -> tuple[str, str]:
    """("os", "replace") of os.replace; ("", "open") of open; ("jit", "save") of paddle.jit.save."""
    if isinstance(node, ast.Attribute):
        return getattr(node.value, "id", getattr(node.value, "attr", "?")), node.attr
    return "", node.id if isinstance(node, ast.Name) else ""


def opens_to_write(call: ast.Call) -> bool:
    """Whether open(path, mode), path.open(mode), zipfile.ZipFile(path, mode) or os.open(path, flags) writes."""
    module, name = name_of(call.func)
    if (module, name) == ("os", "open"):
        return any(flag in ast.unparse(call.args[1]) for flag in ("O_WRONLY", "O_RDWR", "O_CREAT"))
    if name not in ("open", "fdopen", "ZipFile"):
        return False
    modes = [one.value for one in [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
             if isinstance(one, ast.Constant) and isinstance(one.value, str)]
    return any(set(mode) <= set("rwaxbt+") and set(mode) & set("wax+") for mode in modes)


def found_in(text: str) -> Iterator[tuple[str, int, str]]:
    """(function, line, what is written) of what breaks the rule in a source."""
    def walk(node: ast.AST, function: str, inside: bool) -> Iterator[tuple[str, int, str]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        if isinstance(node, ast.Call):
            module, name = name_of(node.func)
            if (module, name) in ITS_OWN or name in ITS_OWN_METHODS and module:
                yield function, node.lineno, f"{module}.{name}"
            elif not inside and (name in WRITES or (module, name) in LIBRARIES or opens_to_write(node)):
                yield function, node.lineno, name
        if isinstance(node, ast.With):
            for item in node.items:  # each is inside those before it
                yield from walk(item.context_expr, function, inside)
                call = item.context_expr
                inside = inside or isinstance(call, ast.Call) and name_of(call.func)[1] in BLOCKS
            children: Iterator[ast.AST] = iter(node.body)
        else:
            children = ast.iter_child_nodes(node)
        for child in children:
            yield from walk(child, function, inside)

    yield from walk(ast.parse(text), "", False)


def test_nothing_is_written_past_the_writer():
    seen, wrong = set(), []
    for path in sorted((ROOT / "packages").glob("*/src/**/*.py")):
        name = path.relative_to(ROOT / "packages").as_posix()
        if name.startswith(WRITER):
            continue
        for function, line, what in found_in(path.read_text(encoding="utf-8")):
            place = f"{'/'.join(path.parts[-2:])}: {function}"
            if place in ALLOWED and what not in {".".join(pair) for pair in ITS_OWN}:
                seen.add(place)
            else:
                wrong.append(f"{name}:{line}: {function} calls {what}")
    assert not wrong, "write by beitv2_core.files.atomic:\n" + "\n".join(wrong)
    assert seen == set(ALLOWED), "no longer needed"


@pytest.mark.parametrize("text, wrong", [
    ("os.replace(a, b)", True), ("os.fsync(1)", True), ("path.mkdir()", True), ("path.rename(b)", True),
    ("open(p, 'w')", True), ("open(p, mode='ab')", True), ("p.open('r+b')", True), ("np.savez(p, **x)", True),
    ("paddle.jit.save(g, p)", True), ("os.open(p, os.O_RDWR | os.O_CREAT)", True), ("zipfile.ZipFile(p, 'w')", True),
    ("open(p)", False), ("open(p, encoding='utf-8')", False), ("p.open('rb')", False),
    ("text.replace('a', 'w')", False), ("os.open(p, os.O_RDONLY)", False),
    ("with write_atomically(p) as t, open(t, 'wb') as f:\n    np.savez(f)", False),
    ("with write_atomically(p) as t:\n    t.write_text('x')\n    os.replace(t, p)", True)])
def test_the_rule_tells_writing_from_reading(text, wrong):
    assert bool(list(found_in(text))) is wrong
