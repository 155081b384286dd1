# SPDX-License-Identifier: Apache-2.0
"""Run a script of a PaddleClas checkout with BEiT v2 registered.

    python -m beitv2_cls PADDLECLAS/tools/train.py -c configs/cls/ppcls/beitv2_base_patch16_224_finetune.yaml -o ...

Train, eval, infer and export_model alike, from any folder.  The launcher of several processes starts no modules; it is
given the path of a command that is the same: python -m paddle.distributed.launch ... $(command -v beitv2-ppcls) ...
"""

from __future__ import annotations

from beitv2_core.commands.checkout import Project  # before Paddle: importing core sets threads and the MKL path

PADDLECLAS = Project("PaddleClas", package="ppcls", sign="engine/engine.py",
                     scripts=("train.py", "eval.py", "infer.py", "export_model.py"),
                     url="https://github.com/PaddlePaddle/PaddleClas")


def register(script: str) -> None:
    """Register with the checkout's `ppcls`; an installed wheel is not changed."""
    from beitv2_cls.adapter import register_in

    register_in(PADDLECLAS.package, fresh_head=script == "train.py")


def main() -> None:
    """Import the checkout's package, register, then run its unmodified script."""
    PADDLECLAS.run(register, "beitv2_cls")


if __name__ == "__main__":
    main()
