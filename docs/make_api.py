# SPDX-License-Identifier: Apache-2.0
"""Write docs/api.md, in both languages, from the packages themselves: python docs/make_api.py

Every sentence of that page but the opening is a docstring; a test compares the page with what this prints.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
PAGES = {"en": DOCS / "api.md", "zh": DOCS / "zh/api.md"}
EXAMPLE = """```python
import beitv2_core as beitv2

print(beitv2.__version__)
```
"""
OPENINGS = {"en": f"""# Python

Generated from the packages by `python docs/make_api.py`; do not edit. These are all public names; other modules may
change in any version.

A function has the arguments and the defaults of its command ([commands.md](commands.md)): `out` is `--output`, `set` is
`--set` and what follows it, as a dictionary or as texts. Results are objects with paths, numbers and arrays. Errors are
exceptions with the words that the command prints, all of them `beitv2_core.errors.BEiTError`. Nothing prints; log
lines go to the loggers `beitv2_core`, `beitv2_cls` and `beitv2_seg`, which `logging.basicConfig(level="INFO")` shows.

Import `beitv2_core` before `paddle`: it sets the number of threads. The import itself costs no Paddle. The commands
also let the C library keep freed memory, which makes training on CPUs faster; a program that trains calls
`beitv2_core.runtime.keep_freed_memory()` once.

{EXAMPLE}""", "zh": f"""# Python

本页由 `python docs/make_api.py` 从三个包生成，请勿手工修改。标题与说明取自代码的文档字符串，因此保留英文。
这里是全部公开的名字；其他模块在任何版本中都可能改变。

函数的参数和默认值与它的命令相同（[commands.md](commands.md)）：`out` 就是 `--output`，`set` 就是 `--set`
及其后的内容，写成字典或文本。返回值是带有路径、数值和数组的对象。报错是异常，文字与命令打印的相同，
都属于 `beitv2_core.errors.BEiTError`。函数什么都不打印；日志写到 `beitv2_core`、`beitv2_cls` 和 `beitv2_seg`
三个 logger，用 `logging.basicConfig(level="INFO")` 显示。

请在 `paddle` 之前导入 `beitv2_core`：它设置线程数。导入本身不会加载 Paddle。命令还会让 C 库保留已释放的内存，
这使 CPU 上的训练更快；自己写训练程序时，调用一次 `beitv2_core.runtime.keep_freed_memory()`。

{EXAMPLE}"""}
PACKAGES = {"beitv2_core": "tokenizer, pretraining, features, export",
            "beitv2_cls": "classification", "beitv2_seg": "segmentation"}
#: objects that the public functions return, and what of them is documented
RESULTS = {"beitv2_core": ("beitv2_core.inference.loaded:LoadedModel", "beitv2_core.api.train:TrainedRun",
                           "beitv2_core.inference.embedding_file:Embeddings", "beitv2_core.api.tokenize:Tokens",
                           "beitv2_core.api.export:ExportedFolder", "beitv2_core.api.evaluate:Report",
                           "beitv2_core.evaluation.verdict:Verdict", "beitv2_core.assembly.dry_run:DryRun"),
           "beitv2_cls": ("beitv2_cls.api:Evaluation", "beitv2_cls.prediction:Prediction",
                          "beitv2_cls.plugins.answer:Classified"),
           "beitv2_seg": ("beitv2_seg.api:Evaluation", "beitv2_seg.api:LabelledFiles",
                          "beitv2_seg.reading.predict:Written", "beitv2_seg.plugins.answer:LabelMaps")}
METHODS = ("__call__", "features", "preprocess", "save_pretrained", "fingerprint", "lines", "text")


def page(language: str = "en") -> str:
    """The whole of docs/api.md; the Chinese page differs in its opening."""
    parts = [OPENINGS[language]]
    for package, about in PACKAGES.items():
        module = importlib.import_module(package)
        parts.append(f"## {package}: {about}\n")
        parts += [entry(f"{package}.{name}", getattr(module, name)) for name in module.__all__ if name != "__version__"]
        parts.append(f"### What {package} returns\n")
        for place in RESULTS[package]:
            home, _, name = place.partition(":")
            parts.append(result(name, getattr(importlib.import_module(home), name)))
    return "\n".join(parts).rstrip() + "\n"


def entry(name: str, thing: Any) -> str:
    """Heading, signature and docstring of a function or a class."""
    return f"### {name}\n\n{signature(name.rpartition('.')[2], thing)}\n{prose(thing)}\n"


def result(name: str, kind: type) -> str:
    """A class that is returned: its fields, its docstring, its methods."""
    fields = ", ".join(getattr(kind, "_fields", ()))
    parts = [f"#### {name}{f'({fields})' if fields else ''}\n", f"{prose(kind)}\n"]
    for method in METHODS:
        if inspect.isfunction(vars(kind).get(method)):
            shown = name.lower() if method == "__call__" else f".{method}"
            parts.append(f"{signature(shown, vars(kind)[method])}\n{prose(vars(kind)[method])}\n")
    return "\n".join(parts)


def signature(name: str, thing: Any) -> str:
    """A code block with the call and its defaults, one argument a line where there are many."""
    found = inspect.signature(thing.__init__ if inspect.isclass(thing) else thing)
    kept = [one for one in found.parameters.values() if one.name != "self"]
    texts = [_argument(one) for one in kept]
    star = next((i for i, one in enumerate(kept) if one.kind is inspect.Parameter.KEYWORD_ONLY), None)
    if star is not None:
        texts.insert(star, "*")
    back = "" if inspect.isclass(thing) or found.return_annotation is inspect.Signature.empty else \
        f" -> {_type(found.return_annotation)}"
    line = f"{name}({', '.join(texts)}){back}"
    if len(line) > 100:
        line = f"{name}(\n    " + ",\n    ".join(texts) + f",\n){back}"
    return f"```\n{line}\n```\n"


def _argument(one: inspect.Parameter) -> str:
    text = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}.get(one.kind, "") + one.name
    if one.annotation is not inspect.Parameter.empty:
        text += f": {_type(one.annotation)}"
    if one.default is not inspect.Parameter.empty:
        text += (" = " if ":" in text else "=") + repr(one.default)
    return text


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


def prose(thing: Any) -> str:
    """A docstring as it stands."""
    return inspect.cleandoc(thing.__doc__ or "") + "\n"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit("usage: python docs/make_api.py (it takes no arguments)")
    for language, path in PAGES.items():
        path.write_text(page(language), encoding="utf-8")
        print(f"written: {path}")
