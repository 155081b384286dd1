# SPDX-License-Identifier: Apache-2.0
"""A saved static graph as ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle

from ..errors import ConfigError, ExportError, MissingDependencyError

OPSET = 17


def require_onnx_tools() -> None:
    """Raise ConfigError on Paddle 2 and MissingDependencyError with the command to type where a package is missing."""
    if paddle.__version__.startswith("2."):
        raise ConfigError(f"--format onnx: paddle2onnx needs Paddle 3, this is {paddle.__version__}. Install "
                          "paddlepaddle>=3.0, or use --format paddle.")
    for module in ("paddle2onnx", "onnx", "onnxruntime"):
        try:
            __import__(module)
        except ImportError as error:
            raise MissingDependencyError(f"--format onnx: {module} cannot be imported ({error}). "
                                         "Type: pip install 'beitv2-core[onnx]'") from None


def write_onnx(graph: Path, weights: Path, target: Path, outputs: Sequence[str]) -> None:
    """Translate a graph that `paddle.jit.save` wrote to opset 17; input `images`, outputs by name, any batch size.

    Raises ExportError naming what paddle2onnx said.
    """
    import onnx
    import paddle2onnx

    try:
        # optimize_tool "None": the default lets polygraphy install packages by pip.
        content = paddle2onnx.export(str(graph), str(weights), opset_version=OPSET, auto_upgrade_opset=False,
                                     optimize_tool="None")
    except Exception as error:  # it logs the cause and then fails with whatever comes next
        raise ExportError(f"{graph.name}: paddle2onnx cannot translate this graph: {error}. Its log names the "
                          "operator; use --format paddle.") from None
    model = onnx.load_model_from_string(content)
    _name_ends(model.graph, outputs)
    _read_constants_directly(model.graph)
    _drop_unread(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(target))


def _name_ends(graph: Any, outputs: Sequence[str]) -> None:
    """Name the outputs and the batch axis."""
    names = {value.name: name for value, name in zip(graph.output, outputs)}
    for node in graph.node:
        for ends in (node.input, node.output):
            for i, end in enumerate(ends):
                ends[i] = names.get(end, end)
    for value in graph.output:
        value.name = names[value.name]
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"


def _read_constants_directly(graph: Any) -> None:
    """Make operators read weights themselves, not copies of them by `Identity`: a quantizer has to see them.

    Constants that are nodes become initialisers.  A copy that is an output stays.
    """
    from onnx import helper, numpy_helper

    ends = {value.name for value in graph.output}
    source: dict[str, str] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = source.get(name, name)
        if node.op_type == "Identity" and node.output[0] not in ends:
            source[node.output[0]] = node.input[0]
        elif node.op_type == "Constant" and [attribute.name for attribute in node.attribute] == ["value"]:
            value = numpy_helper.to_array(helper.get_attribute_value(node.attribute[0]))
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            node.ClearField("output")  # read by nobody now


def _drop_unread(graph: Any) -> None:
    """Take out operators and constants that no output depends on: paddle2onnx writes them, onnxruntime warns of each.

    The nodes are in the order in which they compute, and hold no graphs of their own: full graphs of our models have
    neither branches nor loops.
    """
    read = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            nodes.append(node)
            read.update(node.input)
    constants = [constant for constant in graph.initializer if constant.name in read]
    for table, kept in ((graph.node, nodes[::-1]), (graph.initializer, constants)):
        del table[:]
        table.extend(kept)
