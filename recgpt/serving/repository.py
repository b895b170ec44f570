"""Triton's model repository: a ``config.pbtxt`` a graph, rendered from the signature, and the versions of its file.

    triton_models/
      prefill/  config.pbtxt  configs/bounded.pbtxt  <version>/model.onnx
      decode/   ...
      recall_engine/ config.pbtxt  <version>/      a whole engine, see recgpt.serving.engine_files
      published.json          versions that a bundle store put here; an export leaves them alone

All versions in the folder are served, and a client asks for one by number. So a repository that was left half written,
with a version of some graphs and not yet of others, serves the older version as if nothing had happened.

``configs/bounded.pbtxt`` is the same with a bounded queue, for servers that are started with
``--model-config-name=bounded``, as those in production are.

The files are for NVIDIA's own ONNX Runtime backend; the stand-in of this package takes them as they are. Knows nothing
of bundles, nor of how a server is started.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from recgpt.errors import OutputError
from recgpt.files import atomic_path, remove_folder, sha256
from recgpt.serving.graph_sizes import graph_sizes
from recgpt.signature import GraphSpec, TensorSpec, graph_spec

CONFIG = "config.pbtxt"
BOUNDED = "configs/bounded.pbtxt"
MODEL = "model.onnx"
HELD = "published.json"

MAX_BATCH_SIZE = 256
"""Rows of one execution; a client splits larger batches."""

_DATA_TYPES = {"int64": "TYPE_INT64", "float32": "TYPE_FP32", "string": "TYPE_STRING", "bool": "TYPE_BOOL"}

# Bounds of the queue. Two full batches wait at most, whoever comes then is told at once; what waits for a second is not
# run any more, since its caller has most likely given up.
MAX_QUEUE_SIZE = 2 * MAX_BATCH_SIZE
MAX_QUEUE_MICROSECONDS = 1_000_000

# No delay: rows are batched while the graph runs anyway, and a delay costs every single request.
#
# No queue policy in config.pbtxt: with a bound on size or time, Triton 2.51 now and then lets a request lie for half a
# second before it looks at it, if no other one comes (of 4,000 requests of a single client 12 with a bound on the size,
# 3 with one on the time, 33 with a delay beside it; none of a single client's but 3 of three clients' with two
# instances; none without bounds). The clients' deadlines bound the queue too: Triton drops requests whose caller gave
# up. Where many clients call, the next request wakes it.
_CONFIG = """\
# Written by the export from recgpt.signature, over whatever stands here. To serve with other settings, put a copy into
# configs/NAME.pbtxt beside this file and start the server with --model-config-name=NAME.
name: "{name}"
backend: "{backend}"
max_batch_size: {max_batch_size}
{tensors}
instance_group [ {{ count: 1 kind: KIND_AUTO }} ]
version_policy {{ all {{ }} }}
dynamic_batching {{ max_queue_delay_microseconds: 0{queue_policy} }}
parameters {{ key: "{threads}" value: {{ string_value: "1" }} }}
"""
NUM_THREADS = "num_threads"
"""Parameter of the engine's settings: threads of model and index."""


class ServedFolder(Protocol):
    """A model whose version is a folder of its own making.

    Attributes:
        name: of the model.
        version: of this folder.
        configs: text of ``config.pbtxt`` and its kind, by file name.
    """

    name: str
    version: int
    configs: Mapping[str, str]

    def write(self, folder: Path) -> None:
        """Makes the folder of the version."""

    def stands_at(self, folder: Path) -> bool:
        """Whether a folder is this version."""


_QUEUE_POLICY = f"""
  default_queue_policy {{
    max_queue_size: {MAX_QUEUE_SIZE} default_timeout_microseconds: {MAX_QUEUE_MICROSECONDS}
    timeout_action: REJECT allow_timeout_override: true }}"""


def model_config(graph: GraphSpec, sizes: Mapping[str, int], *, bounded: bool = False) -> str:
    """Renders ``config.pbtxt`` of one graph.

    Args:
        graph: its tensors.
        sizes: the sizes that the model decides, by axis letter (L, H, Dh, D); a letter that is not there becomes -1,
            any size. The native backend refuses to load a model whose fixed sizes the file does not repeat exactly.
        bounded: refuse requests beyond ``MAX_QUEUE_SIZE`` that wait, and those that wait too long.

    Returns:
        The text of the file; the batch axis is left out of ``dims``, as Triton wants it.
    """
    return _config(
        graph,
        sizes,
        backend="onnxruntime",
        threads="intra_op_thread_count",
        queue_policy=_QUEUE_POLICY if bounded else "",
    )


