"""The small model, served once for all tests that need a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_model import Export, Graphs, Served, bundle_copy, random_checkpoint

from recgpt.bundle import Bundle
from recgpt.graphs.export import ONNX, export_bundle
from recgpt.serving.engine_files import EngineFiles
from recgpt.serving.repository import write_repository
from recgpt.serving.server import TritonServer

VERSION = 20261121080000


@pytest.fixture(scope="session")
def small_graphs(export: Export) -> Graphs:
    bundle = Bundle.open(export.bundle)
    files = bundle.graphs()
    # The fewer models a server has, the sooner it is ready.
    return Graphs({name: files[name] for name in ("prefill", "decode", "interests_2")}, bundle.manifest.model)


@pytest.fixture(scope="session")
def other_bundle(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another training of the same catalogue, without the graph of six interests; later than the first."""
    bundle = tmp_path_factory.mktemp("other") / "bundle"
    export_bundle(random_checkpoint(seed=1), bundle, ONNX, num_interests=(2,), say=lambda text: None)
    assert Bundle.open(bundle).manifest.version > Bundle.open(export.bundle).manifest.version
    return bundle


@pytest.fixture(scope="session")
def served_bundle(export: Export, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of the models on the shared server, in the version that they have there."""
    folder = tmp_path_factory.mktemp("served_bundle") / "bundle"
    return bundle_copy(export.bundle, folder, version=VERSION, num_interests=(2,))


@pytest.fixture(scope="session")
def served(small_graphs: Graphs, served_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, bundle = tmp_path_factory.mktemp("served"), Bundle.open(served_bundle)
    graphs = {**small_graphs.files, **bundle.recall_graphs()}
    write_repository(folder / "models", graphs, VERSION, engine=EngineFiles.of(bundle))
    with TritonServer(folder / "models", log=folder / "tritonserver.log") as server:
        yield Served(server, small_graphs, folder / "models")
