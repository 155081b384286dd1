# SPDX-License-Identifier: Apache-2.0
"""The notebooks run from their first cell to their last, in order, in one folder: the later ones read the first's run.

The cells are run as a program without a kernel: they are plain Python (tests/house/test_notebooks.py), and a kernel
(nbclient, ipykernel) would bring 37 packages to run the same lines.  One process runs all three, each with names of its
own, with fewer steps and images than the notebooks have.
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
    "1_tokenizer": [r"runs/own/tokenizer: training of the tokenizer", r"^codes \(400, 4, 4\) of \d+$",
                    r"codes are used, perplexity"],
    "2_pretrain": [r"runs/own/tokenizer: finished before", r"runs/own/pretrain: finished before",
                   r"accuracy of masked codes on 40 held-out images", r"^pretrained: [\d.]+ % right",
                   r"^ +random: [\d.]+ % right"],
    "3_finetune": [r"runs/own/pretrain: finished before", r"^top-1 [\d.]+ % of 100 images",
                   r"^digits/test/\w+/\d+.png: (\w+) [\d.]+ %, exported \1 ", r"^digit: IoU [\d.]+ %",
                   r"^(100.00|99.9\d) % of the pixels have the same label"],
}
#: figures that matplotlib shows, in the notebooks' order
FIGURES = {"1_tokenizer": 3, "2_pretrain": 3, "3_finetune": 2}
#: what a notebook says, if it does -> what is run here: the steps decide how good the models are, not what runs
SHORTER = {'"optim.steps": 80': '"optim.steps": 16',
           "set=SHORT)": 'set={**SHORT, "pretrain.model.width": 48, "tokenizer.encoder.width": 48})',
           "steps: 60, warmup_steps: 6": "steps: 12, warmup_steps: 2",
           "iters: 60\n": "iters: 8\n", "total_iters: 60, warmup: 6": "total_iters: 8, warmup: 2",
           '("train", "train", 80)': '("train", "train", 16)'}
#: As in a kernel, __main__ is no file, which processes that read images would run again; errors show their lines.
PROGRAM = """
import sys
for path in sys.argv[1:]:
    print("notebook:", path, flush=True)
    names = {"__name__": "__main__"}
    exec(compile(open(path, encoding="utf-8").read(), path, "exec"), names)
    print("figures:", len(names["plt"].get_fignums()), flush=True)
    names["plt"].close("all")
"""


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each notebook printed."""
    folder, used = tmp_path_factory.mktemp("notebooks"), set()
    for path in NOTEBOOKS:
        code = "\n\n".join(f"# cell {name}\n{text}" for name, text in cells(path, "code"))
        if importlib.util.find_spec("paddle2onnx") is None:
            code = code.replace('FORMAT = "onnx"', 'FORMAT = "paddle"')
        for old, new in SHORTER.items():
            used |= {old} if old in code else set()
            code = code.replace(old, new)
        (folder / f"{path.stem}.py").write_text(code, encoding="utf-8")
    assert used == set(SHORTER), "a notebook was changed: SHORTER should follow it"
    done = subprocess.run([sys.executable, "-c", PROGRAM, *(f"{path.stem}.py" for path in NOTEBOOKS)], cwd=folder,
                          text=True, capture_output=True, timeout=600, env={**os.environ, "MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stdout + done.stderr
    parts = re.split(r"^notebook: (\w+)\.py$", done.stdout, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


@pytest.mark.parametrize("name", PRINTED)
def test_a_notebook_runs_from_its_first_cell_to_its_last(name, printed):
    for words in (*PRINTED[name], rf"^figures: {FIGURES[name]}$"):
        assert re.search(words, printed[name], re.MULTILINE), (words, printed[name])


def test_every_notebook_was_run(printed):
    assert list(printed) == [path.stem for path in NOTEBOOKS] == list(PRINTED)
