# SPDX-License-Identifier: Apache-2.0
"""Every command line that a document shows is one of the real command line: names, options, settings, files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from beitv2_core import cli
from beitv2_core.config import explain_config
from beitv2_seg import flags as segment_flags

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/models/*.md"),
                                     *ROOT.glob("packages/*/README.md"))
                   if path.name not in ("commands.md", "api.md", "CHANGELOG.md"))
GROUP = typer.main.get_command(cli.app)
FLAGS = {"train": segment_flags.train_flags, "evaluate": segment_flags.evaluate_flags,
         "predict": segment_flags.predict_flags, "export": segment_flags.export_flags,
         "compare": segment_flags.compare_flags}


def command_lines(text: str) -> list[str]:
    """The lines of the shell blocks that call `beitv2` or train.py, continued lines joined, comments removed."""
    blocks = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = re.sub(r"\\\n\s*", "", "\n".join(blocks)).splitlines()
    found = (re.search(r"(?:^|[ (])(beitv2|train\.py) (?!=)(.*)", line) for line in lines)
    return [f"{one[1]} {re.sub(r'  +#.*', '', one[2])}".strip() for one in found if one]


SHOWN = [pytest.param(path, line, id=f"{path.name}: {line[:60]}") for path in DOCUMENTS
         for line in command_lines(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("path", "line"), SHOWN)
def test_a_command_line_of_a_block_is_accepted(path, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    program, *words = [word for word in shlex.split(line) if word != "..."]
    if words == ["--help"]:
        return
    if program == "train.py":
        words = ["segment", "train", *words]
    if words[0] == "segment":
        assert FLAGS[words[1]](words[2:], "beitv2 segment")
        return
    if words[0] in {name for one in GROUP.params for name in one.opts}:
        return
    command = GROUP.commands[words[0]]
    if words[1:]:  # a line that ends in `...` may leave out what is required
        context = command.make_context(words[0], words[1:])
        config = context.params.get("config") or context.params.get("path")
        if config is not None and str(config).startswith("configs/"):
            explain_config(config, [*(context.params["set_"] or ()), *(context.params["more"] or ())])


def test_commands_named_in_the_text_have_those_options():
    wrong = []
    for path in DOCUMENTS:
        prose = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for line in re.findall(r"`beitv2 ([a-z][^`]*)`", prose):
            words = re.split(r"[\s=|]+", line)
            if words[0] == "segment":
                continue  # its flags are argparse's; the blocks are parsed above
            command = GROUP.commands.get(words[0])
            known = set() if command is None else {name for one in command.params for name in one.opts}
            unknown = [word for word in words if re.fullmatch(r"--[a-z-]+", word) and word not in {*known, "--help"}]
            if command is None or unknown:
                wrong.append(f"{path.name}: beitv2 {line}: {', '.join(unknown) or 'no such command'}")
    assert wrong == []


def test_documents_show_commands():
    assert len(SHOWN) > 25
