"""Small source trees in the shape of PaddleClas's and PaddleSeg's checkouts, and our entry points run on them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

#: a sitecustomize.py: what is installed under this name cannot be found, as if it were not
HIDE = """
import importlib.machinery
finder = importlib.machinery.PathFinder
find = finder.find_spec
def find_spec(name, path=None, target=None):
    spec = find(name, path, target)
    return None if spec is not None and name == {name!r} and "site-packages" in str(spec.origin) else spec
finder.find_spec = find_spec
"""


def write_files(root: Path, files: Mapping[str, str]) -> Path:
    """{path: text} as files below `root`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def start(folder: Path, *arguments: object, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in that folder; path: what PYTHONPATH begins with."""
    known = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "",
                   "PYTHONPATH": os.pathsep.join([*map(str, path), *([known] if known else [])])}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=folder, env=environment, text=True,
                          capture_output=True, timeout=240)


def told(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of a run that ended well."""
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-1]
