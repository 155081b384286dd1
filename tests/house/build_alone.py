"""Build each package's wheel, install it alone into a clean environment, and run its own tests there (`make build`)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLASSIFIER = "tests/parity/test_finetune.py"
OWN_TESTS = {"beitv2-core": ["tests/core", "tests/parity", f"--ignore={CLASSIFIER}"],
             "beitv2-cls": ["tests/cls", CLASSIFIER], "beitv2-seg": ["tests/seg"]}


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
