# SPDX-License-Identifier: Apache-2.0
"""The command line: fast to start, clear when something is wrong."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from beitv2_core import cli
from beitv2_core.errors import DataError, NonFiniteLossError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
runner = CliRunner()


def run(*arguments, **options):
    return runner.invoke(cli.app, [str(argument) for argument in arguments], **options)


def shown(result) -> str:
    """Output and errors, whichever stream this version of click puts them on."""
    try:
        return result.output + result.stderr
    except ValueError:
        return result.output


def test_help_lists_every_command_and_loads_no_paddle():
    code = (
        "import sys, beitv2_core.cli as cli\n"
        "try:\n    cli.app(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "assert 'paddle' not in sys.modules, 'paddle was loaded'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("train-tokenizer", "pretrain", "tokenize", "codebook", "report", "inspect", "config"):
        assert command in done.stdout


def test_help_shows_every_sentence_of_every_command_as_it_is_written(monkeypatch):
    monkeypatch.setenv("COLUMNS", "4000")
    with_brackets = 0
    for info in cli.app.registered_commands:
        shows = words_of(run(info.name or info.callback.__name__.replace("_", "-"), "--help").output)
        texts = [info.callback.__doc__, *(parameter.default.help for parameter in
                                          inspect.signature(info.callback).parameters.values())]
        for text in texts:
            assert words_of(text or "") in shows, info.callback
            with_brackets += "[" in (text or "")
    assert with_brackets > 2


def words_of(text: str) -> str:
    """A text without its frame, its lines as one."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def test_version_names_packages_paddle_and_python():
    result = run("--version")
    assert result.exit_code == 0
    named = [line.split()[0] for line in result.output.splitlines()]
    assert named[0] == "beitv2-core" and named[-1] == "Python" and any("paddlepaddle" in name for name in named)


def test_config_prints_yaml_that_reads_back_with_the_source_of_each_value():
    result = run("config", CONFIGS / "tokenizer/digit_scenes.yml", "--set", "seed=7", "train.amp=off")
    assert result.exit_code == 0, shown(result)
    tree = yaml.safe_load(result.output)
    assert (tree["seed"], tree["train"]["amp"], tree["teacher"]["name"]) == (7, "off", "hog")
    lines = {line.split(":")[0].strip(): line for line in result.output.splitlines()}
    assert lines["seed"].endswith("# --set")
    assert lines["momentum"].endswith("# default")
    assert lines["dataset"].endswith("_base_/digit_scenes.yml")
    assert lines["unquantized_steps"].endswith("tokenizer/digit_scenes.yml")


def test_config_marks_the_values_that_have_to_be_given():
    result = run("config", CONFIGS / "pretrain/base_300e.yml")
    assert "required: --set data.root=..." in result.output
    assert "required: --set tokenizer.weights=..." in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrain", CONFIGS / "pretrain/base_300e.yml"], "data.root: required, and there is no default"),
        (["pretrain", CONFIGS / "gone.yml"], "gone.yml: cannot be read"),
        (["pretrain", CONFIGS / "tokenizer/digit_scenes.yml"], "this is a 'tokenizer' config, a 'pretrain' config"),
        (["train-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "optim.lrr=1"], "Did you mean 'lr'?"),
        (["train-tokenizer", CONFIGS / "tokenizer/digit_scenes.yml", "--set", "nonsense"], "expected key=value"),
    ],
)
def test_a_user_error_is_one_message_and_exit_code_2(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in shown(result)
    assert "Traceback" not in shown(result)


@pytest.mark.parametrize(("error", "code"), [(DataError("broken"), 2), (NonFiniteLossError("nan at step 3"), 1)])
def test_errors_made_on_purpose_have_an_exit_code(monkeypatch, error, code):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("beitv2_core.config.explain_config", fail)
    result = run("config", "x.yml")
    assert result.exit_code == code
    assert f"error: {error}" in shown(result)


def test_the_debug_variable_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("BEITV2_DEBUG", "1")
    result = run("config", "gone.yml")
    assert result.exception is not None
    assert type(result.exception).__name__ == "ConfigError"


def test_a_missing_paddle_is_one_message_with_the_command_to_type(monkeypatch):
    def fail(*arguments, **options):
        raise ModuleNotFoundError("No module named 'paddle'", name="paddle")

    monkeypatch.setattr("beitv2_core.config.explain_config", fail)
    result = run("config", "x.yml")
    assert result.exit_code == 2
    assert "pip install" in shown(result)


def test_other_packages_add_commands_and_a_broken_one_takes_nothing_away(monkeypatch, offer):
    def register(app):
        app.command("greet")(lambda: print("hello"))

    def broken(app):
        raise RuntimeError("half installed")

    offer("beitv2.commands", broken=broken, greeting=register)
    monkeypatch.setattr(cli.app, "registered_commands", list(cli.app.registered_commands))
    cli._add_foreign_commands()
    assert run("greet").output.strip() == "hello"
    assert run("config", "--help").exit_code == 0
