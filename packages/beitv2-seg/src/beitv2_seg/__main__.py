"""Run a script of a PaddleSeg checkout with BEiT v2 registered.

    python -m beitv2_seg PADDLESEG/tools/train.py --config configs/seg/beitv2_upernet.yml --device cpu ...

Train, val, predict and export alike.  On several processes the command `beitv2-paddleseg`, which is the same, follows
`python -m paddle.distributed.launch`, because the launcher starts no modules.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import beitv2_core  # noqa: F401  before Paddle: threads and the MKL path
from beitv2_core.errors import BEiTError, ConfigError

SCRIPTS = ("train.py", "val.py", "predict.py", "export.py")


def checkout_of(script: Path) -> Path:
    """The PaddleSeg checkout a script belongs to; ConfigError where it belongs to none."""
    if not script.is_file():
        raise ConfigError(f"{script}: no such file; expected PADDLESEG/tools/ with one of {', '.join(SCRIPTS)}.")
    root = script.resolve().parent.parent
    if script.name not in SCRIPTS or not (root / "paddleseg" / "cvlibs" / "manager.py").is_file():
        raise ConfigError(f"{script}: not a script of a PaddleSeg checkout; expected tools/ with one of "
                          f"{', '.join(SCRIPTS)} beside paddleseg/cvlibs. Type: git clone "
                          "https://github.com/PaddlePaddle/PaddleSeg")
    return root


def main() -> None:
    """Put the checkout on the path, register, then run its unmodified script with the arguments that are left."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        raise SystemExit("usage: python -m beitv2_seg PADDLESEG/tools/{train,val,predict,export}.py --config CONFIG "
                         "[...]")
    script = Path(sys.argv[1])
    try:
        sys.path.insert(0, str(checkout_of(script)))
        from beitv2_seg.adapter import register

        register()
    except BEiTError as error:
        raise SystemExit(f"error: {error}") from None
    sys.argv = [str(script), *sys.argv[2:]]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except BEiTError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
