# SPDX-License-Identifier: Apache-2.0
"""Our entry points on a tree in the shape of a PaddleSeg checkout, beside an installed PaddleSeg and without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkout_trees import HIDE, start, told, write_files

pytestmark = pytest.mark.slow  # a process, and Paddle, for every line
MANAGER = """
class Shelf:
    def __init__(self, name):
        self.name, self.components_dict = name, {}
    def add_component(self, component):
        self.components_dict[component.__name__] = component
BACKBONES, MODELS, LOSSES, OPTIMIZERS, DATASETS, TRANSFORMS = (Shelf(name) for name in "bmlodt")
"""
SCRIPT = """
import json, os, sys
import paddle, paddleseg
from paddleseg.cvlibs import manager
names = [name for shelf in (manager.BACKBONES, manager.MODELS, manager.LOSSES, manager.OPTIMIZERS, manager.TRANSFORMS)
         for name in shelf.components_dict]
print(json.dumps({"from": os.path.realpath(paddleseg.__file__), "arguments": sys.argv[1:], "name": __name__,
                  "ours": {"BEiTv2", "BEiTv2UPerNet", "BEiTv2CrossEntropyLoss", "BEiTv2AdamW"} <= set(names),
                  "schedule": hasattr(paddle.optimizer.lr, "BEiTv2WarmupPoly")}))
"""
TREE = {"setup.py": "raise RuntimeError('setup.py was run')\n", "tests/__init__.py": "", "deploy/__init__.py": "",
        **{f"tools/{name}.py": SCRIPT for name in ("train", "val", "predict", "export")},
        "paddleseg/__init__.py": "", "paddleseg/cvlibs/__init__.py": "", "paddleseg/cvlibs/manager.py": MANAGER}


@pytest.fixture
def trees(tmp_path) -> Path:
    """Checkouts PaddleSeg, paddleseg and another, an installed wheel, a folder that hides it, an empty one."""
    for name in ("PaddleSeg", "paddleseg", "another"):
        write_files(tmp_path / name, TREE)
    write_files(tmp_path / "wheel", {"paddleseg/__init__.py": "raise RuntimeError('the wheel was imported')\n"})
    write_files(tmp_path / "hidden", {"sitecustomize.py": HIDE.format(name="paddleseg")})
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(("folder", "script", "path"), [
    ("empty", "../PaddleSeg/tools/train.py", ["another", "wheel"]), ("PaddleSeg", "tools/val.py", ["wheel"]),
    ("PaddleSeg/paddleseg", "../tools/predict.py", ["hidden"]), (".", "paddleseg/tools/export.py", ["hidden"])])
def test_a_script_finds_our_components_in_its_own_checkout(trees, folder, script, path):
    done = start(trees / folder, "-m", "beitv2_seg", script, "--config", "a.yml",
                 path=tuple(trees / name for name in path))
    root = (trees / folder / script).resolve().parents[1]
    assert json.loads(told(done)) == {"from": str(root / "paddleseg/__init__.py"), "arguments": ["--config", "a.yml"],
                                      "name": "__main__", "ours": True, "schedule": True}


def test_keys_that_paddleseg_would_ignore_are_named(trees):
    (trees / "a.yml").write_text("ignore_index: 11\n")
    done = start(trees, "-m", "beitv2_seg", "PaddleSeg/tools/train.py", "--config", "a.yml")
    assert done.returncode != 0 and "a.yml: ignore_index: a key of `beitv2 segment`" in done.stderr


def test_registering_without_paddleseg_says_what_to_type(trees):
    code = "import beitv2_seg; beitv2_seg.register()"
    done = start(trees, "-c", code, path=(trees / "hidden",))  # there the folder `paddleseg` is a clone's root
    assert "MissingDependencyError: PaddleSeg is not installed" in done.stderr
    assert "pip install 'beitv2-seg[paddleseg]'" in done.stderr and "PYTHONPATH=PADDLESEG" in done.stderr
    told(start(trees / "PaddleSeg", "-c", f"{code}; print('ok')", path=(trees / "hidden",)))


def test_a_package_that_paddleseg_lacks_is_named(trees):
    (trees / "PaddleSeg/paddleseg/__init__.py").write_text("import nobodys_skimage\n")
    for arguments in (["-m", "beitv2_seg", "PaddleSeg/tools/train.py"],
                      ["-c", "import beitv2_seg; beitv2_seg.register()"]):
        done = start(trees, *arguments, path=(trees / "PaddleSeg",))
        assert "pip install nobodys_skimage" in done.stderr
