# SPDX-License-Identifier: Apache-2.0
"""Tables of classes, name -> labels of the files: palettes, greys and colours, merged and void labels."""

from __future__ import annotations

import forms
import numpy as np
import pytest
from forms import check_equal, of_form
from own_data import COLOURS, as_png, palette, scene, settings

from beitv2_core.errors import ConfigError, DataError
from beitv2_seg.data.forms import samples_of


@pytest.mark.parametrize(("save", "table"), [
    (lambda label, path: as_png(COLOURS[label], path),
     {"ground": [0, 0, 0], "red": "#800000", "green": "0,128,0"}),
    (palette, {"ground": 0, "red": 1, "green": 2}),
    (palette, {"ground": "#008000", "red": [128, 0, 0], "green": [0, 0, 0]}),  # its palette is in the other order
    (palette, {"ground": 0, "red": "#800000", "green": 2}),
    (as_png, {"ground": 0, "red": 1, "green": 2}),
    (as_png, {"ground": 0, "red": 1, "green": "rest"}),
    (lambda label, path: as_png(np.dstack([label] * 3), path), {"ground": 0, "red": 1, "green": 2}),
    (lambda label, path: as_png(np.array([0, 128, 255], np.uint8)[label], path),
     {"ground": 0, "red": 128, "green": 255}),
])
def test_a_table_of_classes_reads_palettes_greys_and_colours(tmp_path, save, table):
    image, label = scene()
    forms.save_pair(tmp_path / "data" / "images" / "a.jpg", image, tmp_path / "data" / "masks" / "a.png", label)
    save(label, tmp_path / "data" / "masks" / "a.png")
    found = samples_of(of_form(tmp_path / "data", tmp_path, classes=table), "train_dataset")
    check_equal(found, {"a": label})


def test_labels_are_merged_and_void_ones_ignored(tmp_path):
    image, label = scene()
    forms.save_pair(tmp_path / "data" / "images" / "a.jpg", image, tmp_path / "data" / "masks" / "a.png",
                    COLOURS[label])
    config = of_form(tmp_path / "data", tmp_path, model__num_classes=2, ignore_index=9,
                     classes={"ground": "#000000", "thing": [[128, 0, 0]], "ignore": ["#008000"]})
    check_equal(samples_of(config, "train_dataset"), {"a": np.array([0, 1, 9])[label]})
    config = of_form(tmp_path / "data", tmp_path, model__num_classes=2,
                     classes={"ground": "#000000", "thing": ["#800000", "#008000"]})
    check_equal(samples_of(config, "train_dataset"), {"a": np.array([0, 1, 1])[label]})


@pytest.mark.parametrize(("save", "table", "fact"), [
    (as_png, {"ground": 0, "red": 1, "x": 7}, "a.png: labels 2 are neither .*0, 1, 7.*ignore.*rest"),
    (lambda label, path: as_png(COLOURS[label], path), {"ground": "#000000", "red": "#800000", "x": "#ffffff"},
     "a.png: .* pixels have colours .*: 0,128,0. Add"),
    (palette, {"ground": 0, "red": 1, "x": [2, "#008000"]}, "a.png: pixels of label 0 have the colour 0,128,0"),
])
def test_a_label_that_the_table_does_not_name_or_names_twice_is_refused(tmp_path, save, table, fact):
    image, label = scene()
    forms.save_pair(tmp_path / "data" / "images" / "a.jpg", image, tmp_path / "data" / "masks" / "a.png", label)
    save(label, tmp_path / "data" / "masks" / "a.png")
    with pytest.raises(DataError, match=fact):
        samples_of(of_form(tmp_path / "data", tmp_path, classes=table), "train_dataset").label(0)


@pytest.mark.parametrize(("table", "fact"), [
    ({"a": [1, 2, 3], "b": 4, "c": 5}, r"a: \[1, 2, 3\] may be a colour .*'#010203'.*\['1', '2', '3'\]"),
    ({"a": 1, "b": [1, 2], "c": 3}, "label '1' is named by a and by b"),
    ({"a": "red", "b": 1, "c": 2}, "a: 'red' is no label"),
    ({"a": 0, "b": "rest", "c": "rest"}, "c and b are both rest"),
    ({"a": 0, "b": 1}, "2 different names, but model.num_classes is 3"),
    ({"a": 0, "b": [], "c": 1}, "b has no label"),
    ({"a": 0, "b": -1, "c": 1}, "b: -1 is no label"),
])
def test_a_table_that_cannot_hold_is_refused(tmp_path, table, fact):
    with pytest.raises(ConfigError, match=fact):
        settings(tmp_path, tmp_path, classes=table)


def test_a_table_is_names_and_a_map_in_the_run_and_neither_beside_another_map(tmp_path):
    table = {"road": [128, 64, 128], "sky": 2, "car": "#00008e", "ignore": [255, "#ffffff"]}
    config = settings(tmp_path, tmp_path, classes=table)
    assert config.classes == ["road", "sky", "car"] and config.unlisted_labels == "refuse"
    assert config.label_map == {"128,64,128": 0, "2": 1, "0,0,142": 2, "255": 255, "255,255,255": 255}
    merged = settings(tmp_path, tmp_path, classes={"a": ["13", "14", "15"], "b": 4, "c": 5})
    assert merged.label_map == {"13": 0, "14": 0, "15": 0, "4": 1, "5": 2}
    with pytest.raises(ConfigError, match="label_map: classes is a table"):
        settings(tmp_path, tmp_path, classes=table, label_map={1: 0})
