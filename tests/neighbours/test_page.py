# SPDX-License-Identifier: Apache-2.0
"""The Python of docs/neighbours.md runs as it stands, where the neighbour is installed, and says what ours says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cls_runs import run

from beitv2_core.data import DigitScenes

PAGE = Path(__file__).resolve().parents[2] / "docs/neighbours.md"


@pytest.fixture
def printed(folder, monkeypatch, capsys):
    """A function (word): what the page's block of Python that imports `word` prints, run in `folder`."""
    monkeypatch.chdir(folder)

    def run_block(word: str) -> str:
        capsys.readouterr()
        exec(compile(block_of(word), str(PAGE), "exec"), {"__name__": "__main__"})
        return capsys.readouterr().out

    return run_block


def block_of(word: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    [code] = [block for block in blocks if re.search(rf"^(?:from|import) {word}\b", block, re.MULTILINE)]
    return code


@pytest.fixture
def folder(tmp_path, classifier_run):
    """A folder with images, and with the names of the classes that the run finds likeliest, in order."""
    (tmp_path / "IMAGES").mkdir()
    scenes = DigitScenes("test", size=3, image_size=32)
    for index in range(3):
        scenes.load(index).image.save(tmp_path / f"IMAGES/{index}.png")
    lines = run("predict", classifier_run, tmp_path / "IMAGES", "--top", 1, "--json").splitlines()
    (tmp_path / "expected.txt").write_text("\n".join(re.search(r'"name": "(\w+)"', line)[1] for line in lines
                                                     if line.startswith("{")))
    return tmp_path


@pytest.mark.paddlex
def test_the_lines_for_paddlex_name_our_classes(printed, folder, classifier_run):
    pytest.importorskip("paddlex", reason="PaddleX is not installed: `make neighbours`")
    run("export", classifier_run, "--format", "paddlex", "-o", folder / "exported_classifier")
    lines = [line.split() for line in printed("paddlex").splitlines() if line.startswith("IMAGES")]
    assert [words[1] for words in lines] == (folder / "expected.txt").read_text().split()


@pytest.mark.peers
@pytest.mark.usefixtures("importable_torchvision")
def test_the_lines_for_transformers_and_timm_name_our_classes(printed, folder, classifier_run):
    pytest.importorskip("transformers", reason="transformers is not installed: `make test-peers`")
    pytest.importorskip("timm", reason="timm is not installed: `make test-peers`")
    for name in ("hf", "timm"):
        run("convert", classifier_run, folder / f"classifier_{name}", "--to", {"hf": "huggingface"}.get(name, name))
    best = re.search(r"'label': '(\w+)'", printed("transformers"))[1]
    assert best == (folder / "expected.txt").read_text().split()[0]
    assert printed("timm").strip() == str([str(number) for number in range(10)])
