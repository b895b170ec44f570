"""Does an exported graph answer what PyTorch answers? Numbers for each tensor, and a verdict.

Two backends are compared on the same tokens: the reference, which recomputes whole sequences without a cache, and a
candidate. Both generate items by an argmax, so where two items score alike up to rounding they may choose differently
and both be right. Such a choice is judged by the interest error that would explain it, and the row is left out from the
next step on, since its sequence is another one from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recgpt.backends.base import InterestsOutput, ModelSpec, RecallBackend, RecallOutput, StepOutput, Tokens
from recgpt.errors import ParityError
from recgpt.recall.steps import feed_back, generate_stepwise
from recgpt.signature import INTEREST, INTERESTS, PRESENT_KEY_VALUES, SCORES, STEPS, recall_spec
from recgpt.types import Float32Array, Int64Array


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How far a candidate and the reference agree.

    Attributes:
        differences: largest absolute difference of each tensor, by "graph/tensor"; only entries that mean something.
        num_rows: rows of tokens that were compared.
        num_generated: generated items that were compared.
        num_generated_equal: those that were the same.
        generated_error: the largest error in any component of an interest that is needed to explain a differing item;
            infinity if it was one that must not be generated; 0 without differing items.
        k: length of the top-k lists.
        num_lists: top-k lists that were compared, one an interest.
        num_lists_equal: those that were the same, order included.
    """

    differences: dict[str, float]
    num_rows: int
    num_generated: int
    num_generated_equal: int
    generated_error: float
    k: int
    num_lists: int
    num_lists_equal: int

    @property
    def generated_agreement(self) -> float:
        """Fraction of generated items that were the same."""
        return self.num_generated_equal / max(self.num_generated, 1)

    @property
    def top_k_agreement(self) -> float:
        """Fraction of top-k lists that were the same."""
        return self.num_lists_equal / max(self.num_lists, 1)

    def rows(self) -> list[tuple[str, str]]:
        """What was compared and how it came out, for a table."""
        return [
            *((f"largest difference in {name}", f"{value:.1e}") for name, value in self.differences.items()),
            ("generated items that agree", f"{self.generated_agreement:.2%} of {self.num_generated}"),
            ("interest error that explains the others", f"{self.generated_error:.1e}"),
            (f"top-{self.k} lists that agree", f"{self.top_k_agreement:.2%} of {self.num_lists}"),
            ("rows compared", str(self.num_rows)),
        ]

    def require(self, tolerance: float) -> None:
        """Passes if nothing differs by more than rounding can explain.

        Args:
            tolerance: largest absolute difference allowed in any tensor.

        Raises:
            ParityError: names the tensor that differs most.
        """
        # The negation also catches NaN.
        bad = {name: value for name, value in self.differences.items() if not value <= tolerance}
        if bad:
            worst = max(bad, key=lambda name: math.inf if math.isnan(bad[name]) else bad[name])
            raise ParityError(
                f"{worst} differs from PyTorch by up to {bad[worst]:.3g}; expected at most {tolerance:.3g}"
                f" ({len(bad)} of {len(self.differences)} tensors differ by more). Do not serve this export; check the "
                f"versions of torch, onnx and onnxruntime"
            )
        if not self.generated_error <= tolerance:
            raise ParityError(
                f"generated_ids: {self.num_generated - self.num_generated_equal} of {self.num_generated} items differ "
                f"from PyTorch's, one by more than a near-tie: an error of {self.generated_error:.3g} in the interest "
                f"would explain it, expected at most {tolerance:.3g}. Do not serve this export; where the next item is "
                f"looked for in 8 bits, export with exact scores: --precision float32"
            )


def check_parity(
    reference: RecallBackend,
    candidate: RecallBackend,
    batches: Iterable[Tokens],
    *,
    num_interests: Sequence[int],
    item_matrix: Float32Array,
    k: int = 10,
) -> ParityReport:
    """Compares prefill, decode, fused graphs, the stepwise loop and graphs that recall, of two backends.

    Args:
        reference: usually ``EagerBackend``; its ``interests`` is the truth for the fused and the stepwise way alike.
        candidate: what is to be checked.
        batches: histories that leave room for the largest number of interests.
        num_interests: every J to compare as fused, beside the graphs that recall which both backends offer.
        item_matrix: (V + 1, D), row 0 for padding.
        k: length of the lists that are compared; cut to V.

    Raises:
        RequestError: a batch does not fit the model, or a J is not offered.
    """
    comparison = _Comparison(item_matrix, min(k, len(item_matrix) - 1))
    for tokens in batches:
        comparison.num_rows += len(tokens)
        _compare_steps(comparison, reference, candidate, tokens)
        for number in num_interests:
            expected = reference.interests(tokens, number)
            comparison.interests(f"interests_{number}", tokens, expected, candidate.interests(tokens, number))
            comparison.interests(f"stepwise_{number}", tokens, expected, generate_stepwise(candidate, tokens, number))
        for number in sorted(reference.recalls.keys() & candidate.recalls.keys()):
            quotas = np.tile([comparison.k - (number - 1)] + [1] * (number - 1), (len(tokens), 1))
            interests = generate_stepwise(reference, tokens, number).interests
            lists = reference.recall(tokens, quotas), candidate.recall(tokens, quotas)
            comparison.recall(recall_spec(number).name, tokens, interests, *lists)
    return comparison.report()


