"""A graph to one ONNX file, checked, with the names and axes of ``recgpt.signature``.

Knows how to export; not what a bundle is, nor how good the result is (see ``recgpt.graphs.parity``).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path

import onnx
import onnx_ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from onnxscript.optimizer import optimize_ir
from torch import nn
from torch.onnx import OnnxExporterError

from recgpt.errors import ExportError
from recgpt.files import atomic_path
from recgpt.graphs.guard import guarded
from recgpt.graphs.half import TABLES, halve_tables
from recgpt.graphs.modules import NextItem
from recgpt.graphs.operators import TRANSLATIONS
from recgpt.graphs.recall import Graph
from recgpt.graphs.scan import ScannedNextItem
from recgpt.graphs.tracing import DYNAMIC_AXES, example_inputs, export_copy
from recgpt.model.decoder import Decoder
from recgpt.signature import ITEM_MATRIX

# The oldest set that has Gelu as one operator; ONNX Runtime has loaded it, and the IR version 10 that the exporter
# writes with it, since 1.18.
OPSET = 20

# A single ONNX file is one protobuf message, which cannot be larger.
MAX_BYTES = 2**31 - 1


class Precision(StrEnum):
    """In which numbers a graph holds the catalogue and looks for the next item.

    Attributes:
        FLOAT32: all of it; every item is scored. For execution providers without integer products, as on GPUs.
        FLOAT16: as float32, but tables are stored in half precision, so files are half as large.
        INT8: tables in float32 and the catalogue in 8 bits besides, through which the next item is looked for, and
            short lists for batches; the best are then scored in float32.
    """

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


_NEXT_ITEMS: Mapping[Precision, Callable[[Decoder], nn.Module]] = {
    Precision.FLOAT32: NextItem,
    Precision.FLOAT16: NextItem,
    Precision.INT8: ScannedNextItem,
}


def write_onnx(graph: Graph, path: Path, *, metadata: Mapping[str, str], precision: Precision = Precision.INT8) -> None:
    """Exports one graph to a single file, weights inside.

    Args:
        graph: what to export; it is not changed.
        path: the file, wholly written or not at all.
        metadata: goes into the file's ``metadata_props``.
        precision: of the catalogue, and of the search for the next item.

    Raises:
        ExportError: a weight is NaN, infinite or beyond the precision, the model is too large for one file, or the
            exporter refuses it.
        OutputError: the file cannot be written.
    """
    copied = export_copy(graph, _NEXT_ITEMS[precision])
    num_bytes = _stored_bytes(copied, precision)
    if num_bytes > MAX_BYTES:
        raise ExportError(
            f"{graph.spec.name}: the weights have {num_bytes} bytes in {precision}; expected at most {MAX_BYTES}, "
            f"which one ONNX file holds. Export with --precision float16, which takes the least, or use a smaller "
            f"hidden_size or a smaller catalogue"
        )
    model = _export(copied)
    optimize_ir(model, should_fold=_may_fold)
    if precision is Precision.FLOAT16:
        halve_tables(model)
    _name_item_matrix(model, graph.decoder)
    # Each node carries the stack trace that made it, with paths of this machine.
    ClearMetadataAndDocStringPass()(model)
    model.graph.name = graph.spec.name
    model.metadata_props.update(metadata)
    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    with atomic_path(path) as temporary:
        onnx.save(proto, temporary)


def _stored_bytes(graph: Graph, precision: Precision) -> int:
    """What the weights of a graph take in its file; the catalogue in 8 bits is a buffer of the graph."""
    weights = itertools.chain(graph.named_parameters(), graph.named_buffers())
    halved = TABLES if precision is Precision.FLOAT16 else ()
    return sum(weight.nbytes // (2 if name.endswith(halved) else 1) for name, weight in weights)


def _export(graph: Graph) -> onnx_ir.Model:
    spec = graph.spec
    axes = [{place: axis for place, axis in enumerate(t.axes) if axis in DYNAMIC_AXES} for t in spec.inputs]
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                guarded(graph),
                example_inputs(graph),
                dynamo=True,
                opset_version=OPSET,
                external_data=False,
                input_names=[tensor.name for tensor in spec.inputs],
                output_names=[tensor.name for tensor in spec.outputs],
                dynamic_shapes=axes,
                custom_translation_table=dict(TRANSLATIONS),
                optimize=False,
                verbose=False,
            )
    except OnnxExporterError as error:
        raise ExportError(f"{spec.name}: PyTorch's ONNX exporter refuses the model: {error}") from error
    if program is None:
        raise ExportError(f"{spec.name}: PyTorch's ONNX exporter gave no model; install the pinned versions of torch")
    return program.model


def _name_item_matrix(model: onnx_ir.Model, decoder: Decoder) -> None:
    """Gives the item matrix the same name in all graphs, so that a process can hold it once."""
    ending = ".item_embedding.weight" if decoder.output is None else ".output.weight"
    for name, table in list(model.graph.initializers.items()):
        if name.endswith(ending):
            table.name = ITEM_MATRIX


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Leaves out what the exporter says on every call and no user can act on."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    registration.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            # torch.export deep-copies its own tree specifications by a constructor that it deprecated itself.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # All inputs name their batch axis B; it remarks on each after the first that B is taken, by B.
            warnings.filterwarnings("ignore", r"# The axis name: (\w) will not be used.*: \1\.", UserWarning)
            yield
    finally:
        registration.removeFilter(_is_news)


def _may_fold(node: onnx_ir.Node) -> bool | None:
    # These would be a second copy of a weight, of the item matrix among them; runtimes fold them when they load.
    return False if node.op_type in ("Transpose", "Pad") else None


def _is_news(record: logging.LogRecord) -> bool:
    # It registers operators of torchvision, which no graph of ours has.
    return "torchvision is not installed" not in record.getMessage()
