"""A model of random weights, what its export leaves, and random requests to it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from recgpt.backends.base import ModelSpec
from recgpt.bundle import NEIGHBOURS, Bundle, Manifest, write_manifest
from recgpt.config import ModelConfig
from recgpt.data.ids import IdMap
from recgpt.model.checkpoint import Checkpoint
from recgpt.model.decoder import Decoder
from recgpt.recall.index_ann import IndexKind
from recgpt.recall.index_fit import fit_neighbours
from recgpt.serving.server import TritonServer
from recgpt.training_state import TrainingState
from recgpt.types import RecallRequest

NUM_ITEMS, NUM_USERS, MAX_LENGTH = 300, 10, 20


@dataclass(frozen=True)
class Export:
    """What one run of export/to_onnx.py left."""

    checkpoint: Checkpoint
    checkpoint_file: Path
    bundle: Path
    repository: Path
    printed: str


@dataclass(frozen=True)
class Graphs:
    """ONNX files of one model, by graph."""

    files: dict[str, Path]
    spec: ModelSpec


@dataclass(frozen=True)
class Served:
    """A running server and what it serves."""

    server: TritonServer
    graphs: Graphs
    repository: Path


def bundle_copy(source: Path, target: Path, **changes: object) -> Path:
    """A bundle with other values in its manifest; its hashes are right."""
    shutil.copytree(source, target)
    manifest: Manifest = replace(Bundle.open(target).manifest, **changes)
    write_manifest(target, manifest)
    return target


def approximate_copy(source: Path, target: Path, kind: IndexKind) -> Path:
    """A bundle of the same model whose items are searched in another way."""
    index = Bundle.open(source).index()
    queries = np.random.default_rng(0).standard_normal((50, index.size)).astype(np.float32)
    neighbours, facts = fit_neighbours(index, kind, queries)
    shutil.copytree(source, target)
    neighbours.save(target / NEIGHBOURS)
    write_manifest(target, replace(Bundle.open(target).manifest, index=facts))
    return target


def random_checkpoint(seed: int = 0) -> Checkpoint:
    """Weights large enough that every input counts; item row r has the id "i<r>", user row u the id 100 u."""
    torch.manual_seed(seed)
    config = ModelConfig(max_length=MAX_LENGTH, hidden_size=16, num_blocks=1, num_heads=2, ffn_size=32)
    decoder = Decoder(config, num_items=NUM_ITEMS, num_users=NUM_USERS)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    rng = np.random.default_rng(seed)
    popularity = rng.integers(0, 50, NUM_ITEMS + 1)
    popularity[0] = 0
    return Checkpoint(
        decoder=decoder.eval(),
        item_ids=IdMap([f"i{row}" for row in range(1, NUM_ITEMS + 1)]),
        user_ids=IdMap([100 * row for row in range(1, NUM_USERS + 1)]),
        popularity=popularity,
        training=TrainingState(stage="prompt_tuned", num_prompts=1, num_epochs=2, seed=seed, data="random"),
        examples=tuple((user, rng.integers(1, NUM_ITEMS + 1, 3 * user)) for user in (1, 4, 8)),
    )


def random_requests(number: int, *, seed: int = 0) -> list[RecallRequest]:
    """One to six interests; histories from none to twice the window, with unknown items, with and without segments."""
    rng = np.random.default_rng(seed)
    requests = []
    for _ in range(number):
        rows = rng.integers(-10, NUM_ITEMS + 1, rng.integers(0, 2 * MAX_LENGTH))
        quotas = rng.integers(1, 6, rng.integers(1, 7))
        requests.append(
            RecallRequest(
                history=[f"i{row}" for row in rows],
                user_id=100 * int(rng.integers(0, NUM_USERS + 1)),
                segments=rng.integers(0, 2, len(rows)) if rng.random() < 0.5 else None,
                k=int(quotas.sum()),
                quotas=quotas,
                filter_seen=bool(rng.random() < 0.8),
            )
        )
    return requests
