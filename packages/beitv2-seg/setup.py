# SPDX-License-Identifier: Apache-2.0
"""Take the YAML files of the repository's configs/seg into the source archive and the wheel, as beitv2_seg/configs.

A source archive has no configs/seg beside it: it holds the files inside the package already, and the wheel that is made
of it takes them from there.  An editable install reads configs/seg itself (`beitv2_seg.config.PACKAGED`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
REPOSITORY, ARCHIVED = HERE.parents[1] / "configs" / "seg", HERE / "src" / "beitv2_seg" / "configs"


def copy_configs(target: Path) -> None:
    """Copy the YAML files to the new folder `target`; FileNotFoundError where there are none to copy."""
    files = sorted((REPOSITORY if REPOSITORY.is_dir() else ARCHIVED).glob("*.yml"))
    if not files:
        raise FileNotFoundError(f"no YAML files in {REPOSITORY} or {ARCHIVED}. Build from a whole checkout of the "
                                "repository, or from a source archive of beitv2-seg.")
    target.mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, target / file.name)


class WithConfigs(build_py):
    """The package with its YAML files; an editable install needs no copies."""

    def run(self) -> None:
        super().run()
        if not getattr(self, "editable_mode", False):
            copy_configs(Path(self.build_lib) / "beitv2_seg" / "configs")


class ArchiveWithConfigs(sdist):
    """The source archive with the YAML files inside the package."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        copy_configs(Path(base_dir) / "src" / "beitv2_seg" / "configs")


setup(cmdclass={"build_py": WithConfigs, "sdist": ArchiveWithConfigs})
