# SPDX-License-Identifier: Apache-2.0
"""`beitv2 card`: the model card of a run, with what only its owner knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Optional

import typer

from ..errors import ConfigError, OutputError


def card(
    run: Path = typer.Argument(..., help="run folder, or the folder of both stages", show_default=False),
    license_: Optional[str] = typer.Option(None, "--license", help="of the weights, as Hugging Face names licences: "
                                                                   "apache-2.0, cc-by-nc-4.0, other; default: unknown"),
    license_name: Optional[str] = typer.Option(None, "--license-name", help="with --license other: its name"),
    license_link: Optional[str] = typer.Option(None, "--license-link", help="with --license other: its address"),
    dataset: Optional[list[str]] = typer.Option(None, "--dataset", help="training images, as Hugging Face names data "
                                                                        "sets (ACCOUNT/NAME); repeatable"),
) -> None:
    """Write the model card (README.md) of a run again; every run writes one when it ends."""
    from ..assembly.cards import story_of, write_run_card
    from ..cards import CARD

    if license_ is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license_):
        raise ConfigError(f"--license {license_}: expected a name of small letters, digits, dots and hyphens, for "
                          "example apache-2.0, or other with --license-name.")
    if (license_ == "other") != (license_name is not None):
        raise ConfigError("--license other and --license-name belong together. Give both, or neither.")
    if license_link is not None and license_ != "other":
        raise ConfigError("--license-link: belongs to --license other with --license-name. Give all three, or leave it "
                          "out.")
    if story_of(run) is None:
        raise ConfigError(f"{run}: no run folder of a model of a known kind (it has no config.yml, or its run trains "
                          "no model). Give the folder of a training run.")
    given: dict[str, Any] = {"license": license_, "license_name": license_name, "license_link": license_link,
                             "datasets": dataset or None}
    try:
        written = write_run_card(run, given={key: value for key, value in given.items() if value is not None})
    except OSError as error:
        raise OutputError(f"{run / CARD}: the card could not be written: {error}. Free some space, or make the folder "
                          "and its files readable and writable.") from error
    if written is None:
        raise ConfigError(f"{run / CARD}: was written or edited by hand, and stays. Move it away to have it written "
                          "again.")
    typer.echo(f"written: {written}")
