"""The layers of the design, held against the import statements themselves, lazy ones included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import recgpt

ROOT = Path(recgpt.__file__).parent

# A module's layer is that of the longest entry its name begins with; it imports from its own layer or a lower one.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("recgpt.errors",),
    (
        "recgpt.asking",
        "recgpt.config",
        "recgpt.types",
        "recgpt.turns",
        "recgpt.extras",
        "recgpt.files",
        "recgpt.training_state",
        "recgpt.store_state",
    ),
    ("recgpt.signature", "recgpt.metrics", "recgpt.list_metrics", "recgpt.data"),
    (
        "recgpt.backends.base",
        "recgpt.backends.asks",
        "recgpt.backends.tensors",
        "recgpt.recall.index",
        "recgpt.recall.onnx_bytes",
        "recgpt.recall.padded",
        "recgpt.recall.scan",
        "recgpt.model",
    ),
    ("recgpt.recall",),
    ("recgpt.evaluation", "recgpt.horizon", "recgpt.training", "recgpt.graphs"),
    ("recgpt.backends", "recgpt.remote", "recgpt.bundle", "recgpt.one_hop", "recgpt.serving", "recgpt.eager"),
    (
        "recgpt.live",
        "recgpt.engine",
        "recgpt.client",
        "recgpt.async_client",
        "recgpt.testing",
        "recgpt.telemetry",
        "recgpt.publishing",
        "recgpt.serving.recall_engine",
        "recgpt.tables",
        "recgpt.model_card",
        "recgpt.graphs.export",
        "recgpt.graphs.parity",
        "recgpt.evaluation_report",
    ),
    ("recgpt.demo", "recgpt.bench"),
    ("recgpt.cli",),
)

# The only modules that may import these, whatever the layer.
HOMES = {
    "torch": (
        "recgpt.model", "recgpt.training", "recgpt.graphs", "recgpt.backends.eager", "recgpt.backends.torch_graphs",
        "recgpt.backends.torchscript", "recgpt.bench",
    ),
    "lightning": ("recgpt.training",),
    "onnx": ("recgpt.graphs", "recgpt.bench"),
    "onnxscript": ("recgpt.graphs",),
    "onnxruntime": ("recgpt.backends.onnxruntime", "recgpt.recall.index", "recgpt.serving", "recgpt.bench"),
    "grpc": ("recgpt.backends.triton",),
    "tritonclient": ("recgpt.backends.triton", "recgpt.serving", "recgpt.bench"),
    "opentelemetry": ("recgpt.telemetry",),
    "faiss": ("recgpt.recall.index", "recgpt.bench"),
    "pytriton": ("recgpt.serving",),
    "matplotlib": ("recgpt.bench",),
    "mlperf_loadgen": ("recgpt.bench.loadgen",),
    "pyarrow": ("recgpt.data",),
    "scipy": ("recgpt.bench",),
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(path: Path) -> set[str]:
    """Dotted names imported anywhere in a file; not those for the type checker alone."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
            found.update(argument.value for argument in node.args if isinstance(argument, ast.Constant))
        pending.extend(ast.iter_child_nodes(node))
    return found


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}


def begins_with(name: str, prefix: str) -> bool:
    # "recgpt.graphs.parity" stands for parity_report too, "recgpt.data" not for a "recgpt.database".
    return name == prefix or name.startswith((prefix + ".", prefix + "_"))


def layer_of(name: str) -> int:
    prefixes = [(prefix, layer) for layer, names in enumerate(LAYERS) for prefix in names]
    matches = [(len(prefix), layer) for prefix, layer in prefixes if begins_with(name, prefix)]
    assert matches, f"{name} has no layer: add it to LAYERS"
    return max(matches)[1]


def own_modules(names: set[str]) -> set[str]:
    """The modules of the package among imported names; a name imported from a module stands for the module."""
    known = (name if name in MODULES else name.rpartition(".")[0] for name in names if begins_with(name, "recgpt"))
    return {name for name in known if name != "recgpt" and name in MODULES}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "recgpt" and MODULES[name].name != "__init__.py"])
def test_lower_layers_never_import_higher_ones(name: str) -> None:
    higher = {other for other in own_modules(IMPORTS[name]) if layer_of(other) > layer_of(name)}
    assert not higher, f"{name} (layer {layer_of(name)}) imports {higher}"


@pytest.mark.parametrize("library", HOMES)
def test_heavy_libraries_are_imported_at_home_only(library: str) -> None:
    users = {name for name, imported in IMPORTS.items() if library in {other.partition(".")[0] for other in imported}}
    strangers = {name for name in users if not any(begins_with(name, home) for home in HOMES[library])}
    assert not strangers


def test_nothing_goes_in_circles() -> None:
    graph = {name: own_modules(imported) - {name} for name, imported in IMPORTS.items()}
    while leaves := {name for name, needs in graph.items() if not needs & set(graph)}:
        graph = {name: needs for name, needs in graph.items() if name not in leaves}
    assert not graph, f"import each other: {sorted(graph)}"
