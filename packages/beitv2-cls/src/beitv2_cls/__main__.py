"""Run a script of a PaddleClas checkout with BEiT v2 registered.

    python -m beitv2_cls PADDLECLAS/tools/train.py -c configs/cls/ppcls/beitv2_base_patch16_224_finetune.yaml -o ...

Train, eval, infer and export_model alike.  On several processes the command `beitv2-ppcls`, which is the same, follows
`python -m paddle.distributed.launch`, because the launcher starts no modules.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import beitv2_core  # noqa: F401  before Paddle: threads and the MKL path
from beitv2_core.errors import BEiTError, ConfigError

SCRIPTS = ("train.py", "eval.py", "infer.py", "export_model.py")


def checkout_of(script: Path) -> Path:
    """The PaddleClas checkout a script belongs to; ConfigError where it belongs to none."""
    if not script.is_file():
        raise ConfigError(f"{script}: no such file; expected PADDLECLAS/tools/ with one of {', '.join(SCRIPTS)}.")
    root = script.resolve().parent.parent
    if script.name not in SCRIPTS or not (root / "ppcls" / "engine" / "engine.py").is_file():
        raise ConfigError(f"{script}: not a script of a PaddleClas checkout; expected tools/ with one of "
                          f"{', '.join(SCRIPTS)} beside ppcls/engine. Type: git clone "
                          "https://github.com/PaddlePaddle/PaddleClas")
    return root


def main() -> None:
    """Put the checkout on the path, register, then run its unmodified script with the arguments that are left."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        raise SystemExit("usage: python -m beitv2_cls PADDLECLAS/tools/{train,eval,infer,export_model}.py -c CONFIG "
                         "[-o ...]")
    script = Path(sys.argv[1])
    try:
        sys.path.insert(0, str(checkout_of(script)))
        from beitv2_cls.adapter import register

        register(fresh_head=script.name == "train.py")
    except BEiTError as error:
        raise SystemExit(f"error: {error}") from None
    except ModuleNotFoundError as error:
        raise SystemExit(
            f"error: {script}: PaddleClas needs the package {error.name!r}, which is not installed. Type: "
            f"pip install {error.name}, or pip install -r {script.resolve().parent.parent}/requirements.txt") from None
    sys.argv = [str(script), *sys.argv[2:]]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except BEiTError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
