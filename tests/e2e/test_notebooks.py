# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from their first cell to their last, in order, in one folder: the later ones read the first's run.

The cells are run as a program, each notebook in a process of its own, without a kernel: they are plain Python
(tests/house/test_notebooks.py), and a kernel (nbclient, ipykernel) would bring 37 packages to run the same lines.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys

import pytest
from docs_pages import NOTEBOOKS, cells

pytestmark = pytest.mark.slow

#: notebook -> what must stand in what it prints
PRINTED = {
    "1_tokenizer": [r"runs/own/tokenizer: tokenizer", r"^codes \(400, 4, 4\) of \d+$", r"codes are used, perplexity"],
    "2_pretrain": [r"runs/own/tokenizer: finished before", r"runs/own/pretrain: finished before",
                   r"accuracy of masked codes on 40 held-out images", r"^pretrained: [\d.]+ % right",
                   r"^ +random: [\d.]+ % right"],
    "3_finetune": [r"runs/own/pretrain: finished before", r"^top-1 [\d.]+ % of 100 images",
                   r"^digits/test/\w+/\d+.png: (\w+) [\d.]+ %, exported \1 ", r"^digit: IoU [\d.]+ %",
                   r"^(100.00|99.9\d) % of the pixels have the same label"],
}
#: figures that matplotlib shows, in the notebooks' order
FIGURES = {"1_tokenizer": 3, "2_pretrain": 3, "3_finetune": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path, folder):
    code = "\n\n".join(f"# cell {name}\n{text}" for name, text in cells(path, "code"))
    if importlib.util.find_spec("paddle2onnx") is None:
        code = code.replace('FORMAT = "onnx"', 'FORMAT = "paddle"')
    code += "\n\nprint('figures:', len(plt.get_fignums()))\n"
    program = folder / f"{path.stem}.py"
    program.write_text(code, encoding="utf-8")
    # As in a kernel, __main__ is no file, which processes that read images would run again; errors show their lines.
    start = f"exec(compile(open({str(program)!r}, encoding='utf-8').read(), {str(program)!r}, 'exec'))"
    done = subprocess.run([sys.executable, "-c", start], cwd=folder, text=True, capture_output=True, timeout=300,
                          env={**os.environ, "MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (*PRINTED[path.stem], rf"^figures: {FIGURES[path.stem]}$"):
        assert re.search(words, done.stdout, re.MULTILINE), (words, done.stdout)
