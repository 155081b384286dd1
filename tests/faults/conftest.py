# SPDX-License-Identifier: Apache-2.0
"""The fault-injection suite: what each case injected and checked, printed as a table and written to a folder."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from warm import Warm

from beitv2_core.files import large

ROWS: list[dict] = []


class Case:
    """What one test injects and checks, counted while it runs."""

    def __init__(self) -> None:
        self.injected: dict[str, int] = {}
        self.checked: dict[str, None] = {}
        self.notes: list[str] = []

    def inject(self, what: str, times: int = 1) -> None:
        """Count injections of a kind."""
        self.injected[what] = self.injected.get(what, 0) + times

    def check(self, what: str) -> None:
        """Note what was found true."""
        self.checked[what] = None

    def note(self, what: str) -> None:
        """Keep a number for the report."""
        self.notes.append(what)


def pytest_addoption(parser):
    parser.addoption("--faults-report", type=Path, default=Path("runs/faults"), metavar="DIR",
                     help="folder for faults.json and faults.md, the table of what was injected and checked")
    parser.addoption("--faults-seed", type=int, default=20221, help="seed of the moments and damages drawn")
    parser.addoption("--faults-states", type=int, default=100,
                     help="disks after a power cut that are drawn for every writing command (make campaign: more)")
    parser.addoption("--faults-kills", type=int, default=30,
                     help="SIGKILLs of every training command, a third of it of others (make campaign: more)")


@pytest.fixture
def case():
    return Case()


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    """Small checkpoints go past the system's memory here, as large ones do everywhere; runs of `warm` do so too."""
    monkeypatch.setattr(large, "BUFFER", 512)


@pytest.fixture(autouse=True)
def deadline():
    """Whatever waits without end fails."""
    def late(number, frame):
        pytest.fail("still waiting after ten minutes")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(600)
    yield
    signal.alarm(0)


@pytest.fixture(scope="session")
def seed(request) -> int:
    return request.config.getoption("--faults-seed")


@pytest.fixture(scope="session")
def states(request) -> int:
    return request.config.getoption("--faults-states")


@pytest.fixture(scope="session")
def kills(request) -> int:
    return request.config.getoption("--faults-kills")


@pytest.fixture(scope="session")
def warm():
    process = Warm()
    yield process
    process.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    report, case = outcome.get_result(), getattr(item, "funcargs", {}).get("case")
    if case is None or not (report.when == "call" or report.failed or report.skipped):
        return
    promise = (item.function.__doc__ or item.name.replace("_", " ")).strip().splitlines()[0]
    ROWS.append({"test": item.nodeid.split("/")[-1], "promise": promise, "injected": case.injected,
                 "injections": sum(case.injected.values()), "checked": list(case.checked), "notes": case.notes,
                 "result": report.outcome, "seconds": round(report.duration, 1)})


def pytest_terminal_summary(terminalreporter, config):
    if not ROWS:
        return
    terminalreporter.section(f"faults, seed {config.getoption('--faults-seed')}")
    for row in ROWS:
        terminalreporter.write_line(f"{row['result'].upper():<8}{row['seconds']:>7.1f} s  {row['test']}")
        for label, texts in (("injected", [f"{count} x {what}" for what, count in row["injected"].items()]),
                             ("checked", row["checked"]), ("note", row["notes"])):
            if texts:
                terminalreporter.write_line(f"{'':<19}{label}: {'; '.join(texts)}")
    total, seconds = sum(row["injections"] for row in ROWS), sum(row["seconds"] for row in ROWS)
    passed = sum(row["result"] == "passed" for row in ROWS)
    line = f"{len(ROWS)} cases, {passed} passed, {total} injections, {seconds:.0f} s"
    terminalreporter.write_line(line)
    folder = config.getoption("--faults-report")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "faults.json").write_text(
        json.dumps({"seed": config.getoption("--faults-seed"), "summary": line, "cases": ROWS}, indent=1) + "\n")
    table = ["| case | injected | checked | result | s |", "|---|---|---|---|---|"]
    for row in ROWS:
        injected = "; ".join(f"{count} x {what}" for what, count in row["injected"].items())
        cells = [row["promise"], injected, "; ".join([*row["checked"], *row["notes"]]), row["result"],
                 str(row["seconds"])]
        table.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    (folder / "faults.md").write_text(f"{line}, seed {config.getoption('--faults-seed')}\n\n" + "\n".join(table) + "\n")
    terminalreporter.write_line(f"written: {folder}/faults.json, {folder}/faults.md")