def compare_interests(
    tokens: Tokens, expected: InterestsOutput, found: InterestsOutput, *, item_matrix: Float32Array, k: int = 10
) -> ParityReport:
    """The part of ``check_parity`` that compares the interests of one batch."""
    comparison = _Comparison(item_matrix, min(k, len(item_matrix) - 1))
    comparison.num_rows = len(tokens)
    comparison.interests("compared", tokens, expected, found)
    return comparison.report()


def random_batches(spec: ModelSpec, *, max_interests: int, seed: int = 0) -> list[Tokens]:
    """Batches of random histories that leave room for ``max_interests``: of length 1, of the longest, and mixed.

    Users, the shared one among them, segments and exclusions are random too.
    """
    generator = np.random.default_rng(seed)
    # One decode is compared even where a single interest is asked for.
    longest = spec.max_length - max(max_interests - 1, 1)
    mixed = generator.integers(1, longest + 1, 16)
    return [
        _random_tokens(spec, np.asarray(lengths, dtype=np.int64), max_interests, generator)
        for lengths in ([1], [longest], [1, (1 + longest) // 2, longest], mixed)
    ]


class _Comparison:
    """Collects what a ParityReport says."""

    def __init__(self, item_matrix: Float32Array, k: int) -> None:
        self._matrix = item_matrix
        self._norms = np.abs(item_matrix).sum(axis=1)
        self.k = k
        self._differences: dict[str, float] = {}
        self._generated_error = 0.0
        self._num_generated = self._num_generated_equal = self._num_lists = self._num_lists_equal = 0
        self.num_rows = 0

    def tensor(self, name: str, expected: Float32Array | Int64Array, found: Float32Array | Int64Array) -> None:
        """Notes the largest difference of two arrays of one shape; NaN where either holds one."""
        if expected.shape != found.shape:
            raise ParityError(f"{name} has shape {found.shape}; expected {expected.shape} as from PyTorch")
        largest = np.max(np.abs(expected - found), initial=0.0)
        self._differences[name] = float(np.maximum(self._differences.get(name, 0.0), largest))

    def interests(self, name: str, tokens: Tokens, expected: InterestsOutput, found: InterestsOutput) -> None:
        """Compares all steps; a row counts until the step after its first differing item."""
        excluded = tokens.excluded
        same = np.ones(len(tokens), dtype=bool)
        num_generated = expected.generated_rows.shape[1]
        for step in range(expected.interests.shape[1]):
            truth, answer = expected.interests[same, step], found.interests[same, step]
            self.tensor(f"{name}/{INTERESTS}", truth, answer)
            self._lists(truth, answer, excluded[same])
            if step == num_generated:
                break
            rows, answers = expected.generated_rows[:, step], found.generated_rows[:, step]
            self.generated(truth, excluded[same], rows[same], answers[same])
            same &= rows == answers
            excluded = np.concatenate([excluded, rows[:, None]], axis=1)

    def generated(self, interests: Float32Array, excluded: Int64Array, rows: Int64Array, answers: Int64Array) -> None:
        """Counts equal items and finds what would explain the others, by the reference's scores."""
        self._num_generated += len(rows)
        self._num_generated_equal += int((rows == answers).sum())
        for place in np.flatnonzero(rows != answers):
            row, answer = rows[place], answers[place]
            if answer == 0 or answer in excluded[place]:
                self._generated_error = math.inf
                continue
            # An error of e in each component of the interest moves an item's score by at most e times its L1 norm.
            gap = float((self._matrix[row] - self._matrix[answer]) @ interests[place])
            reach = float(self._norms[row] + self._norms[answer])
            self._generated_error = max(self._generated_error, gap / reach if reach else 0.0)

    def recall(
        self, name: str, tokens: Tokens, interests: Float32Array, expected: RecallOutput, found: RecallOutput
    ) -> None:
        """Compares lists of rows for which the same items were generated; ``interests`` are the reference's.

        Scores are compared place by place, so that near-ties may be swapped, and with the true scores of the items
        found, both as the error in any component of an interest that would explain the difference.
        """
        same = (expected.generated_rows == found.generated_rows).all(axis=1)
        rows, scores, steps = (array[same, : self.k] for array in (found.rows, found.scores, found.steps))
        asked = np.take_along_axis(interests[same], np.maximum(steps - 1, 0)[:, :, None], axis=1)
        reach = np.maximum(np.maximum(self._norms[rows], self._norms[expected.rows[same, : self.k]]), 1.0)
        true_scores = (self._matrix[rows] * asked).sum(axis=2)
        for truth in (expected.scores[same, : self.k], true_scores):
            self.tensor(f"{name}/{SCORES}", truth / reach, scores / reach)
        self.tensor(f"{name}/{STEPS}", expected.steps[same, : self.k], steps)
        for answer, truth, excluded in zip(rows, expected.rows[same, : self.k], tokens.excluded[same], strict=True):
            self._num_lists += 1
            self._num_lists_equal += np.array_equal(truth, answer)
            if {0, *excluded.tolist()} & set(answer.tolist()) or len(set(answer.tolist())) < len(answer):
                self._generated_error = math.inf

    def report(self) -> ParityReport:
        """What was collected."""
        return ParityReport(
            differences=dict(self._differences),
            num_rows=self.num_rows,
            num_generated=self._num_generated,
            num_generated_equal=self._num_generated_equal,
            generated_error=self._generated_error,
            k=self.k,
            num_lists=self._num_lists,
            num_lists_equal=self._num_lists_equal,
        )

    def _lists(self, expected: Float32Array, found: Float32Array, excluded: Int64Array) -> None:
        for truth, answer in zip(self._scores(expected, excluded), self._scores(found, excluded), strict=True):
            self._num_lists += 1
            self._num_lists_equal += np.array_equal(_top_k(truth, self.k), _top_k(answer, self.k))

    def _scores(self, interests: Float32Array, excluded: Int64Array) -> Float32Array:
        scores = interests @ self._matrix.T
        np.put_along_axis(scores, excluded, -np.inf, axis=1)
        scores[:, 0] = -np.inf
        return scores


def _top_k(scores: Float32Array, k: int) -> NDArray[np.int64]:
    """Brute force over (V + 1,) scores: k rows by falling score, the lower row first among equals."""
    rows = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
    return rows[np.argsort(-scores[rows], kind="stable")][:k]


def _compare_steps(comparison: _Comparison, reference: RecallBackend, candidate: RecallBackend, tokens: Tokens) -> None:
    """One prefill, and one decode of the reference's item on each backend's own cache."""
    expected, found = reference.prefill(tokens), candidate.prefill(tokens)
    _compare_step(comparison, "prefill", tokens, tokens.lengths, expected, found)
    new_token = feed_back(tokens, [expected.next_rows])
    expected, found = reference.decode(new_token, expected.key_values), candidate.decode(new_token, found.key_values)
    _compare_step(comparison, "decode", new_token, tokens.lengths + 1, expected, found)


def _compare_step(
    comparison: _Comparison, graph: str, tokens: Tokens, num_cached: Int64Array, expected: StepOutput, found: StepOutput
) -> None:
    comparison.tensor(f"{graph}/{INTEREST}", expected.interest, found.interest)
    # What a cache holds behind its real tokens means nothing.
    real = np.arange(expected.key_values.shape[4]) < num_cached[:, None]
    real = real[:, None, None, None, :, None]
    comparison.tensor(
        f"{graph}/{PRESENT_KEY_VALUES}", np.where(real, expected.key_values, 0), np.where(real, found.key_values, 0)
    )
    comparison.generated(expected.interest, tokens.excluded, expected.next_rows, found.next_rows)


def _random_tokens(spec: ModelSpec, lengths: Int64Array, max_interests: int, generator: np.random.Generator) -> Tokens:
    batch, width = len(lengths), int(lengths.max())
    real = np.arange(width) < lengths[:, None]
    item_rows = generator.integers(1, spec.num_items + 1, (batch, width)) * real
    # Enough items stay free to generate one a step, however small the catalogue is.
    num_excluded = max(1, min(width, spec.num_items - max_interests))
    return Tokens(
        user_rows=generator.integers(0, spec.num_users + 1, batch),
        item_rows=item_rows,
        segments=generator.integers(0, 2, (batch, width)) * real,
        lengths=lengths,
        excluded=item_rows[:, :num_excluded],
    )
