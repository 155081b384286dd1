# SPDX-License-Identifier: Apache-2.0
"""JSON and YAML of anybody: a value, or one kind of error, soon."""

from __future__ import annotations

import json

import pytest
import yaml

from beitv2_core.files.json_text import MAX_DEPTH, parse_json
from beitv2_core.yaml_text import MAX_YAML, parse_yaml


@pytest.mark.parametrize("text", ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 900 + "1" + "}" * 900,
                                  "9" * 10_000, "", "{"])
def test_json_that_is_wrong_or_too_deep_is_a_value_error(text):
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_is_read_as_python_reads_it_up_to_the_depth():
    for tree in ({"a": [1, 2.5, None, "x"], "b": {}}, [], 3, "x", [[[]]]):
        assert parse_json(json.dumps(tree)) == tree
    deepest = "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH
    assert parse_json(deepest) == json.loads(deepest) and parse_yaml(deepest) == json.loads(deepest)


def aliases(first: str, line: str, count: int) -> str:
    return "\n".join([f"a0: &a0 {first}"] + [f"a{i}: &a{i} {line.replace('*', f'*a{i - 1}')}" for i in range(1, count)])


@pytest.mark.parametrize(("text", "said"), [
    (aliases("[x, x]", "[*, *, *, *, *]", 20), "more than 200,000 values"),
    (aliases("{k: 1}", "{a: *, b: *}", 40), "more than 200,000 values"),
    (aliases("[x]", "[*]", 200), "nested more than"), ("a: &a {b: *a}", "inside the value"),
    ("a: &a [[*a]]", "inside the value"), ("[" * 3000, "nested more than"), ("{a: " * 300 + "1" + "}" * 300, "nested"),
    ("a: !!float abc", "none of its kind"), ("a: !!int abc", "none of its kind"), ("a: !!timestamp abc", "kind"),
    ("a: 2001-99-99", "none of its kind"), ("a: 0x_", "none of its kind"), ("a: !!bool maybe", "none of its kind"),
    ("a: !!python/object/apply:os.system [x]", "could not determine"), ("x" * (MAX_YAML + 1), "longer than"),
    ("a: \0", "special characters"), ("a: *gone", "undefined alias"),
])
def test_yaml_that_is_wrong_or_costs_much_is_a_yaml_error(text, said):
    with pytest.raises(yaml.YAMLError, match=said):
        parse_yaml(text)


def test_yaml_is_read_as_its_library_reads_it_with_aliases():
    text = "base: &b {x: [1, 2], y: 2001-02-03}\nagain: *b\nmore: {<<: *b, x: 3}\nnone:\n"
    assert parse_yaml(text) == yaml.safe_load(text) and parse_yaml("") is None
