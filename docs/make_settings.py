# SPDX-License-Identifier: Apache-2.0
"""Write docs/settings.md, in both languages, from the settings themselves: python docs/make_settings.py

Every sentence of that page but the opening is a description of a setting or a docstring; a test compares the page with
what this prints.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from beitv2_core.config import config_kinds
from beitv2_core.config.sections import EncoderConfig
from beitv2_seg.config.schema import Component
from beitv2_seg.data.file_samples import ListedSamples
from beitv2_seg.paddleseg.components import ALL, KINDS, argument_names

DOCS = Path(__file__).resolve().parent
PAGES = {"en": DOCS / "settings.md", "zh": DOCS / "zh/settings.md"}
OPENINGS = {"en": """# Settings

Generated from the code by `python docs/make_settings.py`; do not edit. `beitv2 config CONFIG` prints all settings of a
file and where each comes from; `--set KEY=VALUE` changes one for a run (`beitv2 segment`: `--opts KEY=VALUE`). A key
that is not listed here is refused, with the nearest one that exists.

A settings file may begin with `_base_: FILE`, or a list of files: it then holds only what differs from them. `null` is
YAML's word for no value.
""", "zh": """# Settings

本页由 `python docs/make_settings.py` 从代码生成，请勿手工修改。标题与表格中的文字取自代码，
因此保留英文，与命令行的提示和报错一致。`beitv2 config CONFIG` 打印一个配置文件的全部配置项及其来源；
`--set KEY=VALUE` 在一次训练中改变一项（`beitv2 segment` 用 `--opts KEY=VALUE`）。
本页没有列出的键会被拒绝，报错会给出最接近的已有键。

