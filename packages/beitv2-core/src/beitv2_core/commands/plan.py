# SPDX-License-Identifier: Apache-2.0
"""`beitv2 plan`: what a run will cost, before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Optional

import typer

from ..errors import ConfigError
from ..files.json_text import parse_json
from ..planning.devices import DEVICES, find_device
from . import options


def plan(
    config: Path = options.CONFIG,
    more: Optional[list[str]] = options.MORE,
    set_: Optional[list[str]] = options.SET,
    devices: int = typer.Option(1, min=1, help="number of devices; they share the global batch"),
    device: str = typer.Option("v100-32g", help=f"{', '.join(DEVICES)}, cpu (this machine) or custom"),
    images: Optional[int] = typer.Option(None, min=1, help="number of training images, where there is no data"),
    throughput: Optional[float] = typer.Option(None, min=1e-9, help="measured speed: images per second of one device"),
    measured: Optional[Path] = typer.Option(None, help="result file of benchmarks/ to take the speed from"),
    share: float = typer.Option(0.35, min=0.001, max=1.0, help="assumed share of the device's peak, without a "
                                                               "measured speed"),
    memory_gb: Optional[float] = typer.Option(None, min=0.1, help="memory of one device; default: the published one"),
    peak_tflops: Optional[float] = typer.Option(None, min=1e-6, help="peak of one device; default: the published one"),
    reserve_gb: float = typer.Option(1.5, min=0.0, help="memory assumed for libraries and fragmentation"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    """Estimate memory, steps, compute and time of any training run; needs no data, weights or GPU."""
    from ..assembly.costs import planned_run
    from ..config import explain_config
    from ..planning.run import Speed, estimated_speed, measured_speed
    from ..planning.table import as_json as values

    if throughput is not None and measured is not None:
        raise ConfigError("--throughput and --measured both say how fast it is. Give one of them.")
    target = find_device(device, memory_gb=memory_gb, peak_tflops=peak_tflops)
    settings = explain_config(config, options.all_overrides(set_, more)).settings  # folders may be missing
    run = planned_run(settings, images=images, devices=devices)
    target.peak(run.amp)  # a precision the device does not have
    if throughput is not None:
        speed = Speed(throughput, "as given by --throughput")
    elif measured is not None:
        speed = measured_speed(run, _read(measured), str(measured))
    else:
        speed = estimated_speed(run, target, share)
    found = values(run, target, speed, reserve_gb=reserve_gb)
    if as_json:
        typer.echo(json.dumps({"config": str(config), **found}, indent=1))
    else:
        _print(str(config), found)


def _read(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--measured {path}: cannot be read: {error}. Give a result file of benchmarks/.") from None


def _print(title: str, found: dict[str, Any]) -> None:
    """Two tables; plain columns when the output is not a terminal."""
    from rich.console import Console
    from rich.table import Table

    from ..planning.table import facts, memory_rows

    console = Console()
    rows, known = memory_rows(found), facts(found)
    if not console.is_terminal:
        typer.echo(title)
        for what, value in known:
            typer.echo(f"{what:<19}{value}")
        for row in rows:
            typer.echo(f"{row[0]:<29}" + "".join(f"{cell:>22}" for cell in row[1:]))
    else:
        table = Table(title=title, show_header=False)
        for pair in known:
            table.add_row(*pair)
        console.print(table)
        table = Table()
        for number, heading in enumerate(rows[0]):
            table.add_column(heading, justify="right" if number else "left")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)
    typer.echo("* as configured. GB are 2**30 bytes. Memory is arithmetic of shapes, not measured on a device.")
