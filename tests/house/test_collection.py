# SPDX-License-Identifier: Apache-2.0
"""No test is passed over: every test file is collected, nothing is empty, nothing is skipped without a reason."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEERS = {"torch", "timm", "transformers", "safetensors.torch"}


def listed() -> list[str]:
    """Test files that git knows."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nobody lists the test files")
    found = subprocess.run(["git", "ls-files", "--", "tests/test_*.py", "tests/**/test_*.py"], cwd=ROOT, check=True,
                           capture_output=True, text=True).stdout.split()
    return [name for name in found if (ROOT / name).exists()]


@pytest.fixture(scope="module")
def collected(tmp_path_factory) -> dict[str, int]:
    """Tests that plain `pytest` and `pytest tests/faults` collect, by file."""
    path = tmp_path_factory.mktemp("collected") / "files.json"
    found: dict[str, int] = {}
    for arguments in ([], ["tests/faults"]):
        done = subprocess.run([sys.executable, "-m", "pytest", "--collect-only", "-p", "collecting", *arguments],
                              cwd=ROOT, capture_output=True, text=True, timeout=300,
                              env={**os.environ, "COLLECTED": str(path), "PYTHONPATH": os.pathsep.join(
                                  [str(ROOT / "tests/house"), os.environ.get("PYTHONPATH", "")])})
        assert done.returncode == 0, done.stdout + done.stderr
        found |= json.loads(path.read_text())
    return found


def test_every_test_file_is_collected_and_has_tests(collected):
    missing = set(listed()) - set(collected)
    assert not missing, "no `make` target collects these"
    assert not [name for name, tests in collected.items() if not tests]


@pytest.fixture
def run(tmp_path):
    """Run pytest, with the project's settings and conftest, on files written to `tests/` of another folder."""
    tests = tmp_path / "tests"
    tests.mkdir()
    for name in ("pyproject.toml", "tests/conftest.py", "tests/goldens"):
        (tmp_path / name).symlink_to(ROOT / name)

    def result(files: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
        for name, code in files.items():
            (tests / name).parent.mkdir(exist_ok=True)
            (tests / name).write_text(code)
        return pytest_of_ours(tmp_path, "tests", *arguments)
    return result


def pytest_of_ours(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    paths = [str(ROOT / "tests/parity"), os.environ.get("PYTHONPATH", "")]
    return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments], cwd=folder, text=True,
                          capture_output=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))})


def test_no_name_of_a_folder_hides_tests(run):
    files = {f"{name}/test_x.py": "def test_x(): pass" for name in ("build", "dist", "venv", "node_modules", "CVS")}
    assert run(files).stdout.splitlines()[-1].startswith("5 passed")


def test_a_parametrisation_with_nothing_in_it_fails(run):
    done = run({"test_x.py": "import pytest\n@pytest.mark.parametrize('x', [])\ndef test_x(x): pass"})
    assert done.returncode and "empty parameter set" in done.stdout.lower()


def test_a_skip_without_a_reason_fails(run):
    bare = ["@pytest.mark.skip\ndef test_x(): pass", "def test_x(): pytest.skip()",
            "pytest.skip(allow_module_level=True)"]
    files = {f"test_{i}.py": f"import pytest\n{code}" for i, code in enumerate(bare)}
    done = run(files, "--continue-on-collection-errors")
    assert done.returncode == 1 and done.stdout.count("skipped without a reason") == 3
    last = done.stdout.splitlines()[-1]
    assert "1 failed" in last and "2 errors" in last and "skipped" not in last