def model_configs(graph: GraphSpec, sizes: Mapping[str, int]) -> dict[str, str]:
    """All settings of one graph: text by file name."""
    return {CONFIG: model_config(graph, sizes), BOUNDED: model_config(graph, sizes, bounded=True)}


def engine_configs(model: GraphSpec) -> dict[str, str]:
    """All settings of a model in Python, which takes requests of different shapes together."""
    return {
        file: _config(model, {}, backend="python", threads=NUM_THREADS, queue_policy=policy)
        for file, policy in ((CONFIG, ""), (BOUNDED, _QUEUE_POLICY))
    }


def write_repository(
    folder: Path, graphs: Mapping[str, Path], version: int, *, engine: ServedFolder | None = None
) -> None:
    """Puts exported graphs into a model repository as their only version beside those that a bundle store holds.

    Arguments and errors as of ``add_version``.
    """
    add_version(folder, graphs, version, engine=engine)
    new = {version} if engine is None else {version, engine.version}
    remove_versions(folder, keep={*new, *held_versions(folder)})


def add_version(folder: Path, graphs: Mapping[str, Path], version: int, *, engine: ServedFolder | None = None) -> None:
    """Puts exported graphs into a model repository beside what is there.

    All is written into hidden folders, and renamed when everything is written, so a server that starts meanwhile sees
    whole models and versions only. A file that stands already is not touched, so a server need not load it again.

    Args:
        folder: the repository; made if it is not there.
        graphs: ONNX file of each graph, by its name in ``recgpt.signature``.
        version: positive; the name of the version folders.
        engine: a further model to put there.

    Raises:
        OutputError: the folder cannot be written, the disk is full, or a held version has other sizes, and one
            ``config.pbtxt`` cannot serve both; the repository is as it was.
        DependencyError: ONNX Runtime, which tells the sizes of the graphs, is not installed.
    """
    specs = {name: graph_spec(name) for name in graphs}
    configs: dict[str, Mapping[str, str]] = {
        name: model_configs(specs[name], graph_sizes(path, specs[name])) for name, path in graphs.items()
    }
    numbers = dict.fromkeys(graphs, version)
    if engine is not None:
        configs[engine.name] = engine.configs
        numbers[engine.name] = engine.version
    _refuse_other_sizes(folder, configs, held_versions(folder) - {version})
    models = {name: folder / name for name in numbers}
    made = [folder, *models.values(), *(models[name] / str(number) for name, number in numbers.items())]
    others = _models(folder)
    with _undone_on_failure(made), contextlib.ExitStack() as stack:
        for name, model in models.items():
            # A model that comes to others comes whole: a server does not start where one lacks settings or a version.
            if others and not model.exists():
                models[name] = stack.enter_context(atomic_path(model, hidden_in=others[0]))
        for name, path in graphs.items():
            place = models[name] / str(version)
            if not _is_copy(place / MODEL, path):
                staged = stack.enter_context(atomic_path(place))
                staged.mkdir()
                shutil.copyfile(path, staged / MODEL)
        if engine is not None:
            place = models[engine.name] / str(engine.version)
            if not engine.stands_at(place):
                engine.write(stack.enter_context(atomic_path(place)))
        for name, texts in configs.items():
            for file, text in texts.items():
                if _text(models[name] / file) != text:
                    stack.enter_context(atomic_path(models[name] / file)).write_text(text)


def remove_versions(folder: Path, *, keep: Collection[int]) -> None:
    """Removes all other versions of the graphs in a repository, and graphs without a version, whatever they are.

    Each goes in one step. A later number goes as well, such as a wrong clock gave. What no export wrote stays.
    """
    models = _models(folder)
    staying = [model for model in models if set(model_versions(model)) & set(keep)]
    for model in models:
        if model in staying or not _is_all_ours(model):
            for version in set(model_versions(model)) - set(keep):
                remove_folder(model / str(version))
        elif staying:
            # A model without a version keeps a server from starting, and so would a hidden folder beside it.
            remove_folder(model, hidden_in=staying[0])
        else:
            shutil.rmtree(model, ignore_errors=True)


