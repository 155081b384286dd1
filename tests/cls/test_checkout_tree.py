"""Our entry points on a tree in the shape of a PaddleClas checkout: its root holds files that shadow the wheel."""

from __future__ import annotations

import json
from pathlib import Path

import paddle
import pytest
from checkout_trees import HIDE, start, told, write_files

from beitv2_cls import adapter

pytestmark = pytest.mark.slow  # a process, and Paddle, for every line
ARCH = """
import sys
def build_model(config):
    options = dict(config["Arch"])
    return getattr(sys.modules[__name__], options.pop("name"))(**options)
"""
SCRIPT = """
import json, os, sys
import ppcls
from ppcls.arch import build_model
from ppcls.engine import engine
from ppcls.optimizer import optimizer
import ppcls.data.preprocess, ppcls.loss

model = build_model({"Arch": {"name": "BEiTv2_base_patch16_224", "class_num": 4, "width": 24, "depth": 2,
                              "num_heads": 2}})
engine.load_dygraph_pretrain(model, sys.argv[1])
parts = [ppcls.loss.BEiTv2SoftTargetLoss, ppcls.data.preprocess.BEiTv2RandomCrop, ppcls.data.preprocess.BEiTv2EvalCrop,
         optimizer.BEiTv2AdamW]
print(json.dumps({"from": os.path.realpath(ppcls.__file__), "model": type(model).__name__, "parts": len(parts),
                  "wheel": "paddleclas" in sys.modules, "name": __name__}))
"""
TREE = {
    # what a full clone holds in its root, and where `import paddleclas` ends there
    "__init__.py": "from .paddleclas import PaddleClas\n", "paddleclas.py": "from .ppcls.arch import backbone\n",
    "hubconf.py": "import ppcls\n", "setup.py": "raise RuntimeError('setup.py was run')\n", "tests/__init__.py": "",
    "tools/__init__.py": "", "deploy/__init__.py": "",
    **{f"tools/{name}.py": SCRIPT for name in ("train", "eval", "infer", "export_model")},
    "ppcls/__init__.py": "from . import arch\n", "ppcls/arch/__init__.py": ARCH, "ppcls/loss/__init__.py": "",
    "ppcls/arch/backbone/__init__.py": "", "ppcls/data/__init__.py": "", "ppcls/data/preprocess/__init__.py": "",
    "ppcls/optimizer/__init__.py": "", "ppcls/optimizer/optimizer.py": "", "ppcls/engine/__init__.py": "",
    "ppcls/engine/engine.py": "def load_dygraph_pretrain(model, path, **options): raise RuntimeError('not ours')\n",
    "ppcls/engine/evaluation/__init__.py": "", "ppcls/engine/evaluation/classification.py": "import paddle\n",
}
WHEEL = {"paddleclas/__init__.py": "", "paddleclas/ppcls/__init__.py": "", "paddleclas/ppcls/arch/__init__.py": ARCH}


@pytest.fixture
def trees(tmp_path) -> Path:
    """Checkouts PaddleClas, paddleclas and another, an installed wheel, a folder that hides it, an empty one."""
    for name in ("PaddleClas", "paddleclas", "another"):
        write_files(tmp_path / name, TREE)
    write_files(tmp_path / "wheel", WHEEL)
    write_files(tmp_path / "hidden", {"sitecustomize.py": HIDE.format(name="paddleclas")})
    (tmp_path / "empty").mkdir()
    model = adapter.build_arch("base", 224, class_num=4, width=24, depth=2, num_heads=2)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith(("head.", "fc_norm."))}
    paddle.save(weights, str(tmp_path / "trunk.pdparams"))
    paddle.save(model.state_dict(), str(tmp_path / "whole.pdparams"))
    return tmp_path


@pytest.mark.parametrize(("folder", "script", "path"), [
    ("empty", "../PaddleClas/tools/train.py", ["another", "wheel"]), ("PaddleClas", "tools/eval.py", ["wheel"]),
    ("PaddleClas/ppcls", "../tools/infer.py", ["hidden"]), (".", "paddleclas/tools/export_model.py", ["hidden"])])
def test_a_script_finds_everything_in_its_own_checkout(trees, folder, script, path):
    weights = trees / ("trunk" if script.endswith("train.py") else "whole")
    done = start(trees / folder, "-m", "beitv2_cls", script, weights, path=tuple(trees / name for name in path))
    root = (trees / folder / script).resolve().parents[1]
    assert json.loads(told(done)) == {"from": str(root / "ppcls/__init__.py"), "model": "BEiTClassifier", "parts": 4,
                                      "wheel": False, "name": "__main__"}


def test_weights_without_a_head_are_for_training_only(trees):
    done = start(trees, "-m", "beitv2_cls", "PaddleClas/tools/eval.py", trees / "trunk")
    assert done.returncode != 0 and "no classifier head" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("folder", "path", "modules"), [
    ("empty", ["wheel"], ["paddleclas.ppcls.arch"]), ("PaddleClas", ["wheel"], ["ppcls.arch"]),
    ("empty", ["wheel", "PaddleClas"], ["paddleclas.ppcls.arch", "ppcls.arch"])])
def test_registering_reaches_what_can_be_imported_and_passes_over_the_file_of_a_checkout(trees, folder, path, modules):
    code = ("import json, importlib, beitv2_cls; done = beitv2_cls.register(); again = beitv2_cls.register(); "
            "models = [importlib.import_module(name).BEiTv2_base_patch16_224 for name in done]; "
            "print(json.dumps([done, again]))")
    done = start(trees / folder, "-c", code, path=tuple(trees / name for name in path))
    assert json.loads(told(done)) == [modules, modules]


def test_without_paddleclas_registering_says_what_to_type(trees):
    code = "import beitv2_cls; beitv2_cls.register()"
    done = start(trees / "empty", "-c", code, path=(trees / "hidden",))
    assert "MissingDependencyError: PaddleClas is not installed. Type: pip install 'beitv2-cls[ppcls]'" in done.stderr
    lone = write_files(trees / "lone", {"paddleclas.py": TREE["paddleclas.py"]})
    done = start(lone, "-c", code, path=(trees / "hidden",))
    assert f"{lone / 'paddleclas.py'} is found instead" in done.stderr


def test_a_package_that_paddleclas_lacks_is_named(trees):
    (trees / "PaddleClas/ppcls/data/__init__.py").write_text("import cv2_of_nobody\n")
    done = start(trees, "-m", "beitv2_cls", "PaddleClas/tools/train.py", trees / "trunk")
    assert "pip install cv2_of_nobody" in done.stderr and "requirements.txt" in done.stderr
    assert "Traceback" not in done.stderr
