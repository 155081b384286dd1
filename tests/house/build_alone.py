"""Build each package's wheel, install it alone into a clean environment, and run its own tests there (`make build`)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OWNERS = {"beitv2-core": "beitv2_core", "beitv2-cls": "beitv2_cls", "beitv2-seg": "beitv2_seg"}


def parity_tests(module: str) -> list[str]:
    """The parity tests of a package: those that import it, and no package above core for core's own."""
    found = []
    for path in sorted((ROOT / "tests/parity").glob("test_*.py")):
        text = path.read_text()
        adapters = [name for name in ("beitv2_cls", "beitv2_seg") if f"from {name}" in text]
        if adapters == ([] if module == "beitv2_core" else [module]):
            found.append(path.relative_to(ROOT).as_posix())
    return found


OWN_TESTS = {package: [f"tests/{package.rsplit('-', 1)[1]}", *parity_tests(module)]
             for package, module in OWNERS.items()}


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT)


def main(paddle_version: str) -> None:
    pins = ["numpy<2", "protobuf<7", "setuptools"] if paddle_version.startswith("2.") else []
    with tempfile.TemporaryDirectory() as folder:
        wheels = Path(folder) / "wheels"
        for package in OWN_TESTS:
            run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", wheels, f"packages/{package}")
        for package, tests in OWN_TESTS.items():
            home = Path(folder) / package
            venv.create(home, with_pip=True)
            python = home / "bin" / "python"
            run(python, "-m", "pip", "install", "--quiet", "--find-links", wheels, f"{package}[cpu,test]",
                f"paddlepaddle=={paddle_version}", *pins)
            run(python, "-m", "pytest", "-m", "not slow", *tests)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "3.3.1")
