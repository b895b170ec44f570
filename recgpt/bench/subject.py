"""What a benchmark measures: the bundle that was exported last, and the checkpoint it was made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recgpt.bundle import MANIFEST, Bundle
from recgpt.errors import BundleMismatchError, CheckpointError

if TYPE_CHECKING:
    from recgpt.model.checkpoint import Checkpoint

Say = Callable[[str], None]

BUNDLE = Path("artifacts/bundle")
BUILT_BUNDLE = Path("artifacts/benchmark_bundle")
BUILT_CHECKPOINT = Path("artifacts/benchmark_run/ckpt.pt")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An export, and the weights it was made of.

    Attributes:
        bundle: the export.
        checkpoint: None if it was not found; then there is no eager PyTorch to compare with.
    """

    bundle: Bundle
    checkpoint: Checkpoint | None


def find_subject(bundle: Path | None, checkpoint: Path | None, *, say: Say) -> Subject:
    """Opens what there is, or builds something small.

    Args:
        bundle: None takes artifacts/bundle, and builds one with random weights if that is missing.
        checkpoint: None looks for it beside the bundle.
        say: told what was built, or why the checkpoint is missing.

    Raises:
        BundleError: ``bundle`` is none.
        BundleMismatchError: ``checkpoint`` is not the one that the bundle was exported from.
    """
    if bundle is None and not (BUNDLE / MANIFEST).is_file():
        say(f"{BUNDLE} is missing: nothing was exported yet. Measuring a small model with random weights instead")
        return build_subject(BUILT_BUNDLE, BUILT_CHECKPOINT, say=say)
    opened = Bundle.open(bundle or BUNDLE)
    if checkpoint is None:
        found = _checkpoint_beside(opened)
        if found is None:
            say(
                f"no checkpoint of this bundle beside {opened.path}: the row of eager PyTorch, and all comparisons "
                "with it, are left out; name the checkpoint with --checkpoint"
            )
        return Subject(bundle=opened, checkpoint=found)
    from recgpt.model.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    if not _belongs(loaded, opened):
        raise BundleMismatchError(
            f"{checkpoint} holds other item vectors than bundle {opened.path}; expected the checkpoint that was "
            f"exported: name it, or run: python export/to_onnx.py {checkpoint} --out {opened.path}"
        )
    return Subject(bundle=opened, checkpoint=loaded)


def build_subject(bundle: Path, checkpoint: Path, *, say: Say) -> Subject:
    """Exports a small model with random weights, over generated data; times do not depend on weights."""
    import torch

    from recgpt.config import PAPER_SHAPE
    from recgpt.data.split import leave_one_out
    from recgpt.data.synthetic import generate
    from recgpt.graphs.export import ONNX, export_bundle
    from recgpt.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from recgpt.model.decoder import Decoder
    from recgpt.training_state import PRETRAINED, TrainingState

    interactions = generate(num_users=2000, num_items=2000, seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        decoder = Decoder(PAPER_SHAPE, num_items=interactions.num_items, num_users=interactions.num_users)
    made = Checkpoint(
        decoder=decoder,
        item_ids=interactions.item_ids,
        user_ids=interactions.user_ids,
        popularity=interactions.popularity(leave_one_out(interactions).train),
        training=TrainingState(stage=PRETRAINED, num_prompts=0, num_epochs=0, seed=0, data="generated"),
        examples=tuple((row, interactions.sequences[row - 1]) for row in range(1, 101)),
    )
    save_checkpoint(checkpoint, made)
    export_bundle(made, bundle, ONNX, num_interests=(2, 6), say=say)
    return Subject(bundle=Bundle.open(bundle), checkpoint=load_checkpoint(checkpoint))


def _checkpoint_beside(bundle: Bundle) -> Checkpoint | None:
    """The newest checkpoint with the bundle's item vectors in the folder around the bundle, or one below that."""
    folder = bundle.path.resolve().parent
    found = sorted([*folder.glob("*.pt"), *folder.glob("*/ckpt.pt")], key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    from recgpt.model.checkpoint import load_checkpoint

    for path in reversed(found):
        try:
            checkpoint = load_checkpoint(path)
        except CheckpointError:
            continue  # some other project's file
        if _belongs(checkpoint, bundle):
            return checkpoint
    return None


def _belongs(checkpoint: Checkpoint, bundle: Bundle) -> bool:
    from recgpt.eager import item_matrix
    from recgpt.recall.index import vectors_digest

    return vectors_digest(item_matrix(checkpoint.decoder)[1:]) == bundle.manifest.item_matrix_sha256
