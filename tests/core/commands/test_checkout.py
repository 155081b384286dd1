# SPDX-License-Identifier: Apache-2.0
"""Scripts of a checkout run with the checkout's own package, from any folder, whatever else is installed. No Paddle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import beitv2_core
from beitv2_core.commands.checkout import Project
from beitv2_core.errors import ConfigError

TOY = Project("Toy", package="toykit", sign="core/engine.py", scripts=("train.py", "eval.py"), url="https://toy.example")
RUN = f"from beitv2_core.commands.checkout import Project; {TOY!r}.run(lambda script: None, 'ours')"
SCRIPT = """
import json, os, sys
import toykit.core.engine
print(json.dumps({"package": os.path.realpath(toykit.__file__), "name": __name__, "arguments": sys.argv[1:],
                  "file": os.path.realpath(__file__), "main": os.path.realpath(sys.argv[0])}))
"""
SHADOW = "raise ImportError('attempted relative import with no known parent package')\n"


def write_checkout(root: Path) -> Path:
    """A source tree whose root holds files that shadow an installed package of other names."""
    for name, text in {"toykit/__init__.py": "from . import core\n", "toykit/core/__init__.py": "",
                       "toykit/core/engine.py": "", "tools/__init__.py": "", "tools/train.py": SCRIPT,
                       "tools/eval.py": SCRIPT, "__init__.py": SHADOW, "toy.py": SHADOW, "setup.py": SHADOW,
                       "hubconf.py": SHADOW}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def start(folder: Path, *arguments: object, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Our entry point, started as `python -m` does it: the working folder first on the path."""
    source = str(Path(beitv2_core.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), source])}
    return subprocess.run([sys.executable, "-c", RUN, *map(str, arguments)], cwd=folder, env=environment, text=True,
                          capture_output=True, timeout=120)


def told(folder: Path, *arguments: object, path: tuple[Path, ...] = ()) -> dict:
    done = start(folder, *arguments, path=path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("folder", "script"), [
    (".", "clones/Toy/tools/train.py"), ("clones", "Toy/tools/train.py"), ("clones/Toy", "tools/train.py"),
    ("clones/Toy/tools", "train.py"), ("clones/Toy/toykit", "../tools/train.py"),
    ("elsewhere", "../linked/tools/train.py"), ("elsewhere", "one_link.py")])
def test_a_script_runs_from_every_folder_and_through_links(tmp_path, folder, script):
    root = write_checkout(tmp_path / "clones/Toy")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked").symlink_to(root)
    (tmp_path / "elsewhere/one_link.py").symlink_to(root / "tools/train.py")
    found = told(tmp_path / folder, script, "-c", "a.yml")
    tool = str(root / "tools/train.py")
    assert found == {"package": str(root / "toykit/__init__.py"), "name": "__main__", "arguments": ["-c", "a.yml"],
                     "file": tool, "main": tool}


def test_a_tree_of_links_counts_as_the_checkout_it_looks_like(tmp_path):
    root, store = write_checkout(tmp_path / "Toy"), tmp_path / "store"
    store.mkdir()
    for number, path in enumerate(sorted(root.rglob("*.py"))):
        path.rename(store / f"{number}.py")
        path.symlink_to(store / f"{number}.py")
    links = {path: path.resolve() for path in root.rglob("*.py")}
    found = told(tmp_path, "Toy/tools/eval.py")
    assert found["package"] == str(links[root / "toykit/__init__.py"])


def test_the_scripts_own_package_wins_over_every_other_one(tmp_path):
    root, other = write_checkout(tmp_path / "Toy"), write_checkout(tmp_path / "older")
    site = tmp_path / "site"
    (site / "toykit").mkdir(parents=True)
    (site / "toykit/__init__.py").write_text("raise RuntimeError('the installed one')\n")
    for folder in (tmp_path, other, site, root):
        found = told(folder, root / "tools/train.py", path=(other, site))
        assert found["package"] == str(root / "toykit/__init__.py")


def test_a_package_that_is_imported_already_is_named(tmp_path):
    root, other = write_checkout(tmp_path / "Toy"), write_checkout(tmp_path / "older")
    (tmp_path / "sitecustomize.py").write_text("import toykit\n")
    done = start(tmp_path, root / "tools/train.py", path=(other, tmp_path))
    assert done.returncode != 0 and f"already imported from {other / 'toykit'}" in done.stderr


def test_what_is_missing_is_named_with_what_to_type(tmp_path):
    root = write_checkout(tmp_path / "Toy")
    (root / "toykit/core/engine.py").write_text("import skimage_of_nobody.io\n")
    done = start(tmp_path, root / "tools/train.py")
    assert "pip install skimage_of_nobody" in done.stderr and f"-r {root}/requirements.txt" in done.stderr
    (root / "toykit/__init__.py").write_text("from . import cor\nimport toykit.lost\n")
    (root / "toykit/cor.py").write_text("")
    done = start(tmp_path, root / "tools/train.py")
    assert "toykit.lost is missing: the checkout is incomplete" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("module", "package"), [("cv2", "opencv-python"), ("skimage", "scikit-image"),
                                                 ("yaml", "PyYAML"), ("tqdm", "tqdm")])
def test_pip_is_told_the_name_it_knows(module, package):
    from beitv2_core.commands.checkout import missing_package

    error = missing_package(ModuleNotFoundError(f"No module named {module!r}", name=f"{module}.part"), "Toy")
    assert str(error).endswith(f"pip install {package}")


def test_a_path_that_is_no_script_of_a_checkout_is_named(tmp_path):
    root = write_checkout(tmp_path / "Toy")
    for path in (root, root / "tools/trian.py"):
        with pytest.raises(ConfigError, match="no such file; expected TOY/tools/ with one of train.py, eval.py"):
            TOY.checkout_of(path)
    (root / "tools/other.py").write_text("")
    (tmp_path / "train.py").write_text("")
    for path in (root / "tools/other.py", tmp_path / "train.py"):
        with pytest.raises(ConfigError, match="not a script of a Toy checkout.*git clone https://toy.example"):
            TOY.checkout_of(path)
