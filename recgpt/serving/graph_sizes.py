"""The sizes that an ONNX file fixes, for settings that must repeat them."""

from __future__ import annotations

from pathlib import Path

from recgpt.extras import require
from recgpt.signature import GraphSpec


def graph_sizes(path: Path, graph: GraphSpec) -> dict[str, int]:
    """The sizes that an ONNX file fixes, by the axis letters of its signature, as ONNX Runtime sees them."""
    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    shapes = {node.name: node.shape for node in (*session.get_inputs(), *session.get_outputs())}
    return {
        axis: size
        for tensor in (*graph.inputs, *graph.outputs)
        for axis, size in zip(tensor.axes, shapes[tensor.name], strict=True)
        if isinstance(axis, str) and isinstance(size, int)
    }
