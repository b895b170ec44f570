"""Tokens to the named arrays of a graph, named arrays to outputs: the same for every backend that runs exported graphs.

Knows the tensor names of ``recgpt.signature`` and numpy; not what runs the graphs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recgpt import signature
from recgpt.backends.base import InterestsOutput, ModelSpec, RecallOutput, StepOutput, Tokens, check_tokens, highest
from recgpt.errors import BundleError, RequestError
from recgpt.types import Float32Array, Int64Array

NamedArrays = dict[str, NDArray[Any]]

_MOST = np.iinfo(np.int64).max


def prefill_feeds(tokens: Tokens) -> NamedArrays:
    """Inputs of ``prefill`` and of every ``interests_J``, in the order of the signature; C-contiguous int64.

    Scalars per request get their second axis here: (B,) -> (B, 1).
    """
    return {
        signature.USER_IDS: _int64(tokens.user_rows).reshape(-1, 1),
        signature.INPUT_IDS: _int64(tokens.item_rows),
        signature.SEGMENT_IDS: _int64(tokens.segments),
        signature.LENGTHS: _int64(tokens.lengths).reshape(-1, 1),
        signature.EXCLUDED_IDS: _int64(tokens.excluded),
    }


def decode_feeds(tokens: Tokens, past: Float32Array) -> NamedArrays:
    """Inputs of ``decode``: those of ``prefill`` and the cache, C-contiguous float32."""
    return prefill_feeds(tokens) | {signature.PAST_KEY_VALUES: np.ascontiguousarray(past, dtype=np.float32)}


def step_output(outputs: Mapping[str, NDArray[Any]]) -> StepOutput:
    """What ``prefill`` or ``decode`` gave, by the names of the signature."""
    return StepOutput(
        interest=outputs[signature.INTEREST],
        next_rows=outputs[signature.NEXT_IDS].reshape(-1),
        key_values=outputs[signature.PRESENT_KEY_VALUES],
    )


def interests_output(outputs: Mapping[str, NDArray[Any]]) -> InterestsOutput:
    """What ``interests_J`` gave, by the names of the signature."""
    interests = outputs[signature.INTERESTS]
    nothing = np.zeros((len(interests), 0), dtype=np.int64)
    return InterestsOutput(interests=interests, generated_rows=outputs.get(signature.GENERATED_IDS, nothing))


def recall_feeds(tokens: Tokens, quotas: Int64Array) -> NamedArrays:
    """Inputs of ``recall_J``: those of ``prefill``, and quotas (B, J)."""
    return prefill_feeds(tokens) | {signature.QUOTAS: _int64(quotas)}


def recall_output(outputs: Mapping[str, NDArray[Any]]) -> RecallOutput:
    """What ``recall_J`` gave, by the names of the signature."""
    rows = outputs[signature.RECALLED_IDS]
    return RecallOutput(
        rows=rows,
        scores=outputs[signature.SCORES],
        steps=outputs[signature.STEPS],
        generated_rows=outputs.get(signature.GENERATED_IDS, np.zeros((len(rows), 0), dtype=np.int64)),
    )


def check_recall(tokens: Tokens, quotas: Int64Array, recalls: Mapping[int, int]) -> int:
    """The number of interests that (B, J) quotas ask for; RequestError unless tokens and graphs, J -> K, can."""
    if quotas.ndim != 2 or len(quotas) != len(tokens) or highest(quotas) > _MOST:
        raise RequestError(f"quotas of shape {quotas.shape}: expected ({len(tokens)}, J) numbers of at least 0")
    num_interests = quotas.shape[1]
    if num_interests not in recalls:
        raise RequestError(
            f"{num_interests} quotas: no graph that recalls; expected one of {sorted(recalls)}. Search an index with "
            f"the interests, or export that number"
        )
    most = highest(quotas.sum(axis=1))
    if most > recalls[num_interests]:
        raise RequestError(
            f"{most} items: the graph gives at most {recalls[num_interests]}; ask for fewer, or search an index"
        )
    return num_interests


def check_decode(tokens: Tokens, past: Float32Array, spec: ModelSpec) -> None:
    """Refuses new tokens, or a cache, that do not fit the model or each other.

    Args:
        tokens: S new tokens a row; ``lengths`` counts the tokens already cached.
        past: (B, L, 2, H, P, Dh).
        spec: the model's sizes.

    Raises:
        RequestError: a shape, length or row is out of range; says which.
    """
    batch, num_new = tokens.item_rows.shape
    # All S tokens are real, so as tokens they are checked like a history that fills its width.
    check_tokens(replace(tokens, lengths=np.full(batch, num_new, dtype=np.int64)), spec, num_steps=1)
    num_past = past.shape[4] if past.ndim == 6 else 0
    expected = (batch, spec.num_blocks, 2, spec.num_heads, num_past, spec.head_size)
    if past.shape != expected or num_past < 1:
        raise RequestError(
            f"past has shape {past.shape}; expected (B, L, 2, H, P, Dh) = {(*expected[:4], 'P', expected[5])}"
        )
    longest = min(num_past, spec.max_length - num_new)
    low, high = int(tokens.lengths.min(initial=1)), int(tokens.lengths.max(initial=1))
    if tokens.lengths.shape != (batch,) or low < 1 or high > longest:
        raise RequestError(
            f"lengths {low}..{high} of shape {tokens.lengths.shape}: expected ({batch},) counts of cached tokens, "
            f"1..{longest}, for {num_new} new tokens, a cache of {num_past} and a window of {spec.max_length}"
        )


def check_fused(num_interests: int, fused: Collection[int]) -> None:
    """RequestError unless there is a fused graph for ``num_interests``."""
    if num_interests not in fused:
        raise RequestError(
            f"{num_interests} interests: no fused graph; expected one of {sorted(fused)}. Generate stepwise, or export "
            f"that number"
        )


def fused_numbers(graph_names: Collection[str]) -> frozenset[int]:
    """The J of each ``interests_J`` among the names of a model's graphs.

    Raises:
        BundleError: ``prefill`` or ``decode`` is not among them, or a name is no graph's.
    """
    missing = [spec.name for spec in (signature.PREFILL, signature.DECODE) if spec.name not in graph_names]
    if missing:
        raise BundleError(f"graphs {sorted(graph_names)}: {' and '.join(missing)} missing; export the checkpoint again")
    try:
        specs = [signature.graph_spec(name) for name in graph_names]
    except KeyError as error:
        raise BundleError(f"{error} is no graph; expected prefill, decode and interests_J with a number J") from error
    widths = [spec.outputs[0].axes[1] for spec in specs if spec.outputs[0].name == signature.INTERESTS]
    return frozenset(int(width) for width in widths)


def recall_numbers(graph_names: Collection[str]) -> frozenset[int]:
    """The J of each ``recall_J`` among the names of a model's graphs, all of which are graphs' names."""
    widths = [signature.graph_spec(name).inputs[-1] for name in graph_names]
    return frozenset(int(tensor.axes[1]) for tensor in widths if tensor.name == signature.QUOTAS)


def _int64(rows: NDArray[Any]) -> NDArray[np.int64]:
    return np.ascontiguousarray(rows, dtype=np.int64)
