# SPDX-License-Identifier: Apache-2.0
"""What MkDocs does beside its settings: files outside of the pages, headings' ids, the switch between the languages.

The pages are written to be read as plain files too, so they link to files of the repository by relative paths.  A file
outside of the folder of the pages is copied to `repository/` of the site, and the link points there.  Text goes there
as .txt, which browsers show instead of offering it for download.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
#: endings of files that keep their name: browsers show them, or offer them as what they are
KEPT = (".png", ".svg", ".jpg", ".gif", ".webp", ".ipynb")
LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
#: a line `<a id="name"></a>` directly before a heading: the id of that heading, in Chinese pages the English one
ANCHORED = re.compile(r'^<a id="([^"]+)"></a>\n(#{1,6} .*)$', re.MULTILINE)
WIDE = "[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]"  # Chinese characters and punctuation
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text with links that work in the site; code blocks stay as they are."""
    here = Path(config.docs_dir) / posixpath.dirname(page.file.src_uri)

    def linked(found: re.Match[str]) -> str:
        target = (here / found[2]).resolve()
        if target.is_relative_to(config.docs_dir) or not target.is_file() or not target.is_relative_to(ROOT):
            return found[0]  # MkDocs follows it, or says that it leads nowhere
        name = f"repository/{target.relative_to(ROOT).as_posix()}"
        name += "" if target.suffix in KEPT else ".txt"
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, content=target.read_bytes()))
        return f"{found[1]}{posixpath.relpath(name, posixpath.dirname(page.file.src_uri))})"

    def text(part: str) -> str:
        return joined(LINK.sub(linked, ANCHORED.sub(r"\2 {#\1}", part)))

    pieces, start = [], 0
    for block in FENCE.finditer(markdown):
        pieces += [text(markdown[start:block.start()]), block[0]]
        start = block.end()
    return "".join([*pieces, text(markdown[start:])])


def joined(text: str) -> str:
    """Lines of a Chinese paragraph put together: a browser would show the end of a line as a space."""
    lines: list[str] = []
    for line in text.split("\n"):
        if lines and re.match(rf" *{WIDE}", line) and re.search(rf"{WIDE}$", lines[-1]) and lines[-1][0] not in "#|<":
            lines[-1] += line.lstrip()
        else:
            lines.append(line)
    return "\n".join(lines)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """The switch between the languages leads to the same page of the other one."""
    return _switched(output, page.url, config)


def on_post_template(output_content: str, *, template_name: str, config: MkDocsConfig) -> str:
    """Of pages that are no documents (404), it leads to the first page."""
    return _switched(output_content, "index.html", config)


def _switched(html: str, url: str, config: MkDocsConfig) -> str:
    """The links `#language-en` and `#language-zh`, which MkDocs leaves as they are, as paths from the page at `url`."""
    here = posixpath.dirname(url if config.theme["language"] == "en" else f"zh/{url}") or "."
    for language, folder in (("en", ""), ("zh", "zh/")):
        html = html.replace(f'"#language-{language}"', f'"{posixpath.relpath(f"{folder}{url}", here)}"')
    return html
