# SPDX-License-Identifier: Apache-2.0
"""Work through the parts: what is finished is not repeated, what was killed continues, what fails is told at the end.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from beitv2_core.files.atomic import write_text_atomically
from real.parts import Part

#: seconds between two notes of the time that a part has taken, and between two lines about it
NOTE_S, SAY_S = 10.0, 60.0


def work(parts: Mapping[str, Part], out: Path, say: Callable[[str], None] = print) -> dict[str, str]:
    """Run every part that is not finished; {name: why it failed} of those that did, or that need one that did."""
    failed: dict[str, str] = {}
    for number, part in enumerate(parts.values(), 1):
        head = f"[{number}/{len(parts)}] {part.name}"
        missing = [name for name in part.needs if name in failed]
        if missing:
            failed[part.name] = f"needs {missing[0]}"
            say(f"{head}: left out, it needs {missing[0]}")
            continue
        note, identity = note_of(part, out), part.identity(parts)
        if note.get("finished") and part.result.is_file():
            if note["identity"] == identity:
                say(f"{head}: finished before, {clock(note['seconds'])}")
                continue
            failed[part.name] = (f"{out / part.name} was made with other settings; remove it and "
                                 f"{_note_path(part, out)}, or give another OUT")
            say(f"{head}: {failed[part.name]}")
            continue
        say(f"{head}: {'continues' if note else 'begins'}")
        problem = _run(part, out, identity, note, parts, say)
        if problem:
            failed[part.name] = problem
            say(f"{head}: failed: {problem}")
        else:
            say(f"{head}: {clock(note_of(part, out)['seconds'])}")
    return failed


def note_of(part: Part, out: Path) -> dict[str, Any]:
    """What is noted of a part: seconds, identity, finished; {} where it has not begun."""
    try:
        found = json.loads(_note_path(part, out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def _note_path(part: Part, out: Path) -> Path:
    return out / "parts" / f"{part.name.replace('/', '_')}.json"


def _run(part: Part, out: Path, identity: str, note: Mapping[str, Any], parts: Mapping[str, Part],
         say: Callable[[str], None]) -> str:
    """Run a part's command; "" or why it failed. The time of earlier attempts is in the note and counts."""
    _wait_for_orphans(int(note.get("group", 0)), say)
    before, path, log = float(note.get("seconds", 0)), _note_path(part, out), out / "logs" / f"{part.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    if part.shares in parts:
        take_scratch(parts[part.shares], part)
    began = said = time.monotonic()
    group = 0

    def note_down(finished: bool) -> None:
        write_text_atomically(path, json.dumps({"seconds": round(before + time.monotonic() - began, 1),
                                                "identity": identity, "finished": finished, "group": group,
                                                "command": ["beitv2", *part.command]}, indent=1) + "\n")

    with open(log, "ab") as file:  # a group of its own: a comparison has processes too, and all of them end together
        process = subprocess.Popen([sys.executable, "-m", "beitv2_core.cli", *part.command], stdout=file,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        group = process.pid
        try:
            note_down(False)
            while True:
                try:
                    status = process.wait(NOTE_S)
                    break
                except subprocess.TimeoutExpired:
                    note_down(False)
                    if time.monotonic() - said >= SAY_S:
                        said = time.monotonic()
                        say(f"    {clock(before + said - began)}  {_last_line(log)}")
        finally:
            if process.poll() is None:  # interrupted
                os.killpg(group, signal.SIGTERM)
                process.wait()
    if status or not part.result.is_file():
        return f"{_last_line(log) or f'exit status {status}'} (all of it: {log})"
    note_down(True)
    return ""


def _wait_for_orphans(group: int, say: Callable[[str], None]) -> None:
    """Wait for the processes that a killed `real_runs.py` left: they still write to the part's folder."""
    said = False
    while group and _alive(group):
        if not said:
            say(f"    waiting for the processes of an earlier start (process group {group})")
            said = True
        time.sleep(1)


def _alive(group: int) -> bool:
    """Whether a process of the group runs; False where there is no /proc."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # it has just ended
            state, _, of_group = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:3]
            if int(of_group) == group and state not in ("Z", "X"):
                return True
    return False


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-4000:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else ""


def _trunk(part: Part) -> Any:
    """Settings of the model that a comparison starts from."""
    run = Path(part.command[part.command.index("--pretrained") + 1])
    return yaml.safe_load((run / "config.yml").read_text(encoding="utf-8"))["model"]


def take_scratch(earlier: Part, part: Part) -> None:
    """Copy finished runs from scratch, where both start from models of one shape: the comparison of another backbone
    checks that their other settings are the same.  Runs with few labels name a list in their comparison's folder and
    are not copied."""
    for pattern, result in (("scratch", "evaluation.json"), ("scratch_all_seed*", "summary.json")):
        for source in sorted(earlier.result.parent.glob(pattern)):
            target = part.result.parent / source.name
            if not (source / result).is_file() or target.exists() or _trunk(earlier) != _trunk(part):
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_name(f".{target.name}.copying")
            shutil.rmtree(beside, ignore_errors=True)  # of a start that was killed
            shutil.copytree(source, beside)
            beside.rename(target)