配置文件可以用 `_base_: FILE`（或文件列表）开头，这时只需写出与之不同的部分。`null` 是 YAML 中表示“没有值”的写法。
"""}
#: kind of a settings file -> the command that reads it
COMMANDS = {"tokenizer": "beitv2 train-tokenizer", "pretrain": "beitv2 pretrain",
            "two_stages": "beitv2 pretrain", "finetune": "beitv2 finetune", "linear_probe": "beitv2 linear-probe",
            "segment": "beitv2 segment train"}
WORDS = {str: "text", int: "integer", float: "number", bool: "true or false", dict: "keys and values",
         type(None): "null", Component: "[component](#components-of-segmentation)"}
PLURALS = {"text": "texts", "integer": "integers", "number": "numbers", "true or false": "truth values",
           "component": "components",
           WORDS[Component]: "[components](#components-of-segmentation)"}


class Section(NamedTuple):
    """A section of settings, the dotted key it is found at, and the kinds of files that have it there."""

    model: type[BaseModel]
    key: str
    kinds: list[str]

    @property
    def heading(self) -> str:
        return f"{self.key}: {', '.join(self.kinds)}"


def page(language: str = "en") -> str:
    """The whole of docs/settings.md; the Chinese page differs in its opening."""
    kinds, sections = config_kinds(), _sections()
    lines = [OPENINGS[language], "## Kinds of settings files", "", "| `kind` | read by | what it is |", "|---|---|---|"]
    lines += [f"| [`{name}`](#{_slug(f'kind: {name}')}) | `{COMMANDS[name]}` | {_summary(model)} |"
              for name, model in kinds.items()]
    for name, model in kinds.items():
        lines += ["", f"### kind: {name}", "", *_prose(model), *_table(model, "", name, sections)]
    lines += ["", "## Sections"]
    for section in sections:
        lines += ["", f"### {section.heading}", "", *_prose(section.model),
                  *_table(section.model, f"{section.key}.", section.kinds[0], sections)]
    lines += ["", "## Components of segmentation", "", "A section with `type: NAME` is a component: the other keys are "
              "its arguments. These are ours; with", "PaddleSeg installed, `type` also names PaddleSeg's."]
    for name, kind in components():
        lines += ["", f"### type: {name}", "", *_component(kind)]
    return "\n".join(lines).rstrip() + "\n"


def _sections() -> list[Section]:
    """Every section below the kinds, once for each key and class; of two_stages only what the other kinds lack."""
    found: dict[tuple[str, type[BaseModel]], Section] = {}
    for kind, model in config_kinds().items():
        for key, section in _below(model, "", set(config_kinds().values())):
            found.setdefault((key, section), Section(section, key, [])).kinds.append(kind)
    return list(found.values())


def _below(model: type[BaseModel], prefix: str, whole: set[type[BaseModel]]) -> Iterator[tuple[str, type[BaseModel]]]:
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None and section not in whole:
            yield prefix + name, section
            yield from _below(section, f"{prefix}{name}.", whole)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also where it may be null or a list of them; a component is none."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel) and annotation is not Component:
        return annotation
    return next(filter(None, map(section_of, typing.get_args(annotation))), None)


def _table(model: type[BaseModel], prefix: str, kind: str, sections: list[Section]) -> Iterator[str]:
    yield "| setting | values | default | meaning |"
    yield "|---|---|---|---|"
    kinds = {one: name for name, one in config_kinds().items()}
    for name, field in model.model_fields.items():
        section, key = section_of(field.annotation), prefix + name
        meaning = _cell(field.description or ("`type` and its arguments" if field.annotation is Component else ""))
        if section is None:
            values = _cell(_values(field.annotation, field.metadata))
        elif section in kinds:
            values = f"[settings of that kind](#{_slug(f'kind: {kinds[section]}')})"
        else:
            one = next(one for one in sections if one.key == key and one.model is section and kind in one.kinds)
            values = f"[section](#{_slug(one.heading)})"
        yield f"| `{key}` | {values} | {_default(field)} | {meaning or _summary(section)} |"
    if model.model_config.get("extra") == "allow":
        yield f"| `{prefix}*` | any value | | arguments of the [component](#components-of-segmentation) |"


def _values(annotation: Any, metadata: list[Any]) -> str:
    """The type and the allowed values of a field, in words."""
    origin, inside = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _values(inside[0], [*inside[1:], *metadata])
    if origin is typing.Literal:
        return " or ".join(f"`{one}`" for one in inside)
    if origin is typing.Union:
        texts = [_values(one, metadata if one is not type(None) else []) for one in inside]
        return " or ".join(dict.fromkeys(texts))
    if origin is tuple and Ellipsis not in inside:
        return "[" + ", ".join(_values(one, []) for one in inside) + "]" + _limits(metadata)
    if origin in (list, tuple):
        item = _values(inside[0], [])
        return f"list of {PLURALS.get(item, item)}" + _limits(metadata)
    return WORDS.get(annotation if origin is None else origin, "any value") + _limits(metadata)


def _limits(metadata: list[Any]) -> str:
    words = []
    for one in metadata:
        for kind, word, attribute in ((Gt, "above", "gt"), (Ge, "at least", "ge"), (Lt, "below", "lt"),
                                      (Le, "at most", "le")):
            if isinstance(one, kind):
                words.append(f"{word} {getattr(one, attribute):,}")
        if isinstance(one, MinLen):
            words.append("not empty")
        if getattr(one, "pattern", None):
            words.append(f"as `{one.pattern}`")
    return "".join(f", {word}" for word in words)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if isinstance(value, BaseModel) else f"`{_written(value)}`"


def _written(value: Any) -> str:
    """A value as YAML writes it."""
    if value == " ":
        return '" "'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_written, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def components() -> list[tuple[str, Any]]:
    """(name, class) of our components, under the names that a file gives."""
    found = [(kind.__name__, kind) for kinds in ALL.values() for kind in kinds]
    return [*found, ("Dataset", ListedSamples)]


def _component(kind: Any) -> Iterator[str]:
    registry = next((name for name, kinds in ALL.items() if kind in kinds), "DATASETS")
    yield f"It is {KINDS[registry]}."
    yield ""
    yield inspect.cleandoc(kind.__doc__)
    yield ""
    yield "| argument | values | default | meaning |"
    yield "|---|---|---|---|"
    for name, parameter in arguments(kind).items():
        default = "required" if parameter.default is parameter.empty else f"`{_written(parameter.default)}`"
        yield f"| `{name}` | {_annotated(parameter.annotation)} | {default} | {_cell(meaning_of(kind, name))} |"


def arguments(kind: Any) -> dict[str, inspect.Parameter]:
    """The arguments that a file can give a component, those of its base classes included."""
    found: dict[str, inspect.Parameter] = {}
    for owner in inspect.getmro(kind):
        start = owner.__dict__.get("__init__")
        if start is not None:
            found = {**dict(inspect.signature(start).parameters), **found}
    written = [name for name in argument_names(kind) or {} if name not in NOT_WRITTEN]
    return {name: found[name] for name in written}


#: arguments that our own code gives, not a file
NOT_WRITTEN = ("samples", "in_chans", "norm")


def meaning_of(kind: Any, name: str) -> str:
    """What a component's docstring, or that of a class it builds on, says behind `name:`; else what a run's says."""
    for owner in inspect.getmro(kind):
        text = " ".join(inspect.cleandoc(owner.__dict__.get("__doc__") or "").split())
        found = re.search(rf"(?:^|[.;,] )(?:\w+, )*{name}(?:, \w+)*: (.*?)(?:(?<![ .])[.;](?: |$)|$)", text)
        if found:
            return found[1]
    field = EncoderConfig.model_fields.get(name)
    return field.description or "" if field else ""


def _annotated(annotation: Any) -> str:
    """An annotation, as it is written in the code, in words."""
    if annotation is inspect.Parameter.empty:
        return ""
    return _in_words(ast.parse(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation),
                               mode="eval").body)


def _in_words(node: ast.AST) -> str:
    if isinstance(node, ast.BinOp):
        return f"{_in_words(node.left)} or {_in_words(node.right)}"
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) in ("Sequence", "list", "tuple"):
        item = _in_words(node.slice)
        return f"list of {PLURALS.get(item, item)}"
    words = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "None": "null"}
    return words.get(ast.unparse(node), "component")


def _summary(model: Any) -> str:
    """The first line of a docstring."""
    return _cell(inspect.cleandoc(model.__doc__ or "").split("\n")[0])


def _prose(model: Any) -> Iterator[str]:
    yield inspect.cleandoc(model.__doc__ or "")
    yield ""


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


def _slug(heading: str) -> str:
    """The anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: python docs/make_settings.py (it takes no arguments)")
    for language, path in PAGES.items():
        path.write_text(page(language), encoding="utf-8")
        print(f"written: {path}")
