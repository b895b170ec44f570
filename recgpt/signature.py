"""Names, types and shapes of the tensors that cross the border of an exported graph.

The only place where they are written down. The exporter, the backends, Triton's ``config.pbtxt`` and the tests all read
them here.

Axes: B batch, T history (right-padded), S new tokens, P cached tokens, E excluded items, J interests,
L blocks, H heads, Dh width of a head, D width of the model, K the most items that a recall graph gives.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass, replace

USER_IDS = "user_ids"
INPUT_IDS = "input_ids"
SEGMENT_IDS = "segment_ids"
LENGTHS = "lengths"
EXCLUDED_IDS = "excluded_ids"
PAST_KEY_VALUES = "past_key_values"
PRESENT_KEY_VALUES = "present_key_values"
INTEREST = "interest"
INTERESTS = "interests"
NEXT_IDS = "next_ids"
GENERATED_IDS = "generated_ids"
QUOTAS = "quotas"
RECALLED_IDS = "recalled_ids"
SCORES = "scores"
STEPS = "steps"
IS_WHOLE = "is_whole"

ITEM_IDS = "item_ids"
USER_ID = "user_id"
HISTORY = "history"
K = "k"
MERGE = "merge"
FILTER_SEEN = "filter_seen"
BLOCKED = "blocked"
ALLOWED = "allowed"
FACTS = "facts"

ITEM_MATRIX = "item_matrix"
"""Not at the border: the weight (V + 1, D) by which items are scored, row 0 for padding, where a graph holds it."""

INT64 = "int64"
FLOAT32 = "float32"
STRING = "string"
BOOL = "bool"

MAX_RECALLED = 100
"""K, the most items of one answer of a graph that recalls, if the export is not told another number."""


@dataclass(frozen=True)
class TensorSpec:
    """One tensor at the border of a graph.

    Attributes:
        name: name in the ONNX file, in Triton and in the code.
        dtype: numpy name of the element type; ``string`` for UTF-8.
        axes: one entry an axis: a letter for a size that the model or the request decides, a number for a fixed one.
            The first is always the batch; a scalar per request has shape (B, 1), because Triton batches on axis 0 and
            wants at least one more.
        optional: whether an input may be left out.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]
    optional: bool = False


