# SPDX-License-Identifier: Apache-2.0
"""Completion of shells: bash, zsh and fish get subcommands, options and files, and soon."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SHELLS = {
    # what a shell is told to print for the words typed so far, TYPED; `beitv2 --install-completion` has run before
    "bash": 'source ~/.bashrc; COMP_WORDS=(TYPED); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _beitv2_completion beitv2; '
            'if [ ${#COMPREPLY[@]} = 0 ]; then complete -p beitv2; else printf "%s\\n" "${COMPREPLY[@]}"; fi',
    "zsh": "compdef() { :; }; _arguments() { print -r -- \"$@\"; }; _files() { print FILES; }; "
           "source ~/.zfunc/_beitv2; words=(TYPED); CURRENT=${#words}; _beitv2_completion",
    "fish": "complete -C 'TYPED'",
}
FILES = {"bash": "-o default", "zsh": "FILES", "fish": "some_images"}  # how it shows that the shell offers files


@pytest.fixture()
def shell(tmp_path, request):
    """A function `offered(words)` of the shell that the test names, with completion installed in a home of its own."""
    name = request.param
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    program = tmp_path / "bin/beitv2"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m beitv2_core.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "some_images").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
    for variable in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "ZDOTDIR", "BASH_ENV"):
        environment.pop(variable, None)

    def run(line):
        done = subprocess.run([name, "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True,
                              timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"{name} completion installed" in run("beitv2 --install-completion; true")
    return lambda words: run(SHELLS[name].replace("TYPED", words if name == "fish" else words.replace("  ", " ''")))


@pytest.mark.parametrize("shell", SHELLS, indirect=True)
def test_a_shell_completes_commands_options_and_files(shell, request):
    name = request.node.callspec.params["shell"]
    commands = shell("beitv2 pre")
    assert "pretrain" in commands and "tokenize" not in commands
    assert "--pairs" in shell("beitv2 duplicates --pa")
    assert FILES[name] in shell("beitv2 pretrain some" if name == "fish" else "beitv2 pretrain  ")


def completed(*words: str, program: tuple[str, ...] = ("-m", "beitv2_core.cli")) -> subprocess.CompletedProcess:
    environment = {**os.environ, "_BEITV2_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words),
                   "COMP_CWORD": str(len(words) - 1)}
    return subprocess.run([sys.executable, *program], env=environment, capture_output=True, text=True,
                          timeout=60)


def seconds_of_a_core(work) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_a_completion_takes_little_more_than_one_of_the_smallest_program(tmp_path):
    """Measured in turns: 0.40 s against 0.33 s of a program of two empty commands (2 cores, Python 3.11)."""
    program = tmp_path / "small.py"
    program.write_text("import typer\napp = typer.Typer()\napp.command('a')(lambda: None)\n"
                       "app.command('b')(lambda: None)\napp(prog_name='beitv2')\n", encoding="utf-8")
    ours, smallest = [], []
    for _ in range(4):
        ours.append(seconds_of_a_core(lambda: completed("beitv2", "embed", "--ba")))
        smallest.append(seconds_of_a_core(lambda: completed("small", "", program=(str(program),))))
    assert min(ours) < 2.5 * min(smallest), (ours, smallest)


def test_the_command_line_starts_without_what_only_commands_need():
    heavy = ("paddle", "numpy", "PIL", "pydantic", "scipy", "matplotlib", "beitv2_core.config", "beitv2_core.data")
    code = f"import sys, beitv2_core.cli; sys.exit(' '.join(one for one in {heavy!r} if one in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.stderr.strip() == ""
