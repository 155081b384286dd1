# SPDX-License-Identifier: Apache-2.0
"""Build the two images with docker or podman; where no builder answers, run their steps in a folder instead.

    python image_steps.py                  both (`make images`)
    python image_steps.py docker/Dockerfile.cpu --in-folder

In a folder everything but the system's own packages and users is carried out: COPY (of what .dockerignore leaves), RUN
of pip in a new virtual environment, ENTRYPOINT with CMD.  For the GPU image the CPU wheel of Paddle stands in.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = (ROOT / "docker/Dockerfile.cpu", ROOT / "docker/Dockerfile.gpu")
#: what needs root or another system
SYSTEMS = ("apt-get", "rm -rf /var", "useradd", "chown")


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, its words) in order, without comments."""
    from dockerfile_parse import DockerfileParser

    parsed = DockerfileParser(fileobj=io.BytesIO(text.encode("utf-8")))
    return [(one["instruction"], one["value"]) for one in parsed.structure if one["instruction"] != "COMMENT"]


def sent(name: str) -> bool:
    """Whether .dockerignore, a list of exceptions from `*`, sends a file or folder at the top to the builder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return f"!{name}" in lines


def clauses(command: str) -> list[str]:
    """The commands of a RUN that a user without root can run, of the image's own wheel of Paddle the CPU one."""
    left = [one.strip() for one in re.split(r"&&", command)]
    left = [one for one in left if not one.startswith(SYSTEMS) and "${GPU_INDEX}" not in one]
    return [one.replace("paddlepaddle-gpu", "paddlepaddle").replace("[gpu,", "[cpu,") for one in left]


def within(text: str, root: Path) -> str:
    """The image's own absolute paths, below `root`."""
    return re.sub(r"(?<![\w./])/(?=(?:wheels|src|beitv2|opt)\b)", f"{root}/", text)


def run_in_folder(text: str, root: Path, environment: dict[str, str]) -> list[str]:
    """Carry out a Dockerfile below `root`; the commands that were run.  CalledProcessError where one fails."""
    ran, place = [], root
    entry: list[str] = []
    for instruction, words in instructions(text):
        if instruction in ("ARG", "ENV"):
            key, _, value = words.partition("=")
            environment[key] = within(value, root).replace("$PATH", environment["PATH"])
        elif instruction == "WORKDIR":
            place = Path(within(words, root))
            place.mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            *sources, target = [one for one in shlex.split(words) if not one.startswith("--")]
            for source in sources if "--from" not in words else ():
                if not sent(source):
                    raise SystemExit(f"COPY {words}: .dockerignore keeps {source} from the builder. Add !{source}.")
                end = Path(within(target, root))
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, end, dirs_exist_ok=True,
                                    ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "build"))
                else:
                    end.mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, end)
        elif instruction == "RUN":
            for command in clauses(words):
                ran.append(within(command, root))
                subprocess.run(["/bin/sh", "-ec", ran[-1]], cwd=place, env=environment, check=True)
        elif instruction in ("ENTRYPOINT", "CMD"):
            entry += json.loads(words)
    ran.append(shlex.join(entry))
    subprocess.run(entry, cwd=place, env=environment, check=True)
    return ran


def try_steps(file: Path) -> None:
    """The steps of an image in a temporary folder, with a virtual environment in place of the system's Python."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        subprocess.run([sys.executable, "-m", "venv", root / "python"], check=True)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment["PATH"] = f"{root / 'python/bin'}{os.pathsep}{environment['PATH']}"
        for command in run_in_folder(file.read_text(encoding="utf-8"), root, environment):
            print(f"ran: {command.replace(str(root), '')}")
    print(f"{file.relative_to(ROOT)}: every step that needs no root ran, in a folder")


def builder() -> str | None:
    """docker or podman, if one of them can build."""
    for name in ("docker", "podman"):
        if shutil.which(name) and not subprocess.run([name, "info"], capture_output=True).returncode:
            return name
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, default=FILES)
    parser.add_argument("--in-folder", action="store_true", help="do not look for a builder")
    options = parser.parse_args()
    found = None if options.in_folder else builder()
    if not found:
        print("no docker or podman answers: the steps run in a folder")
    for file in map(Path.resolve, options.files):
        if found:
            tag = f"beitv2:{file.suffix[1:]}"
            subprocess.run([found, "build", "--file", file, "--tag", tag, ROOT], check=True)
        else:
            try_steps(file)


if __name__ == "__main__":
    main()
