# SPDX-License-Identifier: Apache-2.0
"""Progress is what the caller asked for: a bar, silence, or what fits the standard error."""

from __future__ import annotations

import logging

from beitv2_core.engine.progress import Progress, showing


def lines_of(caplog) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "beitv2_core"), Progress("train", 4, 0, images_per_step=2) as progress:
        progress.line(1, {"loss": 2.0})
        progress.say(2, {"top1": 0.5})
    return caplog.messages


def test_without_a_terminal_there_are_lines_of_the_log_unless_silence_is_asked_for(caplog, capfd):
    assert len(lines_of(caplog)) == 2
    with showing(False):
        assert lines_of(caplog) == []
        with showing(None):
            assert lines_of(caplog) == [], "an inner function keeps what was asked for"
    assert len(lines_of(caplog)) == 2 and capfd.readouterr().out == ""


def test_a_bar_that_is_asked_for_is_shown_where_no_terminal_is(caplog, capfd):
    with showing(True):
        assert lines_of(caplog) == []
    shown = capfd.readouterr()
    assert "train" in shown.err and shown.out == ""
