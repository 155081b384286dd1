# SPDX-License-Identifier: Apache-2.0
"""Foreign bytes become weights in core's weights/ and nowhere else, and nothing there runs what a file asks for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOM = ROOT / "packages" / "beitv2-core" / "src" / "beitv2_core" / "weights"
FILES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("*.py")])

#: modules that run what a file asks for: named in the room only
READERS = {"pickle", "_pickle", "cPickle", "pickletools", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
#: calls that read weights by other means
CALLS = {"paddle.load", "paddle.framework.io.load", "torch.load", "torch.hub.load", "torch.jit.load", "pickle.load",
         "pickle.loads", "pickle.Unpickler"}
#: the same under whatever name their module has
ENDINGS = {"load_file", "safe_open", "deserialize", "load_state_dict_from_url", "load_state_dict_from_path"}
#: what the room itself may do, by file
ALLOWED = {"torch_reader.py": {"torch.load"}, "foreign.py": {"safe_open", "deserialize"}}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").split(".")[0])
    return names


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]


def reads(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name in ("np.load", "numpy.load"):
        return len(call.args) > 2 or any(word.arg is None or word.arg == "allow_pickle" and
                                         ast.unparse(word.value) != "False" for word in call.keywords)
    return name in CALLS or name.rpartition(".")[2] in ENDINGS


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_weights_are_read_in_one_room(path):
    found = {ast.unparse(call.func) for call in calls(path) if reads(call)}
    if ROOM in path.parents:
        assert found <= ALLOWED.get(path.name, set())
    else:
        assert not found, "go through beitv2_core.weights.reading.foreign.read_tensors"
        assert not imported(path) & READERS, "go through beitv2_core.weights"


def test_torch_reads_weights_only():
    loads = [call for call in calls(ROOM / "reading/torch_reader.py") if ast.unparse(call.func) == "torch.load"]
    assert loads and all(any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in call.keywords)
                         for call in loads)


@pytest.mark.parametrize("code, found", [
    ("paddle.load(path)", True), ("pickle.loads(data)", True), ("torch.load(path, weights_only=True)", True),
    ("np.load(path, allow_pickle=True)", True), ("np.load(path, **options)", True), ("np.load(path, None, True)", True),
    ("safetensors.numpy.load_file(path)", True), ("np.load(path)", False),
    ("np.load(path, allow_pickle=False)", False), ("yaml.safe_load(text)", False)])
def test_the_search_finds_what_it_is_for(code, found):
    assert reads(ast.parse(code, mode="eval").body) is found
