# SPDX-License-Identifier: Apache-2.0
"""The frame of the long tests: parts that are there, rows that are kept, tables in both languages."""

from __future__ import annotations

import json
from pathlib import Path

import campaign
import parsers
import pytest

ROOT = Path(__file__).resolve().parents[2]
ROW = {"part": "power", "paddle": "3.3.1", "commit": "0123456789abcdef", "date": "2026-11-27", "times": 1000,
       "harmed": 0, "seconds": 5400, "note": {}, "machine": {"processor": "A processor", "cores": 2}}


def test_every_step_names_a_file_that_is_there():
    assert len({part.name for part in campaign.PARTS}) == len(campaign.PARTS)
    for part in campaign.PARTS:
        assert part.steps and part.english and part.chinese
        for words in part.steps:
            assert (ROOT / words[0]).is_file(), words


def test_the_tables_of_both_languages_have_the_same_numbers(tmp_path):
    for page in campaign.HEADS:
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(f"before\n{campaign.BEGIN}\nold\n{campaign.END}\nafter\n", encoding="utf-8")
    campaign.write_tables([], tmp_path)
    assert "Not run yet." in (tmp_path / "docs/reliability.md").read_text(encoding="utf-8")
    lost = {**ROW, "part": "lost", "note": {"seconds": 21.5}}
    campaign.write_tables([ROW, lost], tmp_path)
    for page in campaign.HEADS:
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert text.startswith("before\n") and text.endswith("after\n") and "A processor" in text
        head, line, row, noted = [one for one in text.splitlines() if one.startswith("|")]
        assert len({one.count("|") for one in (head, line, row, noted)}) == 1
        assert "| 1000 | 0 |  | 3.3.1 | 1:30 h, 2 | 0123456, 2026-11-27 |" in row
        assert "21.5" in noted


def test_a_part_whose_package_is_not_installed_is_left_out_and_said(monkeypatch, tmp_path, capsys):
    part = campaign.PARTS[0]._replace(name="other", needs="a_package_that_nobody_has")
    monkeypatch.setattr(campaign, "PARTS", (part,))
    monkeypatch.setattr(campaign, "run_part", lambda *given: pytest.fail("run"))
    assert campaign.main(["-o", str(tmp_path)]) == 0
    assert "other: left out, because it needs a_package_that_nobody_has" in capsys.readouterr().out
    assert campaign.main(["other", "-o", str(tmp_path)]) == 1, "asked for by its name"


def test_a_step_that_is_done_is_not_run_again_and_one_that_failed_is(tmp_path, monkeypatch):
    script = tmp_path / "step.py"
    script.write_text("import json, pathlib, sys\n"
                      "folder = pathlib.Path(sys.argv[-1])\n"
                      "assert not list(folder.glob('row.json'))\n"
                      "count = folder.with_suffix('.count')\n"
                      "count.write_text(count.read_text() + '.' if count.exists() else '.')\n"
                      "bad = int(sys.argv[1])\n"
                      "row = {'times': 5, 'harmed': bad, 'note': {'steps': 5 - bad}, 'seconds': -1}\n"
                      "(folder / 'row.json').write_text(json.dumps(row))\n")
    monkeypatch.setattr(campaign, "commit", lambda: "abc")
    part = campaign.Part("power", ((str(script), "0"), (str(script), "1")), 10, "", "")
    for _ in range(2):
        row = campaign.run_part(part, tmp_path, again=False)
    assert (row["times"], row["harmed"], row["note"]) == (10, 1, {"steps": 5}) and row["seconds"] >= 0
    [folder] = tmp_path.glob("power_*/")
    assert [(folder / f"step_{number}.count").read_text() for number in (0, 1)] == [".", ".."]
    assert campaign.rows_in(tmp_path) == [json.loads(json.dumps(row))]
    with pytest.raises(campaign.NoResult, match="expected at least 99"):
        campaign.run_part(part._replace(floor=99), tmp_path, again=False)


def test_an_unknown_part_is_named(capsys):
    with pytest.raises(SystemExit):
        campaign.main(["powre"])
    assert "no part powre; there are power, sigkill" in capsys.readouterr().err


def test_a_part_that_leaves_nothing_fails_and_the_others_are_run(tmp_path, monkeypatch, capsys):
    def run_part(part, *_):
        if part.name == "power":
            raise campaign.NoResult("power left nothing")
        return {**ROW, "part": part.name}

    monkeypatch.setattr(campaign, "run_part", run_part)
    monkeypatch.setattr(campaign, "write_tables", lambda rows: None)
    assert campaign.main(["power", "flips", "-o", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "power left nothing" in told.err and "flips: 1000 faults, 0 not withstood" in told.out


def test_every_reader_of_the_hostile_files_is_a_step():
    assert set(campaign.READERS) == set(parsers.PARSERS)
