# SPDX-License-Identifier: Apache-2.0
"""YAML that anybody may have written: one kind of error for whatever is wrong, at a bounded cost."""

from __future__ import annotations

from typing import Any

import yaml

from .files.json_text import MAX_DEPTH, TOO_DEEP

#: characters of a YAML text, which Python reads at 0.1 MB a second, and its values with every alias written out
MAX_YAML = 500_000
MAX_YAML_VALUES = 200_000


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """`yaml.load` that raises yaml.YAMLError alone.

    Its constructors raise anything for a value that is none of its kind (`!!float abc`, the 99th of a month).  Aliases
    make few lines stand for billions of values, or for one that holds itself; both are refused before a value is made,
    and so are texts beyond `MAX_YAML`, `MAX_YAML_VALUES` and `MAX_DEPTH`.
    """
    if len(text) > MAX_YAML:
        raise yaml.YAMLError(f"it is longer than {MAX_YAML:,} characters")
    try:
        made = loader(text)
        try:
            node = made.get_single_node()
            if node is None:
                return None
            _check_aliases(node)
            return made.construct_document(node)
        finally:
            made.dispose()
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError(TOO_DEEP) from None
    except Exception as error:  # see above
        raise yaml.YAMLError(f"a value is none of its kind ({type(error).__name__}: {error})") from None


def _check_aliases(root: yaml.Node) -> None:
    """Raise YAMLError where the values below a node, every alias written out, are too many, too deep or endless."""
    known: dict[int, tuple[int, int]] = {}  # node: how many values it stands for, and in how many levels
    above: set[int] = set()
    waiting = [(root, False)]
    while waiting:
        node, counted = waiting.pop()
        inside = _nodes_in(node)
        if counted:
            above.discard(id(node))
            values = 1 + sum(known[id(one)][0] for one in inside)
            depth = 1 + max((known[id(one)][1] for one in inside), default=0)
            if values > MAX_YAML_VALUES:
                raise yaml.YAMLError(f"with its aliases written out it has more than {MAX_YAML_VALUES:,} values")
            if depth > MAX_DEPTH + 1:
                raise yaml.YAMLError(TOO_DEEP)
            known[id(node)] = values, depth
        elif id(node) in above:
            raise yaml.YAMLError("an alias stands inside the value that it names")
        elif id(node) not in known:
            above.add(id(node))
            waiting += [(node, True), *((one, False) for one in inside)]


def _nodes_in(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [one for pair in node.value for one in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
