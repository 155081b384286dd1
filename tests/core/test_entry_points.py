# SPDX-License-Identifier: Apache-2.0
"""What installed packages offer is found by name; a name of ours wins; a package that is broken is named."""

from __future__ import annotations

import pytest

from beitv2_core import _entry_points
from beitv2_core.errors import ConfigError, MissingDependencyError

OURS = {"blockwise": "ours"}


def test_ours_come_first_and_others_are_found_by_name(offer):
    offer("beitv2.tried", checkers="theirs", blockwise="a replacement")
    assert _entry_points.load("beitv2.tried", "blockwise", OURS, "mask.kind") == "ours"
    assert _entry_points.load("beitv2.tried", "checkers", OURS, "mask.kind") == "theirs"
    assert _entry_points.names("beitv2.tried", OURS) == ["blockwise", "checkers"]
    assert _entry_points.load_all("beitv2.tried", OURS) == {"blockwise": "ours", "checkers": "theirs"}
    assert _entry_points.modules("beitv2.tried") == {"offering_package"}


def test_an_unknown_name_lists_the_known_ones_and_the_nearest(offer):
    offer("beitv2.tried", checkers="theirs")
    with pytest.raises(ConfigError, match="mask.kind: there is no 'checker'. Did you mean 'checkers'. "
                                          "Known: blockwise, checkers; .*'beitv2.tried'"):
        _entry_points.load("beitv2.tried", "checker", OURS, "mask.kind")


def test_a_package_that_cannot_be_imported_is_named_with_the_cause_and_stops_only_who_asks_for_it(offer, monkeypatch,
                                                                                                   caplog):
    offer("beitv2.tried", broken=None, sound="theirs")
    monkeypatch.delattr("offering_package.broken")
    with pytest.raises(MissingDependencyError, match="mask.kind: 'broken' comes from the package offering.package .*"
                                                     "AttributeError: .*Repair or remove"):
        _entry_points.load("beitv2.tried", "broken", OURS, "mask.kind")
    assert _entry_points.load_all("beitv2.tried", OURS) == {**OURS, "sound": "theirs"}
    assert "offering" in caplog.text
