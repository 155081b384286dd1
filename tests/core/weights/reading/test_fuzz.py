# SPDX-License-Identifier: Apache-2.0
"""Hundreds of damaged and hostile files: each is refused or read rightly, none is executed, none takes the memory."""

from __future__ import annotations

import collections
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("resource", reason="the memory limit needs a Unix")
PROGRAM = Path(__file__).with_name("weights_fuzz.py")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Exit status, standard error and one report per file."""
    folder = tmp_path_factory.mktemp("fuzz")
    paths = [str(PROGRAM.parents[1]), os.environ.get("PYTHONPATH", "")]  # of weights_files
    done = subprocess.run([sys.executable, str(PROGRAM), str(folder), "0"], capture_output=True, text=True, timeout=600,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))})
    return done, [json.loads(line) for line in done.stdout.splitlines()], folder


def test_no_file_ends_the_process(run):
    done, reports, _ = run
    assert done.returncode == 0, f"after {reports[-1:]}: {done.stderr[-2000:]}"


def test_every_file_is_refused_by_name_or_read_rightly(run, record_property):
    _, reports, _ = run
    wrong = [report for report in reports if report["result"] not in ("refused", "loaded")]
    assert not wrong, json.dumps(wrong[:3], indent=1)
    assert len(reports) >= 200
    counts = collections.Counter((report["format"], report["result"]) for report in reports)
    for format in sorted({report["format"] for report in reports}):
        record_property("summary", f"weights fuzz: {format:<13} {counts[format, 'refused']:>4} refused "
                                   f"{counts[format, 'loaded']:>4} read rightly")


def test_nothing_in_a_file_is_executed(run):
    _, reports, folder = run
    assert not any(report["executed"] for report in reports) and not (folder / "marker").exists()


@pytest.mark.parametrize("must, result", [("refuse", "refused"), ("load", "loaded")])
def test_what_must_be_refused_is_and_what_is_whole_is_read(run, must, result):
    _, reports, _ = run
    other = [report for report in reports if report["must"] == must and report["result"] != result]
    assert not other, json.dumps(other[:3], indent=1)
    assert any(report["must"] == must for report in reports)


def test_a_forbidden_global_is_named(run):
    _, reports, _ = run
    silent = [report for report in reports if report["said"] not in report["detail"]]
    assert not silent, json.dumps(silent[:3], indent=1)


def test_no_file_takes_much_memory(run, record_property):
    _, reports, _ = run
    first, last = reports[0]["peak"], reports[-1]["peak"]
    record_property("summary", f"weights fuzz: {len(reports)} files, memory {first} MB after the first, {last} MB peak")
    assert last - first < 200
