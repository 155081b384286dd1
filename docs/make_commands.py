# SPDX-License-Identifier: Apache-2.0
"""Write docs/commands.md, in both languages, from the commands themselves: python docs/make_commands.py

Every sentence of that page is a docstring or a help text; a test compares the page with what this prints.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import typer

import beitv2_cls.__main__
import beitv2_seg.__main__
from beitv2_core import cli
from beitv2_seg.flags import PARSERS

DOCS = Path(__file__).resolve().parent
PAGES = {"en": DOCS / "commands.md", "zh": DOCS / "zh/commands.md"}
OPENINGS = {"en": """# Commands

Generated from the commands by `python docs/make_commands.py`; do not edit. `beitv2 COMMAND --help` prints the same.

`--set KEY=VALUE ...` changes settings of the YAML file; the last one counts. `beitv2 config CONFIG` prints all settings
and where they come from. RUN is a run folder; where a command takes a run it also takes a checkpoint
(`.pdckpt`) or a file of weights ([weights.md](weights.md)). `beitv2 --verbose COMMAND` shows debug messages,
`BEITV2_DEBUG=1` the traceback of an error. Exit codes: 0 done, 1 non-finite loss or failed verification, 2 an error
whose message says what to do, 128 + n stopped by signal n after saving a checkpoint.
""", "zh": """# Commands

本页由 `python docs/make_commands.py` 从命令生成，请勿手工修改。标题与表格中的文字就是命令自己的帮助，
因此保留英文；`beitv2 COMMAND --help` 打印同样的内容。

