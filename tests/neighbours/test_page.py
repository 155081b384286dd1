# SPDX-License-Identifier: Apache-2.0
"""The Python of docs/neighbours.md runs as it stands, where the neighbour is installed, and says what ours says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from cls_runs import run

from beitv2_core.data import DigitScenes

PAGE = Path(__file__).resolve().parents[2] / "docs/neighbours.md"


def printed(word: str, folder: Path) -> str:
    """What the page's block of Python that imports `word` prints, run in `folder` in a process of its own."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    [code] = [block for block in blocks if re.search(rf"^(?:from|import) {word}\b", block, re.MULTILINE)]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


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
def test_the_lines_for_paddlex_name_our_classes(folder, classifier_run):
    pytest.importorskip("paddlex", reason="PaddleX is not installed: `make neighbours`")
    run("export", classifier_run, "--format", "paddlex", "-o", folder / "exported_classifier")
    lines = [line.split() for line in printed("paddlex", folder).splitlines() if line.startswith("IMAGES")]
    assert [words[1] for words in lines] == (folder / "expected.txt").read_text().split()


@pytest.mark.peers
@pytest.mark.usefixtures("importable_torchvision")
def test_the_lines_for_transformers_and_timm_name_our_classes(folder, classifier_run):
    for word in ("transformers", "timm"):
        pytest.importorskip(word, reason=f"{word} is not installed: `make test-peers`")
    for name in ("hf", "timm"):
        run("convert", classifier_run, folder / f"classifier_{name}", "--to", {"hf": "huggingface"}.get(name, name))
    best = re.search(r"'label': '(\w+)'", printed("transformers", folder))[1]
    assert best == (folder / "expected.txt").read_text().split()[0]
    assert printed("timm", folder).strip() == str([str(number) for number in range(10)])
