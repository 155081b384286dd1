# SPDX-License-Identifier: Apache-2.0
"""The Python that the documents show runs as it stands, and so do the short commands, in order, in one folder."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_runs import PRETRAIN, ROOT, SHORT, beitv2, finished
from PIL import ImageChops
from typer.testing import CliRunner

import beitv2_core
from beitv2_core import cli
from beitv2_core.data import DigitScenes

pytestmark = pytest.mark.slow


#: documents with Python -> the number of blocks, and what runs them: a test here, or a file of tests
PYTHON = {"README.md": (1, "test_the_five_lines_of_the_readme_give_codes_and_features"),
          "README_cn.md": (1, "test_the_chinese_readme_shows_the_same_lines"),
          "docs/api.md": (1, "test_the_lines_of_the_api_page_run"),
          "docs/deployment.md": (1, "test_the_lines_of_the_deployment_page_give_codes"),
          "docs/extension.md": (4, "tests/e2e/test_extension.py"),
          "docs/features.md": (1, "test_the_lines_of_the_features_page_read_a_file_of_features"),
          "docs/look.md": (1, "test_the_lines_of_the_look_page_write_the_images"),
          "docs/neighbours.md": (3, "tests/neighbours/test_page.py"),
          "docs/small-data.md": (1, "tests/house/test_real_runs.py"),
          "docs/teachers.md": (2, "test_the_lines_of_the_teachers_page_are_python"),
          "docs/weights.md": (1, "test_the_lines_of_the_weights_page_give_an_equal_model"),
          "docs/models/BEiTv2.md": (1, "test_the_lines_of_the_model_page_build_the_model")}


def snippets(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def python(code: str, folder: Path) -> str:
    """What a snippet prints when it is run in `folder`, in a process of its own."""
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, text=True, capture_output=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer_run):
    """A folder as `make pretrain` leaves it, with smaller models, and images of our own."""
    folder = tmp_path_factory.mktemp("readme")
    runs = folder / "runs/digit_scenes"
    runs.mkdir(parents=True)
    (runs / "tokenizer").symlink_to(tokenizer_run)
    for name in ("configs", "docs", "hubconf.py"):
        (folder / name).symlink_to(ROOT / name)
    scenes = DigitScenes("test", size=24, image_size=40)
    for number in range(24):
        for images in ("FOLDER", "TEST_FOLDER", "IMAGES", "MORE"):
            path = folder / images / f"class_{number % 2}" / f"{images}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ImageChops.offset(scenes.load(number).image, len(images)).save(path)
    finished(beitv2(*PRETRAIN, "optim.steps=4", "train.batch_size=16", f"tokenizer.weights={tokenizer_run}",
                    f"output={runs / 'pretrain'}"))
    return folder


def test_every_block_of_python_is_run_somewhere():
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/models/*.md"),
                 *ROOT.glob("packages/*/README.md")]
    found = {str(path.relative_to(ROOT)): len(snippets(str(path.relative_to(ROOT)))) for path in documents}
    assert {path: count for path, count in found.items() if count} == {path: one[0] for path, one in PYTHON.items()}
    for _, place in PYTHON.values():
        assert place in globals() or (ROOT / place).is_file()


def test_the_five_lines_of_the_readme_give_codes_and_features(folder):
    [code] = snippets("README.md")
    assert python(code + "print(codes.shape, features.shape)", folder).strip() == "(1, 4, 4) (1, 16, 24)"
    assert (folder / "my_backbone/model.safetensors").is_file()


def test_the_chinese_readme_shows_the_same_lines():
    both = [[re.sub(r" *#.*", "", line) for line in snippets(one)[0].splitlines()]
            for one in ("README.md", "README_cn.md")]
    assert len(snippets("README_cn.md")) == 1 and both[0] == both[1]


def test_the_lines_of_the_api_page_run(folder):
    [code] = snippets("docs/api.md")
    assert python(code, folder).strip() == beitv2_core.__version__


def test_the_lines_of_the_deployment_page_give_codes(folder):
    beitv2_core.export(folder / "runs/digit_scenes/tokenizer", "paddle", folder / "tokenizer.onnx.d")
    [code] = snippets("docs/deployment.md")
    images = "import numpy; images = numpy.full((2, 3, 32, 32), 0.5, numpy.float32)\n"
    assert python(images + code + "print(codes.shape)", folder).strip() == "(2, 16)"


def test_the_lines_of_the_features_page_read_a_file_of_features(folder):
    beitv2_core.embed(folder / "IMAGES", folder / "runs/digit_scenes/pretrain", folder / "features.npz", num_workers=0)
    [code] = snippets("docs/features.md")
    assert python(code + "print(features.shape, len(paths), description[0])", folder).strip() == "(24, 24) 24 {"


def test_the_lines_of_the_look_page_write_the_images(folder):
    [code] = snippets("docs/look.md")
    python(code, folder)
    assert len(list((folder / "digits").glob("*.png"))) == 8


def test_the_lines_of_the_teachers_page_are_python():
    """They download weights and need PyTorch, so they are not run here."""
    for code in snippets("docs/teachers.md"):
        compile(code, "docs/teachers.md", "exec")


def test_the_lines_of_the_weights_page_give_an_equal_model(folder):
    [code] = snippets("docs/weights.md")
    check = "image = 'docs/images/codes.png'\nprint((again(image) == model(image)).all(), again(image).shape)"
    assert python(code + check, folder).strip() == "True (1, 24)"


@pytest.mark.skipif(importlib.util.find_spec("paddleclas") is None, reason="needs the package paddleclas")
def test_the_lines_of_the_model_page_build_the_model(folder):
    [code] = snippets("docs/models/BEiTv2.md")
    shown = python(code.replace('"RUN or FILE"', "False") + "print(type(model).__name__)", folder)
    assert shown.split()[-1] == "BEiTClassifier"


#: documents whose commands run in order -> a word of the block, and what makes each short
SHELL = {"docs/getting_started.md": ("data.root=FOLDER", {
    "train-tokenizer": [*SHORT, "encoder.width=24", "encoder.depth=1", "decoder.width=24", "quantizer.num_codes=16",
                        "optim.steps=6", "train.batch_size=8", "health.unquantized_steps=2", "health.kmeans_batches=2"],
    "pretrain": [*SHORT, "model.width=24", "optim.steps=4", "train.batch_size=8"],
    "report": ["--images", "8", "--train-images", "16", "--num-workers", "0"]}),
    "docs/deployment.md": ("tokenize IMAGES", {"tokenize": ["--num-workers", "0"]})}


@pytest.mark.parametrize("document", SHELL)
def test_the_short_commands_of_a_page_run_in_order(document, folder, monkeypatch):
    """Later pages find what earlier ones made; commands on models that nobody made here are only parsed, elsewhere."""
    word, shorter = SHELL[document]
    text = (ROOT / document).read_text(encoding="utf-8")
    [block] = [one for one in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if word in one]
    monkeypatch.chdir(folder)
    ran = 0
    for line in block.splitlines():
        words = shlex.split(re.sub(r" +#.*", "", line))
        if words[:1] != ["beitv2"] or words[1] not in {*shorter, "export"} or words[-1].startswith("segmenter"):
            continue
        if "onnx" in words and importlib.util.find_spec("paddle2onnx") is None:
            words[words.index("onnx")] = "paddle"
        if words[1] == "export":
            shutil.rmtree("tokenizer.onnx.d", ignore_errors=True)  # of the test before
        kept = [one for one in shorter.get(words[1], []) if not one.startswith("data.size")]
        result = CliRunner().invoke(cli.app, [*words[1:], *kept])
        assert result.exit_code == 0, (line, result.output)
        ran += 1
    assert ran >= 2
