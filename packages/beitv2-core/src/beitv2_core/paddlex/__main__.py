# SPDX-License-Identifier: Apache-2.0
"""PaddleX's own command line with our exported models known to it.

    python -m beitv2_core.paddlex --pipeline PIPELINE.yaml --input IMAGES --save_path FOUND
    python -m beitv2_core.paddlex --serve --pipeline PIPELINE.yaml
"""

from __future__ import annotations

from beitv2_core.errors import BEiTError
from beitv2_core.paddlex import register


def main() -> None:
    """Register, then hand the arguments to PaddleX; SystemExit with one line where it is not installed, and for what
    our code refuses while PaddleX runs it: an image that cannot be read, a folder that is no exported model."""
    try:
        register()
        from paddlex.__main__ import console_entry

        console_entry()
    except BEiTError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
