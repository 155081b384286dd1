# SPDX-License-Identifier: Apache-2.0
"""A source checkout of another project: find it from one of its scripts, and run that script unmodified.

The package is imported from the script's own checkout, even where another copy is installed, in the working folder or
on PYTHONPATH.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from beitv2_core.errors import BEiTError, ConfigError, MissingDependencyError
from beitv2_core.runtime import keep_freed_memory

#: module -> what pip calls it, where the two differ
DISTRIBUTIONS = {"cv2": "opencv-python", "faiss": "faiss-cpu", "PIL": "Pillow", "skimage": "scikit-image",
                 "sklearn": "scikit-learn", "yaml": "PyYAML"}


def missing_package(error: ModuleNotFoundError, needed_by: str) -> MissingDependencyError:
    """The error for a package that `needed_by` imports and that is not installed, with the command to install it."""
    module = (error.name or str(error)).split(".")[0]
    return MissingDependencyError(f"{needed_by} needs the module {module!r}, which is not installed. Type: "
                                  f"pip install {DISTRIBUTIONS.get(module, module)}")


@dataclass(frozen=True)
class Project:
    """A project whose checkouts hold `tools/SCRIPT.py` beside the folder `package`.

    sign: a file of `package` by which a checkout is known; url: where it is cloned from.
    """

    name: str
    package: str
    sign: str
    scripts: tuple[str, ...]
    url: str

    def checkout_of(self, script: Path) -> Path:
        """The checkout that a script belongs to, also through links; ConfigError where it belongs to none."""
        home = self.name.upper()
        if not script.is_file():
            raise ConfigError(f"{script}: no such file; expected {home}/tools/ with one of {', '.join(self.scripts)}.")
        for path in (Path(os.path.abspath(script)), script.resolve()):
            root = path.parent.parent
            if path.name in self.scripts and (root / self.package / self.sign).is_file():
                return root
        raise ConfigError(f"{script}: not a script of a {self.name} checkout; expected tools/ with one of "
                          f"{', '.join(self.scripts)} beside {self.package}/{self.sign}. Type: git clone {self.url}")

    def import_from(self, root: Path) -> None:
        """Make `import package` mean the checkout's from now on; ConfigError where another one is imported already."""
        sys.path.insert(0, str(root))
        importlib.invalidate_caches()
        module = importlib.import_module(self.package)
        places = [Path(place).resolve() for place in module.__path__]
        if (root / self.package).resolve() not in places:
            raise ConfigError(f"{root}: {self.package} is already imported from {places[0]}; expected this checkout's. "
                              "Give the script of that one, or remove that one from what Python imports at its start.")

    def run(self, register: Callable[[str], None], module: str) -> None:
        """Run the script that the command line names, with the arguments that are left, as `__main__`.

        register: called with the script's name once the checkout's package is imported; module: ours, for the usage.
        Raises SystemExit with one line for an error that the user can correct.
        """
        if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
            names = ",".join(name[:-len(".py")] for name in self.scripts)
            raise SystemExit(f"usage: python -m {module} {self.name.upper()}/tools/{{{names}}}.py ARGUMENTS")
        keep_freed_memory()
        script = Path(sys.argv[1])
        try:
            root = self.checkout_of(script)
            try:
                self.import_from(root)
                register(script.name)
                self._run(script, sys.argv[2:])
            except ModuleNotFoundError as error:
                raise self._missing(error, root) from error
        except BEiTError as error:
            raise SystemExit(f"error: {error}") from None

    def _run(self, script: Path, arguments: Sequence[str]) -> None:
        sys.argv = [str(script), *arguments]
        runpy.run_path(os.path.abspath(script), run_name="__main__")

    def _missing(self, error: ModuleNotFoundError, root: Path) -> BEiTError:
        name = error.name or ""
        if name.split(".")[0] == self.package:
            return ConfigError(f"{root}: {name} is missing: the checkout is incomplete. Type: git -C {root} status")
        found = missing_package(error, f"{root}: {self.name}")
        return MissingDependencyError(f"{found}, or pip install -r {root}/requirements.txt")
