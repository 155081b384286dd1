# SPDX-License-Identifier: Apache-2.0
"""The GitHub workflow runs what .ci/run runs, on the Pythons that are promised."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def commands(job: dict) -> list[tuple[str, dict]]:
    """(command, environment) of each `make` of a job, its matrix filled in, those that are left out too."""
    matrix = job.get("strategy", {}).get("matrix", {})
    found = []
    for step in job["steps"]:
        if re.match(r"make |\$\{\{ matrix.part", step.get("run", "")):
            run = step["run"]
            found += [(one, step.get("env", {})) for one in
                      (matrix["part"] if run == "${{ matrix.part }}" else [run])]
    return found


ALL = [one for job in WORKFLOW["jobs"].values() for one in commands(job)]


def of_ci_run() -> set[str]:
    """The make commands of .ci/run but the installations, which each of the others makes first."""
    text = (ROOT / ".ci/run").read_text(encoding="utf-8").replace("\\\n", " ")
    started = re.findall(r'^start [\w.-]+ (make .+)$', text, re.MULTILINE)
    listed = re.search(r"for part in (.+?); do", text, re.DOTALL)[1]
    started += [part.split(" ", 1)[1] for part in shlex.split(listed)]
    return {one for one in started if not one.startswith("make setup")}


def test_the_workflow_runs_every_part_of_the_local_one():
    found = of_ci_run()
    assert len(found) > 5
    assert found - {one for one, _ in ALL} == set()


def test_every_command_is_a_target_with_variables_that_the_makefile_reads():
    targets = set(re.search(r"\.PHONY:((?:.*\\\n)*.*)", MAKEFILE)[1].replace("\\", " ").split())
    assert len(ALL) > 6
    for command, environment in ALL:
        words = shlex.split(command)[1:]
        assert {word for word in words if "=" not in word} <= targets, command
        for name in [*(word.partition("=")[0] for word in words if "=" in word), *environment]:
            assert f"$({name})" in MAKEFILE, f"{command}: the Makefile reads no {name}"


def test_the_pythons_are_those_that_are_promised():
    everything, core = (WORKFLOW["jobs"][name]["strategy"]["matrix"] for name in ("everything", "core"))
    assert everything["python"] == ["3.9", "3.11"] and "3.13" in core["python"]
    for left_out in everything["exclude"]:
        assert left_out["part"] in everything["part"] and left_out["python"] in everything["python"]
