"""Tables of vectors in half precision: half the bytes on disk, the same computation in float32.

A row is widened after it was looked up. Where a table is multiplied as a whole, the runtime widens it once, when it
loads the file.
"""

from __future__ import annotations

import numpy as np
import onnx_ir

from recgpt.errors import ExportError

TABLES = (".item_embedding.weight", ".output.weight", ".user_embedding.weight")
"""How the names of the tables end; all else in a graph is small."""


def halve_tables(model: onnx_ir.Model) -> None:
    """Stores item and user vectors in float16.

    Raises:
        ExportError: a weight is beyond float16's range; names the table.
    """
    for name, table in list(model.graph.initializers.items()):
        if name.endswith(TABLES):
            _store_half(name, table)
            for node, place in list(table.uses()):
                if node.op_type == "Gather":
                    _widen_rows(node)
                else:
                    _widen_input(node, place)


def _store_half(name: str, table: onnx_ir.Value) -> None:
    values = table.const_value
    if values is None:
        raise ExportError(f"{name}: PyTorch's ONNX exporter stored no values; install the pinned versions of torch")
    with np.errstate(over="ignore"):
        half = values.numpy().astype(np.float16)
    if not np.isfinite(half).all():
        raise ExportError(
            f"{name} holds weights beyond {np.finfo(np.float16).max:g}, which float16 cannot hold; export with "
            "--precision int8 or float32"
        )
    table.const_value = onnx_ir.tensor(half, name=name)
    table.dtype = onnx_ir.DataType.FLOAT16


def _widen_rows(gather: onnx_ir.Node) -> None:
    rows = gather.outputs[0]
    cast = _cast(rows)
    wide = cast.outputs[0]
    wide.shape = rows.shape
    for node, place in list(rows.uses()):
        if node is not cast:
            node.replace_input_with(place, wide)
    rows.dtype = onnx_ir.DataType.FLOAT16
    _graph_of(gather).insert_after(gather, cast)


def _widen_input(node: onnx_ir.Node, place: int) -> None:
    table = node.inputs[place]
    cast = _cast(table)
    cast.outputs[0].shape = table.shape if table is not None else None
    node.replace_input_with(place, cast.outputs[0])
    _graph_of(node).insert_before(node, cast)


def _cast(value: onnx_ir.Value | None) -> onnx_ir.Node:
    cast = onnx_ir.node("Cast", [value], {"to": onnx_ir.DataType.FLOAT})
    cast.outputs[0].dtype = onnx_ir.DataType.FLOAT
    return cast


def _graph_of(node: onnx_ir.Node) -> onnx_ir.Graph:
    if not isinstance(node.graph, onnx_ir.Graph):
        raise ExportError(f"{node.name}: an operator outside the main graph; install the pinned versions of torch")
    return node.graph
