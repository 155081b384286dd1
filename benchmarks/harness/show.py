# SPDX-License-Identifier: Apache-2.0
"""The table on the terminal and the images beside the result file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.catalogue import BATCH, FLOORS, PEERS
from harness.derive import floors_without_number

VERDICTS = {True: "[green]met[/]", False: "[red]missed[/]", None: "[yellow]not judged[/]"}
#: columns of the first table: heading, metric
COLUMNS = (("seconds", "seconds"), ("images/s", "images_per_second"), ("GFLOP/s", "gflops"),
           ("of peak", "share_of_peak"), ("peak GB", "peak_memory"))
WIDTH = 140


def by_case(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """case -> metric -> entry; of a curve's points the last one stays."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for one in result["metrics"]:
        found.setdefault(one["case"], {})[one["metric"]] = one
    return found


def ratios_to_peers(entries: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The case's speed as a multiple of each peer's at the same work, measured in the same run; "" where there is none.

    Where the work differs, GFLOP/s are compared.
    """
    found = [next((entries[metric] for metric in (f"speed_over_{peer}", f"gflops_over_{peer}") if metric in entries),
                  None) for peer in PEERS]
    return ["" if one is None else f"{one['value']:.2f}" for one in found]


def print_tables(console: Any, result: Mapping[str, Any]) -> None:
    """What was measured of every case, then what is asked for beside what was found."""
    console.width = max(console.width, WIDTH)  # a table that is piped into a file is not cut
    _print_cases(console, result)
    _print_floors(console, result)
    if result["peak_is_steady"] is False:
        console.print("[yellow]No two measurements of the matmul peak agree: other work disturbed them, or there was "
                      "one only. Repeat on a quiet machine, or with more --rounds.[/]")


def _table(title: str, headings: list[str], left: tuple[str, ...]) -> Any:
    from rich.table import Table

    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", no_wrap=True)
    return table


def _print_cases(console: Any, result: Mapping[str, Any]) -> None:
    machine, found = result["hardware"], by_case(result)
    title = (f"{machine['processor']}, {machine['cores']} cores, best of {result['rounds']} rounds; "
             f"float32, base size, batch {BATCH} unless said otherwise")
    headings = ["what", *(heading for heading, _ in COLUMNS), *(f"x {peer}" for peer in PEERS)]
    table = _table(title, headings, ("what",))
    for case, what in result["cases"].items():
        if case in result["not_measured"]:
            table.add_row(f"{what}\n    [yellow]{_plain(result['not_measured'][case])}[/]")
        elif any(metric in found.get(case, {}) for _, metric in COLUMNS):
            cells = [f"{found[case][metric]['value']:.3g}" if metric in found[case] else "" for _, metric in COLUMNS]
            table.add_row(what, *cells, *ratios_to_peers(found[case]))
    console.print(table)


def _print_floors(console: Any, result: Mapping[str, Any]) -> None:
    headings = ["what", "metric", "measured", "all rounds", "floor", ""]
    table = _table("floors, and what belongs to one case only", headings, ("what", "metric", ""))
    shown, previous = {metric for _, metric in COLUMNS}, ""
    for one in result["metrics"]:
        floor = one.get("floor")
        if floor is None and one["metric"] in shown or one["metric"].startswith("help of "):
            continue
        values = one["values"]
        spread = f"{min(values):.3g} .. {max(values):.3g}" if len(values) > 1 else ""
        what = result["cases"][one["case"]].strip()
        table.add_row("" if what == previous else what, one["metric"].replace("_", " "),
                      f"{one['value']:.3g} {one['unit']}".strip(), spread, "" if floor is None else _asked(floor),
                      "" if floor is None else VERDICTS[floor["met"]])
        previous = what
    for case, metric in floors_without_number(result):
        kind, limit = FLOORS[case, metric]
        table.add_row(result["cases"][case].strip(), metric.replace("_", " "), "", "", _asked({kind: limit}),
                      "[yellow]not measured[/]")
    console.print(table)


def _asked(floor: Mapping[str, Any]) -> str:
    return f">= {floor['min']:g}" if "min" in floor else f"<= {floor['max']:g}"


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text if len(text) < 48 else text[:45] + "...")


def draw_bars(result: Mapping[str, Any], path: Path) -> None:
    """Three panels: share of the peak, speed as a multiple of the peer's, peak memory; marks where a floor is."""
    from beitv2_core.viz.canvas import ACCENT, MUTED, SECOND, Canvas

    found, machine = by_case(result), result["hardware"]
    panels: list[tuple[str, list[tuple[str, dict[str, Any], bool]]]] = []
    for title, metric in (("share of the matmul peak", "share_of_peak"), ("peak memory, GB", "peak_memory")):
        bars = [(result["cases"][case].strip(), entries[metric], case.startswith(PEERS))
                for case, entries in found.items() if metric in entries]
        panels.append((title, bars))
    ratios = [(f"{result['cases'][case].strip()} / {peer}", entries[f"speed_over_{peer}"], False)
              for case, entries in found.items() for peer in PEERS if f"speed_over_{peer}" in entries]
    panels.insert(1, ("images/s, as a multiple of the peer's", ratios))
    panels = [(title, bars) for title, bars in panels if bars]
    if not panels:
        return
    heights = [len(bars) + 1 for _, bars in panels]
    with Canvas(path, 9, 0.26 * sum(heights) + 0.8,
                title=f"{machine['processor']}, {machine['cores']} cores, {result['date'][:10]}") as figure:
        panes = figure.subplots(len(panels), 1, gridspec_kw={"height_ratios": heights}, squeeze=False)[:, 0]
        for axes, (title, bars) in zip(panes, panels):
            names, values = [name for name, _, _ in bars], [entry["value"] for _, entry, _ in bars]
            places = range(len(bars))
            axes.barh(places, values, color=[MUTED if peer else ACCENT for _, _, peer in bars], height=0.7)
            for place, (_, entry, _) in enumerate(bars):
                axes.text(entry["value"], place, f" {entry['value']:.3g}", va="center", fontsize=7.5)
                limit = entry.get("floor", {}).get("min", entry.get("floor", {}).get("max"))
                if limit is not None:
                    axes.plot([limit, limit], [place - 0.42, place + 0.42], color=SECOND, linewidth=2)
            axes.set_yticks(list(places), names)
            axes.invert_yaxis()
            axes.margins(x=0.1, y=0.01)
            axes.set_title(f"{title} (orange: floor)" if any("floor" in entry for _, entry, _ in bars) else title)