@dataclass(frozen=True)
class GraphSpec:
    """One exported graph: its name and its tensors, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def only(self, *names: str) -> GraphSpec:
        """The same graph when these outputs are asked of it and no others."""
        return replace(self, outputs=tuple(tensor for tensor in self.outputs if tensor.name in names))


_USER = TensorSpec(USER_IDS, INT64, ("B", 1))
_LENGTHS = TensorSpec(LENGTHS, INT64, ("B", 1))
_EXCLUDED = TensorSpec(EXCLUDED_IDS, INT64, ("B", "E"))
_INTEREST = TensorSpec(INTEREST, FLOAT32, ("B", "D"))
_NEXT = TensorSpec(NEXT_IDS, INT64, ("B", 1))

PREFILL = GraphSpec(
    name="prefill",
    inputs=(
        _USER,
        TensorSpec(INPUT_IDS, INT64, ("B", "T")),
        TensorSpec(SEGMENT_IDS, INT64, ("B", "T")),
        _LENGTHS,
        _EXCLUDED,
    ),
    outputs=(_INTEREST, _NEXT, TensorSpec(PRESENT_KEY_VALUES, FLOAT32, ("B", "L", 2, "H", "T", "Dh"))),
)

DECODE = GraphSpec(
    name="decode",
    inputs=(
        _USER,
        TensorSpec(INPUT_IDS, INT64, ("B", "S")),
        TensorSpec(SEGMENT_IDS, INT64, ("B", "S")),
        _LENGTHS,
        _EXCLUDED,
        TensorSpec(PAST_KEY_VALUES, FLOAT32, ("B", "L", 2, "H", "P", "Dh")),
    ),
    outputs=(_INTEREST, _NEXT, TensorSpec(PRESENT_KEY_VALUES, FLOAT32, ("B", "L", 2, "H", "P+S", "Dh"))),
)


@functools.cache
def interests_spec(num_interests: int) -> GraphSpec:
    """The fused graph that unrolls ``num_interests`` autoregressive steps.

    Nothing follows the last interest, so there are J - 1 generated items, and no such tensor for J = 1.
    """
    interests = TensorSpec(INTERESTS, FLOAT32, ("B", num_interests, "D"))
    generated = TensorSpec(GENERATED_IDS, INT64, ("B", num_interests - 1))
    return GraphSpec(
        name=f"interests_{num_interests}",
        inputs=PREFILL.inputs,
        outputs=(interests, generated) if num_interests > 1 else (interests,),
    )


@functools.cache
def recall_spec(num_interests: int) -> GraphSpec:
    """The graph that recalls in one go: ``num_interests`` steps, exact search, and merge by quotas.

    ``excluded_ids`` are neither generated nor recalled. ``quotas`` may be 0; what the lists do not hold is row 0, score
    0, step 0.
    """
    lists = (
        TensorSpec(RECALLED_IDS, INT64, ("B", "K")),
        TensorSpec(SCORES, FLOAT32, ("B", "K")),
        TensorSpec(STEPS, INT64, ("B", "K")),
    )
    return GraphSpec(
        name=f"recall_{num_interests}",
        inputs=(*PREFILL.inputs, TensorSpec(QUOTAS, INT64, ("B", num_interests))),
        outputs=(*lists, *interests_spec(num_interests).only(GENERATED_IDS).outputs),
    )


@functools.cache
def recall_scan_spec(num_interests: int) -> GraphSpec:
    """The same where the search scans the catalogue in 8 bits first; for batches, and lists of few of the items.

    ``is_whole`` is 1, or 0 where the scan left too much in doubt: the lists may then miss items.
    """
    graph = recall_spec(num_interests)
    outputs = (*graph.outputs, TensorSpec(IS_WHOLE, INT64, ("B", 1)))
    return replace(graph, name=f"recall_scan_{num_interests}", outputs=outputs)


def recall_engine_spec(item_dtype: str, user_dtype: str) -> GraphSpec:
    """The model that is a whole engine: no graph, and in the users' own ids.

    Args:
        item_dtype: of item ids, ``int64`` or ``string``.
        user_dtype: of user ids, likewise.

    Its axes have letters of their own, since a client may widen those of the graphs and must not widen these.

    What a row does not fill is padded: ``history`` and ``segment_ids`` behind ``lengths`` with anything, ``quotas``
    with 0, ``blocked`` and ``allowed`` with any of their ids again. Outputs are padded likewise, and ``facts`` counts:
    generated items, unknown items of the history, unknown ids of the filters; and says with 0 or 1: shared user,
    popular items.
    """
    return GraphSpec(
        name="recall_engine",
        inputs=(
            TensorSpec(HISTORY, item_dtype, ("B", "N")),
            TensorSpec(LENGTHS, INT64, ("B", 1)),
            TensorSpec(K, INT64, ("B", 1)),
            TensorSpec(USER_ID, user_dtype, ("B", 1), optional=True),
            TensorSpec(SEGMENT_IDS, INT64, ("B", "N"), optional=True),
            TensorSpec(QUOTAS, INT64, ("B", "Q"), optional=True),
            TensorSpec(MERGE, STRING, ("B", 1), optional=True),
            TensorSpec(FILTER_SEEN, BOOL, ("B", 1), optional=True),
            TensorSpec(BLOCKED, item_dtype, ("B", "X"), optional=True),
            TensorSpec(ALLOWED, item_dtype, ("B", "A"), optional=True),
        ),
        outputs=(
            TensorSpec(ITEM_IDS, item_dtype, ("B", "K")),
            TensorSpec(SCORES, FLOAT32, ("B", "K")),
            TensorSpec(STEPS, INT64, ("B", "K")),
            TensorSpec(GENERATED_IDS, item_dtype, ("B", "G")),
            TensorSpec(FACTS, INT64, ("B", 5)),
        ),
    )


def graph_spec(name: str) -> GraphSpec:
    """The specification of a graph by its name; KeyError if there is none of that name."""
    if name == PREFILL.name:
        return PREFILL
    if name == DECODE.name:
        return DECODE
    match = re.fullmatch(r"(interests|recall|recall_scan)_([1-9]\d*)", name)
    if match is None:
        raise KeyError(name)
    specs = {"interests": interests_spec, "recall": recall_spec, "recall_scan": recall_scan_spec}
    return specs[match.group(1)](int(match.group(2)))