def all_versions(folder: Path) -> dict[str, list[int]]:
    """The versions of each exported graph in a repository, ascending, by the graph's name."""
    return {model.name: model_versions(model) for model in _models(folder)}


def held_versions(folder: Path) -> frozenset[int]:
    """The versions that a bundle store keeps in a repository; OutputError if the list cannot be read."""
    text = _text(folder / HELD)
    try:
        return frozenset(int(version) for version in json.loads(text)["versions"]) if text else frozenset()
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(
            f"{folder / HELD} is not the list of versions that recgpt bundle publish wrote; remove it and publish again"
        ) from error


def hold_versions(folder: Path, versions: Iterable[int]) -> None:
    """Writes down which versions an export must leave alone."""
    # Hidden within a model: Triton takes every folder beside the models for one more, and does not start.
    with atomic_path(folder / HELD, hidden_in=next(iter(_models(folder)), None)) as temporary:
        temporary.write_text(json.dumps({"versions": sorted(versions)}) + "\n")


def model_versions(model: Path) -> list[int]:
    """The versions of one model of a repository that hold a file, ascending."""
    folders = [path for path in model.iterdir() if path.is_dir() and path.name.isdecimal() and path.name[0] != "0"]
    return sorted(int(path.name) for path in folders if any(path.iterdir()))


def _config(model: GraphSpec, sizes: Mapping[str, int], *, backend: str, threads: str, queue_policy: str) -> str:
    ragged = " allow_ragged_batch: true" if backend == "python" else ""
    tensors = [_tensor("input", tensor, sizes, ragged) for tensor in model.inputs]
    tensors += [_tensor("output", tensor, sizes) for tensor in model.outputs]
    return _CONFIG.format(
        name=model.name,
        backend=backend,
        max_batch_size=MAX_BATCH_SIZE,
        tensors="\n".join(tensors),
        threads=threads,
        queue_policy=queue_policy,
    )


def _tensor(kind: str, tensor: TensorSpec, sizes: Mapping[str, int], ragged: str = "") -> str:
    dims = [axis if isinstance(axis, int) else sizes.get(axis, -1) for axis in tensor.axes[1:]]
    more = (ragged if -1 in dims else "") + (" optional: true" if tensor.optional else "")
    return f'{kind} [ {{ name: "{tensor.name}" data_type: {_DATA_TYPES[tensor.dtype]} dims: {dims}{more} }} ]'


@contextlib.contextmanager
def _undone_on_failure(folders: list[Path]) -> Iterator[None]:
    """Removes, if the block fails, those of the folders that it made."""
    new = [folder for folder in folders if not folder.exists()]
    try:
        yield
    except OutputError:
        for folder in new:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _refuse_other_sizes(folder: Path, configs: Mapping[str, Mapping[str, str]], held: frozenset[int]) -> None:
    for name, texts in configs.items():
        present = _text(folder / name / CONFIG)
        if present and _tensors(present) != _tensors(texts[CONFIG]) and held & set(model_versions(folder / name)):
            raise OutputError(
                f"{folder / name} holds the published version(s) {sorted(held)} with tensors of other sizes, and "
                f"Triton serves one size a model; nothing was changed: choose another --model-repository, with a "
                f"server of its own, and move the clients there"
            )


def _tensors(config: str) -> list[str]:
    return [line for line in config.splitlines() if line.startswith(("input ", "output "))]


def _models(folder: Path) -> list[Path]:
    """The models of a repository whose settings an export wrote."""
    header = _CONFIG.partition("\n")[0]
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [model for model in found if (_text(model / CONFIG) or "").startswith(header)]


def _is_all_ours(model: Path) -> bool:
    """Whether nothing is in a model's folder but versions, settings of an export, and what is hidden."""
    names = {path.name for path in model.iterdir() if path.name[0] != "."} - set(map(str, model_versions(model)))
    return names <= {CONFIG, "configs"} and {path.name for path in model.glob("configs/*")} <= {Path(BOUNDED).name}


def _text(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _is_copy(copy: Path, original: Path) -> bool:
    return copy.is_file() and sha256(copy) == sha256(original)