`--set KEY=VALUE ...` 改变 YAML 文件中的配置项，以最后一次为准。`beitv2 config CONFIG` 打印全部配置项及其来源。
RUN 是训练目录；凡接受训练目录的命令，也接受检查点（`.pdckpt`）或权重文件（[weights.md](weights.md)）。
`beitv2 --verbose COMMAND` 显示调试信息，`BEITV2_DEBUG=1` 显示报错的完整堆栈。退出码：0 表示完成；
1 表示损失不是有限值，或校验失败；2 表示出错，报错说明该怎么做；128 + n 表示收到信号 n，保存检查点后停止。
"""}
PACKAGES = (("beitv2_core", "Tokenizer, pretraining, weights, deployment (beitv2-core)"),
            ("beitv2_cls", "Classification (beitv2-cls)"))
WORDS = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH"}


def page(language: str = "en") -> str:
    """The whole of docs/commands.md; the Chinese page differs in its opening."""
    sections = [section for package, title in PACKAGES for section in _package(package, title)]
    sections += [("## Segmentation (beitv2-seg)", "", ""), *_segment()]
    index = ["| command | what it does |", "|---|---|"]
    index += [f"| [`{title}`](#{title.replace(' ', '-')}) | {summary} |" for title, summary, _ in sections if summary]
    bodies = [f"### {title}\n\n{body}" if summary else f"{title}\n" for title, summary, body in sections]
    return "\n".join([OPENINGS[language], *index, "", *bodies, _scripts()])


def _package(package: str, title: str) -> Iterator[tuple[str, str, str]]:
    """(heading, summary, text) of a package and of each of its commands."""
    yield f"## {title}", "", ""
    for info in cli.app.registered_commands:
        function = info.callback
        assert function is not None
        if function.__module__.split(".")[0] == package:
            name = "beitv2 " + (info.name or function.__name__.replace("_", "-"))
            summary, more = _docstring(function)
            rows = list(_typer_rows(function))
            needed = [written for kind, written, default, _ in rows if kind == "argument"]
            needed += [written for kind, written, default, _ in rows if kind == "option" and default == "required"]
            yield name, summary, _text(name, needed, summary, more, [row[1:] for row in rows])


def _segment() -> Iterator[tuple[str, str, str]]:
    """The same of `beitv2 segment ...`, whose flags are read by argparse."""
    group = next(info for info in cli.app.registered_groups if info.name == "segment").typer_instance
    assert group is not None
    for info in group.registered_commands:
        function = info.callback
        assert function is not None
        name = f"beitv2 segment {info.name or function.__name__}"
        summary, more = _docstring(function)
        actions = [one for one in PARSERS[name.split()[-1]](name)._actions if one.dest != "help"]
        needed = [_flag(one) for one in actions if one.required]
        rows = [(_flag(one), "required" if one.required else "", _line(one.help or "")) for one in actions]
        yield name, summary, _text(name, needed, summary, more, rows)


def _flag(action: argparse.Action) -> str:
    """`--scales NUMBER ...` of an argparse action."""
    if not action.option_strings:
        return action.dest.upper()
    name = "`, `".join(sorted(action.option_strings, key=len, reverse=True))
    if action.nargs == 0:
        return name
    if isinstance(action.metavar, tuple):
        return f"{name} {' '.join(action.metavar)}"
    choices = "|".join(map(str, action.choices or ()))
    word = action.metavar or choices or WORDS.get(typing.cast(type, action.type), "TEXT")
    return f"{name} {word}" + (" ..." if action.nargs in ("*", "+") else f" x {action.nargs}" if action.nargs else "")


def _typer_rows(function: Callable[..., Any]) -> Iterator[tuple[str, str, str, str]]:
    """(argument or option, how it is written, default, meaning) of each parameter."""
    hints = typing.get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        info = parameter.default
        many = typing.get_origin(_inner(hints[name])) is list
        word = info.metavar or WORDS.get(_item(hints[name]), "")
        limits = _limits(info)
        meaning = _line(info.help or "") + (f" ({limits})" if limits else "")
        if isinstance(info, typer.models.ArgumentInfo):
            written = info.metavar or name.upper() + (" ..." if many else "")
            yield "argument", written, "required" if info.default is ... else "", meaning
            continue
        assert isinstance(info, typer.models.OptionInfo)
        names = list(info.param_decls or ["--" + name.replace("_", "-")])
        if hints[name] is bool:
            both = info.default and not info.param_decls
            names, word = [f"{names[0]}/--no-{names[0][2:]}"] if both else names, ""
        written = "`, `".join(names) + (f" {word}" if word else "")
        yield "option", written, _default(info.default, hints[name]), meaning


def _inner(hint: Any) -> Any:
    """The type of an Optional."""
    inside = [one for one in typing.get_args(hint) if one is not type(None)]
    return inside[0] if typing.get_origin(hint) is typing.Union else hint


def _item(hint: Any) -> Any:
    """The type of one value."""
    inner = _inner(hint)
    return typing.get_args(inner)[0] if typing.get_args(inner) else inner


def _limits(info: Any) -> str:
    if info.min is not None and info.max is not None:
        return f"{info.min:,} to {info.max:,}"
    return "" if info.min is None or info.min in (0, 1) or info.min < 1e-3 else f"at least {info.min:,}"


def _default(value: Any, hint: Any) -> str:
    if value is ...:
        return "required"
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _docstring(function: Callable[..., Any]) -> tuple[str, str]:
    """First line and the rest."""
    summary, _, more = inspect.cleandoc(function.__doc__ or "").partition("\n")
    return _line(summary), more.strip()


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("%%", "%").replace("|", "\\|").strip()


def _text(name: str, needed: list[str], summary: str, more: str, rows: list[Any]) -> str:
    usage = " ".join([name, *(re.sub("`, `[^ ]*", "", one) for one in needed), "[OPTIONS]"])
    lines = [summary, *(["", more] if more else []), "", "```", usage, "```", ""]
    if rows:
        lines += ["| argument or option | default | meaning |", "|---|---|---|"]
        lines += [f"| `{_cell(written)}` | {default} | {meaning} |" for written, default, meaning in rows]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _scripts() -> str:
    """The commands that run the scripts of a PaddleClas or PaddleSeg checkout."""
    lines = ["## Scripts of PaddleClas and PaddleSeg", ""]
    for module, project in ((beitv2_cls.__main__, beitv2_cls.__main__.PADDLECLAS),
                            (beitv2_seg.__main__, beitv2_seg.__main__.PADDLESEG)):
        name = module.__name__.partition(".")[0]
        scripts = ", ".join(f"`tools/{script}`" for script in project.scripts)
        lines += [f"### python -m {name}", "", inspect.cleandoc(module.__doc__ or ""), "",
                  f"Scripts: {scripts} of {project.url}.", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: python docs/make_commands.py (it takes no arguments)")
    for language, path in PAGES.items():
        path.write_text(page(language), encoding="utf-8")
        print(f"written: {path}")
