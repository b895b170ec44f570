"""Names, types and shapes of the tensors that cross the border of an exported graph.

The only place where they are written down. The exporter, the backends, Triton's ``config.pbtxt`` and the tests all read
them here.

Axes: B batch, T history (right-padded), S new tokens, P cached tokens, E excluded items, J interests,
L blocks, H heads, Dh width of a head, D width of the model.
"""

from __future__ import annotations

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

ITEM_MATRIX = "item_matrix"
"""Not at the border: the weight (V + 1, D) by which items are scored, row 0 for padding, where a graph holds it."""

INT64 = "int64"
FLOAT32 = "float32"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor at the border of a graph.

    Attributes:
        name: name in the ONNX file, in Triton and in the code.
        dtype: numpy name of the element type.
        axes: one entry an axis: a letter for a size that the model or the request decides, a number for a fixed one.
            The first is always the batch; a scalar per request has shape (B, 1), because Triton batches on axis 0 and
            wants at least one more.
    """

    name: str
    dtype: str
    axes: tuple[str | int, ...]


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


def graph_spec(name: str) -> GraphSpec:
    """The specification of a graph by its name; KeyError if there is none of that name."""
    if name == PREFILL.name:
        return PREFILL
    if name == DECODE.name:
        return DECODE
    match = re.fullmatch(r"interests_([1-9]\d*)", name)
    if match is None:
        raise KeyError(name)
    return interests_spec(int(match.group(1)))
