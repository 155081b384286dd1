# SPDX-License-Identifier: Apache-2.0
"""The two Dockerfiles: hadolint finds nothing, what they copy and install is there, both make the same program."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

pytest.importorskip("dockerfile_parse", reason="`make setup` installs dockerfile-parse")
ROOT = Path(__file__).resolve().parents[2]
_SPEC = importlib.util.spec_from_file_location("image_steps", ROOT / "tests/house/image_steps.py")
image_steps = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(image_steps)
FILES = pytest.mark.parametrize("file", image_steps.FILES, ids=lambda path: path.name)
#: stands for every program of an image: what it is asked to do goes to a file
PROGRAM = """#!/bin/sh
echo "$(basename "$0") $*" >> "$CALLS"
case "$*" in "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/pip"; cp "$0" "$3/bin/beitv2";; esac
"""


@FILES
def test_hadolint_finds_nothing(file):
    hadolint = shutil.which("hadolint") or str(Path(sys.executable).with_name("hadolint"))
    if not Path(hadolint).exists():
        pytest.skip("`make setup` installs hadolint")
    done = subprocess.run([hadolint, "--no-color", file], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout == "", done.stdout


@FILES
def test_the_steps_copy_install_and_start_what_is_there(file, tmp_path, monkeypatch):
    for name in ("pip", "python3", "beitv2"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(PROGRAM)
        program.chmod(0o755)
    calls, root = tmp_path / "calls", tmp_path / "root"
    root.mkdir()
    image_steps.run_in_folder(file.read_text(), root, {"PATH": f"{program.parent}:/usr/bin:/bin", "CALLS": str(calls)})
    ran = [shlex.split(line) for line in calls.read_text().splitlines()]
    (wheels,) = [line for line in ran if line[:2] == ["pip", "wheel"]]
    for folder in [word for word in wheels if word.startswith("./")]:
        assert (root / "src" / folder / "pyproject.toml").is_file()
    (installed,) = [line for line in ran if line[:2] == ["pip", "install"]]
    assert installed[installed.index("--find-links") + 1] == wheels[wheels.index("--wheel-dir") + 1]
    for package, extras in re.findall(r"(beitv2-\w+)\[([^]]+)\]", " ".join(installed)):
        known = tomllib.loads((ROOT / f"packages/{package}/pyproject.toml").read_text())["project"]
        assert set(extras.split(",")) <= set(known["optional-dependencies"]), package
    assert ran[-1] == ["beitv2", "--help"]
    assert (root / "beitv2/configs/pretrain/digit_scenes.yml").is_file() and (root / "beitv2/LICENSE").is_file()
    assert (root / "src/configs/seg/own_data.yml").is_file()  # the wheel of beitv2-seg holds them


def test_both_images_hold_the_same_and_the_makefiles_paddle():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    paddle = re.search(r"^PADDLE \?= (.+)$", makefile, re.MULTILINE)[1]
    index = re.search(r"(https://www\.paddlepaddle[^)]*?cu)\$\(CUDA\)/", makefile)[1]
    cuda = re.search(r"^CUDA \?= (\d+)$", makefile, re.MULTILINE)[1]
    cpu, gpu = (file.read_text(encoding="utf-8") for file in image_steps.FILES)
    assert f"ARG PADDLE={paddle}\n" in cpu and f"ARG PADDLE={paddle}\n" in gpu
    assert f"ARG GPU_INDEX={index}{cuda}/\n" in gpu and f"nvidia/cuda:{cuda[:2]}.{cuda[2:]}." in gpu
    ends = [text[text.index("COPY configs /beitv2/configs"):] for text in (cpu, gpu)]
    assert ends[0] == ends[1]
    installs = [re.search(r'"beitv2-core\[.+\n', text)[0].replace("[gpu,", "[cpu,") for text in (cpu, gpu)]
    assert installs[0] == installs[1]


def test_what_is_not_sent_to_the_builder_cannot_be_copied(tmp_path):
    with pytest.raises(SystemExit, match="Add !runs"):
        image_steps.run_in_folder("FROM x\nCOPY runs /beitv2/runs\n", tmp_path, {"PATH": "/bin"})
