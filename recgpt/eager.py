"""Recall straight from a checkpoint, in PyTorch: for evaluation, and for what exports are held against."""

from __future__ import annotations

import numpy as np

from recgpt.backends.eager import EagerBackend
from recgpt.model.checkpoint import Checkpoint
from recgpt.model.decoder import Decoder
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index import ItemIndex
from recgpt.recall.recaller import Recaller
from recgpt.types import Float32Array


def eager_recaller(checkpoint: Checkpoint) -> Recaller:
    """A recaller that runs the checkpoint's decoder and recomputes the whole sequence for every step."""
    return Recaller(
        EagerBackend(checkpoint.decoder),
        ItemIndex.build(item_matrix(checkpoint.decoder)),
        catalogue_of(checkpoint),
        prompt_tuned=checkpoint.training.is_prompt_tuned,
    )


def catalogue_of(checkpoint: Checkpoint) -> Catalogue:
    """Ids and popularity of a checkpoint."""
    return Catalogue(item_ids=checkpoint.item_ids, user_ids=checkpoint.user_ids, popularity=checkpoint.popularity)


def item_matrix(decoder: Decoder) -> Float32Array:
    """The output matrix (V + 1, D) float32 of a decoder, row 0 being padding."""
    matrix: Float32Array = decoder.item_matrix.detach().cpu().numpy().astype(np.float32)
    return matrix
