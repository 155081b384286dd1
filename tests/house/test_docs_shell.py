# SPDX-License-Identifier: Apache-2.0
"""Every command line that a document shows is one of the real command line: names, options, settings, files."""

from __future__ import annotations

import re
import shlex
import typing

import pytest
import typer
from docs_pages import FENCE, ROOT, SHELL, WRITTEN, blocks, name_of, shell_lines

from beitv2_core import cli
from beitv2_core.config import config_kinds, explain_config
from beitv2_seg import flags as segment_flags

GROUP = typer.main.get_command(cli.app)
FLAGS = {"train": segment_flags.train_flags, "evaluate": segment_flags.evaluate_flags,
         "predict": segment_flags.predict_flags, "export": segment_flags.export_flags,
         "compare": segment_flags.compare_flags}


def command_lines(path) -> list[str]:
    """The lines of the shell blocks that call `beitv2` or train.py, from that word on."""
    lines = [line for language, code in blocks(path) if language in SHELL for line in shell_lines(code)]
    found = (re.search(r"(?:^|[ (])(beitv2|train\.py)\)? (?!=)(.*)", line) for line in lines)
    return [f"{one[1]} {one[2]}" for one in found if one]


SHOWN = [pytest.param(path, line, id=f"{name_of(path)}: {line[:60]}") for path in WRITTEN
         for line in command_lines(path)]


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
    for path in WRITTEN:
        prose = FENCE.sub("", path.read_text(encoding="utf-8"))
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


#: command -> kinds of the settings that its --set changes
KINDS = {"train-tokenizer": ["tokenizer"], "pretrain": ["pretrain", "two_stages"], "finetune": ["finetune"],
         "compare": ["finetune"], "linear-probe": ["linear_probe"]}


def is_setting(kind: str, key: str) -> bool:
    """Whether a kind of settings file has a dotted key; below a key of free form any is one."""
    model = config_kinds()[kind]
    for part in key.split("."):
        fields = getattr(model, "model_fields", None)
        if fields is None:
            return True
        if part not in fields:
            return False
        inside = [one for one in (fields[part].annotation, *typing.get_args(fields[part].annotation))
                  if hasattr(one, "model_fields")]
        model = inside[0] if inside else None
    return True


def test_settings_of_commands_named_in_the_text_are_settings():
    wrong, found = [], 0
    for path in WRITTEN:
        for line in re.findall(r"`beitv2 ([a-z][^`]*)`", FENCE.sub("", path.read_text(encoding="utf-8"))):
            command, *words = line.split()
            for key in [word.partition("=")[0] for word in words if re.match(r"[a-z_.]+=", word)]:
                found += 1
                if not any(is_setting(kind, key) for kind in KINDS.get(command, ())):
                    wrong.append(f"{path.name}: beitv2 {line}: {key}")
    assert wrong == [] and found > 3


@pytest.mark.parametrize("kind, key, there", [
    ("finetune", "pretrained.weights", True), ("finetune", "model.backbone.pretrained", False),
    ("tokenizer", "teacher.options.block", True), ("two_stages", "pretrain.model.width", True)])
def test_settings_are_told_from_other_words(kind, key, there):
    assert is_setting(kind, key) is there


def test_documents_show_commands():
    assert len(SHOWN) > 25
