"""Triton's model repository: a ``config.pbtxt`` a graph, rendered from the signature, and the versions of its file.

    triton_models/
      prefill/  config.pbtxt  <version>/model.onnx
      decode/   ...

The files are for NVIDIA's own ONNX Runtime backend; the stand-in of this package takes them as they are. Knows nothing
of bundles, nor of how a server is started.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from recgpt.errors import OutputError
from recgpt.extras import require
from recgpt.files import atomic_path
from recgpt.signature import GraphSpec, TensorSpec, graph_spec

CONFIG = "config.pbtxt"
MODEL = "model.onnx"

MAX_BATCH_SIZE = 256
"""Rows of one execution; a client splits larger batches."""

_DATA_TYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32"}

# No delay: rows are batched while the graph runs anyway, and a delay costs every single request. No queue policy: with
# a bound on size or time, Triton 2.51 now and then lets a request lie for half a second before it looks at it (about 1
# in 500 of a single client's). The clients' deadlines bound the queue too: Triton drops requests whose caller gave up.
_CONFIG = """\
# Written by the export from recgpt.signature, over whatever stands here. To serve with other settings, put a copy into
# configs/NAME.pbtxt beside this file and start the server with --model-config-name=NAME.
name: "{name}"
backend: "onnxruntime"
max_batch_size: {max_batch_size}
{tensors}
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
version_policy {{ latest {{ num_versions: 1 }} }}
dynamic_batching {{ max_queue_delay_microseconds: 0 }}
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
"""


def model_config(graph: GraphSpec, sizes: Mapping[str, int]) -> str:
    """Renders ``config.pbtxt`` of one graph.

    Args:
        graph: its tensors.
        sizes: the sizes that the model decides, by axis letter (L, H, Dh, D); a letter that is not there becomes -1,
            any size. The native backend refuses to load a model whose fixed sizes the file does not repeat exactly.

    Returns:
        The text of the file; the batch axis is left out of ``dims``, as Triton wants it.
    """
    tensors = [_tensor("input", tensor, sizes) for tensor in graph.inputs]
    tensors += [_tensor("output", tensor, sizes) for tensor in graph.outputs]
    return _CONFIG.format(name=graph.name, max_batch_size=MAX_BATCH_SIZE, tensors="\n".join(tensors))


def write_repository(folder: Path, graphs: Mapping[str, Path], version: int) -> None:
    """Puts exported graphs into a model repository as their only version.

    Every file is written beside its place and then renamed, so a server that starts meanwhile, or polls, sees whole
    versions only. Earlier versions go when all new ones stand.

    Args:
        folder: the repository; made if it is not there.
        graphs: ONNX file of each graph, by its name in ``recgpt.signature``.
        version: positive; the name of the version folders.

    Raises:
        OutputError: the folder cannot be written, or the disk is full; the repository is as it was.
        DependencyError: ONNX Runtime, which tells the sizes of the graphs, is not installed.
    """
    specs = {name: graph_spec(name) for name in graphs}
    configs = {name: model_config(specs[name], graph_sizes(path, specs[name])) for name, path in graphs.items()}
    with _undone_on_failure([folder / name for name in graphs]), contextlib.ExitStack() as stack:
        for name, path in graphs.items():
            staged = stack.enter_context(atomic_path(folder / name / str(version)))
            staged.mkdir()
            shutil.copyfile(path, staged / MODEL)
            config = folder / name / CONFIG
            if not config.is_file() or config.read_text() != configs[name]:
                stack.enter_context(atomic_path(config)).write_text(configs[name])
    for name in graphs:
        _remove_other_versions(folder / name, version)


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


def model_versions(model: Path) -> list[int]:
    """The versions of one model of a repository that hold a file, ascending."""
    folders = [path for path in model.iterdir() if path.is_dir() and path.name.isdecimal() and path.name[0] != "0"]
    return sorted(int(path.name) for path in folders if any(path.iterdir()))


def _tensor(kind: str, tensor: TensorSpec, sizes: Mapping[str, int]) -> str:
    dims = [axis if isinstance(axis, int) else sizes.get(axis, -1) for axis in tensor.axes[1:]]
    return f'{kind} [ {{ name: "{tensor.name}" data_type: {_DATA_TYPES[tensor.dtype]} dims: {dims} }} ]'


@contextlib.contextmanager
def _undone_on_failure(models: list[Path]) -> Iterator[None]:
    """Removes, if the block fails, the folders that it made: a model without a version keeps a server from starting."""
    new = [model for model in (models[0].parent, *models) if not model.exists()] if models else []
    try:
        yield
    except OutputError:
        for model in new:
            shutil.rmtree(model, ignore_errors=True)
        raise


def _remove_other_versions(model: Path, version: int) -> None:
    # Triton serves the highest number, so a later one that a wrong clock gave must go as well.
    for other in model_versions(model):
        if other != version:
            shutil.rmtree(model / str(other), ignore_errors=True)