def test_reasons_are_told_at_the_end_and_no_skips_refuses_them(run):
    told = ["@pytest.mark.skip(reason='no moon')\ndef test_x(): pass", "def test_x(): pytest.skip('no moon')",
            "pytest.importorskip('moon_of_no_package', reason='no moon')"]
    files = {f"test_{i}.py": f"import pytest\ndef test_y(): pass\n{code}" for i, code in enumerate(told)}
    done = run(files)
    *_, first, second, third, last = done.stdout.splitlines()
    assert done.returncode == 0 and all("no moon" in line for line in (first, second, third))
    assert last.startswith("2 passed, 3 skipped")
    done = run(files, "--no-skips", "--continue-on-collection-errors")
    last = done.stdout.splitlines()[-1]
    assert done.returncode == 1 and "1 failed, 2 passed" in last and "2 errors" in last


def test_our_own_code_calls_nothing_that_is_on_its_way_out(run):
    code = """
import warnings
import pytest

@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize("module", ["beitv2_core.layers.block", "beitv2_cls", "beitv2_seg.model.heads", "numpy"])
def test_x(module, category):
    warnings.warn_explicit("old", category, "file.py", 1, module=module)
"""
    assert run({"test_x.py": code}).stdout.splitlines()[-1].startswith("9 failed, 3 passed")


def test_goldens_that_hold_nothing_are_refused(tmp_path):
    for folder, said in ((tmp_path / "nowhere", "no such folder"), (tmp_path, "nothing would be compared")):
        done = pytest_of_ours(ROOT, "tests/parity/test_schedules.py", "--goldens", str(folder))
        assert done.returncode and said in done.stderr and str(folder) in done.stderr
    (tmp_path / "other.json").write_text("{}")
    done = pytest_of_ours(ROOT, "tests/parity/test_schedules.py", "--goldens", str(tmp_path))
    assert done.returncode and "other.json" in done.stderr


def test_a_fixture_alone_in_a_folder_is_compared_and_the_others_are_told_absent(tmp_path):
    for suffix in (".json", ".npz"):
        (tmp_path / f"schedules{suffix}").symlink_to(ROOT / f"tests/goldens/schedules{suffix}")
    both = [str(ROOT / f"tests/parity/test_{name}.py") for name in ("mixup", "convert", "convert_torch")]
    done = pytest_of_ours(ROOT, "tests/parity/test_schedules.py", *both, "--goldens", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout and f"{tmp_path} holds no mixup" in done.stdout


def test_a_fixture_without_its_arrays_fails(tmp_path):
    (tmp_path / "schedules.json").symlink_to(ROOT / "tests/goldens/schedules.json")
    done = pytest_of_ours(ROOT, "tests/parity/test_schedules.py", "--goldens", str(tmp_path))
    assert done.returncode and "schedules.npz is not beside it" in done.stdout


def test_what_needs_a_peer_is_marked_for_the_environment_that_has_it():
    """A peer is needed by what asks for it itself, or through a fixture of tests/conftest.py that does."""
    def asks(node: ast.AST) -> bool:
        return any(isinstance(one, ast.Call) and ast.unparse(one.func) == "pytest.importorskip"
                   and getattr(one.args[0], "value", None) in PEERS for one in ast.walk(node))

    def decorated(node: ast.AST, mark: str) -> bool:
        return any(mark in ast.unparse(one) for one in getattr(node, "decorator_list", []))

    def parsed(path: Path) -> list[ast.stmt]:
        return ast.parse(path.read_text(encoding="utf-8")).body

    fixtures = {node.name for node in parsed(ROOT / "tests/conftest.py")
                if isinstance(node, ast.FunctionDef) and asks(node) and decorated(node, "pytest.fixture")}

    def needs(node: ast.AST) -> bool:
        named = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)}
        named |= {one.arg for one in ast.walk(node) if isinstance(one, ast.arg)}
        return asks(node) or bool(fixtures & named)

    found = 0
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        body = parsed(path)
        whole = any("mark.peers" in ast.unparse(one) for one in body
                    if isinstance(one, ast.Assign) and ast.unparse(one.targets[0]) == "pytestmark")
        for node in filter(needs, body):
            assert whole or decorated(node, "mark.peers"), f"{path}, line {node.lineno}: needs @pytest.mark.peers"
            found += 1
    assert fixtures and found >= 5
