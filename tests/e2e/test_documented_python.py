# SPDX-License-Identifier: Apache-2.0
"""The Python that README.md and docs/deployment.md show runs as it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_runs import PRETRAIN, ROOT, beitv2, finished

pytestmark = pytest.mark.slow


def snippets(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def python(code: str, folder: Path) -> str:
    """What a snippet prints when it is run in `folder`, in a process of its own."""
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, text=True, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer_run):
    """A folder as `make pretrain` leaves it, with smaller models."""
    folder = tmp_path_factory.mktemp("readme")
    runs = folder / "runs/digit_scenes"
    runs.mkdir(parents=True)
    (runs / "tokenizer").symlink_to(tokenizer_run)
    finished(beitv2(*PRETRAIN, "optim.steps=4", "train.batch_size=16", f"tokenizer.weights={tokenizer_run}",
                    f"output={runs / 'pretrain'}"))
    return folder


def test_the_five_lines_of_the_readme_give_codes_and_features(folder):
    [code] = snippets("README.md")
    assert python(code + "print(list(codes.shape), list(features.shape))", folder).strip() == "[8, 16] [8, 16, 24]"


def test_the_lines_of_the_deployment_page_give_codes(folder):
    finished(beitv2("export", folder / "runs/digit_scenes/tokenizer", "--format", "paddle", "-o",
                    folder / "tokenizer.onnx.d"))
    [code] = snippets("docs/deployment.md")
    images = "import numpy; images = numpy.full((2, 3, 32, 32), 0.5, numpy.float32)\n"
    assert python(images + code + "print(codes.shape)", folder).strip() == "(2, 16)"
