# SPDX-License-Identifier: Apache-2.0
"""Build each package, install its wheel alone into a clean environment, and run its own fast tests there.

    python build_alone.py PADDLE                        every package, with declared dependencies only; wheels, source
                                                        archives and the notes of the release go to dist/ (`make build`)
    python build_alone.py PADDLE --smoke                the same with core's smoke tests only, for machines that run all
                                                        of them elsewhere (`make build BUILD=--smoke`)
    python build_alone.py --untested                    the same files without the tests (`make wheels`)
    python build_alone.py PADDLE --oldest --python PY   core, with the lowest versions it declares (`make test-oldest`)
"""

from __future__ import annotations

import argparse
import email
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pythons import SMOKE

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
OWNERS = {"beitv2-core": "beitv2_core", "beitv2-cls": "beitv2_cls", "beitv2-seg": "beitv2_seg"}
#: package -> folder of the repository whose files it holds as `configs`
CONFIGS = {"beitv2-seg": "configs/seg"}


def parity_tests(module: str) -> list[str]:
    """The parity tests of a package: those that import it, and no package above core for core's own."""
    found = []
    for path in sorted((ROOT / "tests/parity").glob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        adapters = [name for name in ("beitv2_cls", "beitv2_seg") if f"from {name}" in text]
        if adapters == ([] if module == "beitv2_core" else [module]):
            found.append(path.relative_to(ROOT).as_posix())
    return found


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


def _in_git(folder: Path) -> list[str]:
    return subprocess.check_output(["git", "ls-files", "."], cwd=folder, text=True).split()


def files_of(package: str) -> list[str]:
    """What wheel and source archive must hold, below `src/`: the files that git knows there, and those of CONFIGS."""
    files = _in_git(ROOT / "packages" / package / "src")
    if package not in CONFIGS:
        return files
    configs = _in_git(ROOT / CONFIGS[package])
    return [*files, *(f"{OWNERS[package]}/configs/{name}" for name in configs)]


def build(package: str, folder: Path) -> Path:
    """The wheel of a package, made from its source archive; both must hold every file of `files_of`."""
    done = subprocess.run([sys.executable, "-m", "build", "--outdir", folder, ROOT / "packages" / package], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(done.stdout)
    module = OWNERS[package]
    (wheel,), (archive,) = folder.glob(f"{module}-*.whl"), folder.glob(f"{module}-*.tar.gz")
    with zipfile.ZipFile(wheel) as opened, tarfile.open(archive) as tar:
        inside = {wheel: set(opened.namelist()), archive: {name.split("/src/")[-1] for name in tar.getnames()}}
    for file, names in inside.items():
        missing = sorted(set(files_of(package)) - names)
        if missing:
            raise SystemExit(f"{file.name} lacks {', '.join(missing)}: see {package}/pyproject.toml and its setup.py")
    return wheel


def lowest(wheel: Path) -> list[str]:
    """The lowest version of everything a wheel declares, extras included, as constraints of pip."""
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [name for name in opened.namelist() if name.endswith(".dist-info/METADATA")]
        about = email.message_from_bytes(opened.read(name))
    bounds = [re.match(r"([\w.-]+)(?:\[[^]]*\])?>=([\d.]+)", one.replace(" ", "")) for one in
              about.get_all("Requires-Dist", [])]
    return [f"{found[1]}=={found[2]}" for found in bounds if found]


def notes(changelog: str, version: str) -> str:
    """The text of CHANGELOG.md about a version: its own section, or what is not released yet."""
    sections = dict(re.findall(r"^## \[([^]]+)\][^\n]*\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL))
    text = sections.get("Unreleased", "").strip() or sections.get(version, "").strip()
    if not text:
        raise SystemExit(f"CHANGELOG.md: neither [Unreleased] nor [{version}] says anything. Write what changed.")
    return f"# BEiT v2 for PaddlePaddle {version}\n\n{text}\n"


def deliver(built: Path, target: Path) -> list[Path]:
    """Put wheels, source archives and RELEASE_NOTES.md into a folder, in place of those of an earlier build."""
    target.mkdir(parents=True, exist_ok=True)
    for old in [path for name in OWNERS.values() for path in target.glob(f"{name}-*")]:
        old.unlink()
    left = [Path(shutil.copy(path, target)) for path in sorted(built.iterdir())]
    version = left[0].name.split("-")[1].replace(".tar.gz", "")
    written = target / "RELEASE_NOTES.md"
    written.write_text(notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version), encoding="utf-8")
    return [*left, written]


def check_together(built: Path, home: Path) -> None:
    """`pip install` of all wheels, then of all source archives, into an environment that has what they need."""
    python = home / "bin/python"
    run(python, "-m", "pip", "install", "--quiet", *sorted(built.glob("*.whl")))
    run(python, "-m", "pip", "check")
    run(python, "-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall", *sorted(built.glob("*.tar.gz")))
    run(home / "bin/beitv2", "--version")


def check_alone(package: str, wheels: Path, home: Path, python: str, paddle: str, constraints: list[str],
                tests: Sequence[str]) -> None:
    """A package's fast tests, in an environment that holds it and what it declares."""
    pins = ["numpy<2", "protobuf<7", "setuptools"] if paddle.startswith("2.") else []
    run(python, "-m", "venv", home)
    run(home / "bin/python", "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    limits = home / "constraints.txt"
    limits.write_text("\n".join(constraints), encoding="ascii")
    run(home / "bin/python", "-m", "pip", "install", "--quiet", "--find-links", wheels, "--constraint", limits,
        f"{package}[cpu,test]", f"paddlepaddle=={paddle}", *pins)
    run(home / "bin/python", "-m", "pytest", "-m", "not slow and not peers", "-p", "no:cacheprovider", *tests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paddle", nargs="?", default="3.3.1")
    parser.add_argument("--oldest", action="store_true", help="core alone, with the lowest versions it declares")
    parser.add_argument("--smoke", action="store_true", help="of core's tests those that stand for its rooms")
    parser.add_argument("--untested", action="store_true", help="leave the archives in dist/ without testing them")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the clean environments")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        built = {package: build(package, wheels) for package in (["beitv2-core"] if options.oldest else OWNERS)}
        for package, wheel in ({} if options.untested else built).items():
            constraints = [*lowest(wheel), f"paddlepaddle=={options.paddle}"] if options.oldest else []
            constraints = [one for one in constraints if not one.startswith("paddlepaddle-gpu")]
            tests = [f"tests/{package.rsplit('-', 1)[1]}", *([] if constraints else parity_tests(OWNERS[package]))]
            if options.smoke and package == "beitv2-core":
                tests = list(SMOKE)
            check_alone(package, wheels, Path(folder) / package, options.python, options.paddle, constraints, tests)
        if not options.oldest:
            if not options.untested:
                check_together(wheels, Path(folder) / "beitv2-seg")
            for path in deliver(wheels, DIST):
                print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
