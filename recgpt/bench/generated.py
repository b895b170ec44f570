"""Exports of the paper's shape over generated catalogues of any size, made once and kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import recgpt
from recgpt.bundle import MANIFEST, Bundle
from recgpt.config import PAPER_SHAPE
from recgpt.data.ids import IdMap
from recgpt.training_state import PROMPT_TUNED, TrainingState

if TYPE_CHECKING:
    from recgpt.model.decoder import Decoder

NUM_INTERESTS = 2

# What decides what an export looks like.
_CODE = (
    "graphs/*.py",
    "model/*.py",
    "bundle.py",
    "recall/layout.py",
    "recall/index_*.py",
    "bench/catalogues.py",
    "bench/generated.py",
)

# Histories that an approximate index is fitted to; as many items as those of the growing catalogues.
_NUM_EXAMPLES = 64
_EXAMPLE_LENGTHS = (3, 31)


def generated_bundle(num_items: int, cache: Path, *, say: Callable[[str], None]) -> Bundle:
    """The export of the stand-in model of ``recgpt.bench.growth`` for so many items, made if it is not there.

    Args:
        num_items: V; a million take some minutes.
        cache: folder of all of them.
        say: told what is made.
    """
    folder = bundle_folder(num_items, cache)
    if not (folder / MANIFEST).is_file():
        from recgpt.bench.growth import grown_decoder

        say(f"exporting a model of {num_items:,} items to {folder}, once")
        folder.parent.mkdir(parents=True, exist_ok=True)
        for outdated in cache.glob(f"{num_items}-*"):
            shutil.rmtree(outdated)
        # A graph of one interest is what the index in the loop asks, step by step.
        export_decoder(grown_decoder(num_items), folder, num_interests=(1, NUM_INTERESTS))
    return Bundle.open(folder)


def bundle_folder(num_items: int, cache: Path) -> Path:
    """Where ``generated_bundle`` keeps what is exported of the model that is measured now by the code as it is now."""
    package = Path(recgpt.__file__).parent
    described = hashlib.sha256(f"{PAPER_SHAPE} {NUM_INTERESTS}".encode())
    for path in sorted(path for pattern in _CODE for path in package.glob(pattern)):
        described.update(path.read_bytes())
    return cache / f"{num_items}-{described.hexdigest()[:12]}"


def exported_sizes(sizes: Sequence[int], cache: Path) -> Sequence[int]:
    """The sizes that ``generated_bundle`` has made, since the largest take minutes; the first if there is none."""
    return [size for size in sizes if (bundle_folder(size, cache) / MANIFEST).is_file()] or sizes[:1]


def export_decoder(decoder: Decoder, folder: Path, *, num_interests: Sequence[int]) -> Bundle:
    """Writes a bundle around a decoder of one user; ids are rows, histories random.

    Args:
        decoder: of any weights.
        folder: of the bundle; its parent is there.
        num_interests: the J of each fused graph.
    """
    from recgpt.graphs.export import ONNX, export_bundle
    from recgpt.model.checkpoint import Checkpoint

    num_items = decoder.num_items
    generator = np.random.default_rng(0)
    lengths = generator.integers(*_EXAMPLE_LENGTHS, _NUM_EXAMPLES)
    checkpoint = Checkpoint(
        decoder=decoder,
        item_ids=IdMap(range(1, num_items + 1)),
        user_ids=IdMap([1]),
        popularity=np.concatenate([[0], np.ones(num_items, dtype=np.int64)]),
        training=TrainingState(stage=PROMPT_TUNED, num_prompts=1, num_epochs=0, seed=0, data="generated"),
        examples=tuple((1, generator.integers(1, num_items + 1, length)) for length in lengths),
    )
    export_bundle(checkpoint, folder, ONNX, num_interests=num_interests, say=lambda line: None)
    return Bundle.open(folder)
