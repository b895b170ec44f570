"""What every backend with recall graphs promises: the lists that a person would make by hand."""

from __future__ import annotations

import numpy as np
import pytest
from test_backends import MAX_LENGTH, NUM_INTERESTS, NUM_TWINS, assert_close, make_tokens, recompute, row_of

from recgpt.errors import RequestError

# The exact scores of two items may differ by less than float32 sums in another order do; such neighbours may swap.
NEAR = 2e-5


@pytest.fixture
def recalling(backend):
    if not backend.recalls:
        pytest.skip("this backend has no graphs that recall")
    return backend


def lists_by_hand(interests, excluded, quotas, matrix):
    """Rows, scores, steps of one request: interests (J, D), and its excluded rows."""
    taken, rows, scores, steps = {0, *excluded}, [], [], []
    for step, (interest, quota) in enumerate(zip(interests, quotas, strict=True), start=1):
        values = matrix @ interest
        ranked = sorted(set(range(1, len(matrix))) - taken, key=lambda row: (-values[row], row))[:quota]
        taken |= set(ranked)
        rows += ranked
        scores += [float(values[row]) for row in ranked]
        steps += [step] * quota
    return rows, scores, steps


@pytest.mark.parametrize("lengths", [[1], [6], [1, 6, MAX_LENGTH - 2, 3]], ids=["one", "typical", "mixed"])
@pytest.mark.parametrize("quotas", [(4, 3, 2), (1, 1, 1), (10, 1, 1), (0, 5, 0), (2, 0, 7)], ids=str)
def test_the_lists_are_those_made_by_hand(recalling, exported, lengths, quotas):
    tokens = make_tokens(lengths, num_excluded=3)
    interests, generated = recompute(exported.decoder, tokens, NUM_INTERESTS)
    output = recalling.recall(tokens, np.tile(quotas, (len(tokens), 1)))
    np.testing.assert_array_equal(output.generated_rows, generated[:, :-1])
    matrix, k = exported.decoder.item_matrix.detach().numpy(), sum(quotas)
    for request in range(len(tokens)):
        rows, scores, steps = lists_by_hand(interests[request], tokens.excluded[request].tolist(), quotas, matrix)
        assert output.rows[request, :k].tolist() == rows
        assert output.steps[request, :k].tolist() == steps
        np.testing.assert_allclose(output.scores[request, :k], scores, rtol=0, atol=NEAR)
        for nothing in (output.rows, output.scores, output.steps):
            assert not nothing[request, k:].any()


def test_each_request_of_a_batch_has_quotas_and_exclusions_of_its_own(recalling):
    tokens = make_tokens([3, 9, 1], num_excluded=4)
    quotas = np.array([[5, 0, 0], [1, 2, 9], [3, 3, 3]])
    together = recalling.recall(tokens, quotas)
    for request in range(3):
        alone = recalling.recall(row_of(tokens, request), quotas[request : request + 1])
        k = quotas[request].sum()
        assert alone.rows[0, :k].tolist() == together.rows[request, :k].tolist()
        assert_close(alone.scores[0, :k], together.scores[request, :k])
        assert not set(alone.rows[0].tolist()) & set(tokens.excluded[request][tokens.excluded[request] > 0].tolist())


def test_one_interest_gives_its_best_items_and_generates_nothing(recalling, exported):
    tokens = make_tokens([2, MAX_LENGTH])
    interests, _ = recompute(exported.decoder, tokens, 1)
    output = recalling.recall(tokens, np.array([[7], [12]]))
    assert output.generated_rows.shape == (2, 0)
    matrix = exported.decoder.item_matrix.detach().numpy()
    for request, k in enumerate((7, 12)):
        rows, *_ = lists_by_hand(interests[request], tokens.excluded[request].tolist(), (k,), matrix)
        assert output.rows[request, :k].tolist() == rows


def test_of_two_items_with_one_vector_the_lower_row_comes_first(recalling):
    # The last rows of the catalogue repeat the vectors of the first; all others are excluded.
    tokens = make_tokens([2, 5, 7], num_excluded=1)
    others = np.tile(np.arange(NUM_TWINS + 1, 200 - NUM_TWINS + 1), (3, 1))
    tokens = type(tokens)(**{**vars(tokens), "excluded": others})
    output = recalling.recall(tokens, np.tile([8, 2, 2], (3, 1)))
    for rows in output.rows[:, :12].tolist():
        place = {row: position for position, row in enumerate(rows)}
        assert all(row - (200 - NUM_TWINS) in place for row in rows if row > 200 - NUM_TWINS)
        assert all(place[row] > place[row - (200 - NUM_TWINS)] for row in rows if row > 200 - NUM_TWINS)


def test_more_is_asked_than_there_is_and_nothing_excluded_is_given(recalling):
    tokens = make_tokens([4], num_excluded=1)
    tokens = type(tokens)(**{**vars(tokens), "excluded": np.arange(1, 196)[None]})
    output = recalling.recall(tokens, np.array([[2, 2, 5]]))
    assert sorted(output.rows[0][output.rows[0] > 0].tolist()) == [196, 197, 198, 199, 200]
    assert (output.rows[0] > 0).tolist() == (output.steps[0] > 0).tolist()


@pytest.mark.parametrize("quotas", [[[1, 1]], [[1, 1, 1, 1]], [[1, -1, 3]], [1, 1, 1], [[1, 1, 1]] * 2], ids=str)
def test_quotas_that_do_not_fit_are_refused(recalling, quotas):
    with pytest.raises(RequestError, match="quotas"):
        recalling.recall(make_tokens([3]), np.array(quotas))


def test_more_items_than_the_graph_gives_are_refused(recalling):
    with pytest.raises(RequestError, match="at most"):
        recalling.recall(make_tokens([3]), np.array([[199, 1, 1]]))
