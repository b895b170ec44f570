"""What every backend promises, whatever runs the graphs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch

from recgpt.backends.base import Tokens
from recgpt.errors import RequestError
from recgpt.recall.steps import generate_stepwise

# float32 sums in another order; values are of about 1, and three blocks amplify the rounding of the first.
TOLERANCE = 2e-5

MAX_LENGTH, NUM_INTERESTS, NUM_TWINS = 12, 3, 20
ROOM = MAX_LENGTH - (NUM_INTERESTS - 1)


def make_tokens(lengths, *, seed=0, segments=True, num_items=200, num_users=10, num_excluded=4):
    """Random histories of these lengths, zero-padded; the first ``num_excluded`` items of each are excluded."""
    generator = np.random.default_rng(seed)
    lengths = np.array(lengths, dtype=np.int64)
    width = int(lengths.max())
    real = np.arange(width) < lengths[:, None]
    item_rows = generator.integers(1, num_items + 1, (len(lengths), width)) * real
    return Tokens(
        user_rows=generator.integers(0, num_users + 1, len(lengths)),
        item_rows=item_rows,
        segments=generator.integers(0, 2, (len(lengths), width)) * real if segments else np.zeros_like(item_rows),
        lengths=lengths,
        excluded=item_rows[:, :num_excluded].copy(),
    )


def row_of(tokens, row):
    """One request of a batch, on its own and without its padding."""
    length = tokens.lengths[row]
    return Tokens(
        user_rows=tokens.user_rows[row : row + 1],
        item_rows=tokens.item_rows[row : row + 1, :length],
        segments=tokens.segments[row : row + 1, :length],
        lengths=tokens.lengths[row : row + 1],
        excluded=tokens.excluded[row : row + 1],
    )


def columns(tokens, start, stop, *, lengths):
    """The tokens of some columns."""
    return replace(
        tokens,
        item_rows=tokens.item_rows[:, start:stop],
        segments=tokens.segments[:, start:stop],
        lengths=np.asarray(lengths, dtype=np.int64),
    )


def recompute(decoder, tokens, num_interests):
    """The oracle: one row at a time, no padding, no cache, scores and argmax in numpy."""
    matrix = decoder.item_matrix.detach().numpy()
    interests, generated = [], []
    for row in range(len(tokens)):
        one = row_of(tokens, row)
        items, segments = one.item_rows[0].tolist(), one.segments[0].tolist()
        banned = {0, *one.excluded[0].tolist()}
        for _ in range(num_interests):
            with torch.no_grad():
                hidden = decoder(torch.from_numpy(one.user_rows), torch.tensor([items]), torch.tensor([segments]))
            interest = hidden[0, -1].numpy()
            scores = matrix @ interest
            scores[list(banned)] = -np.inf
            best = int(scores.argmax())
            interests.append(interest)
            generated.append(best)  # the last one is for prefill and decode, which give the next item
            items.append(best)
            segments.append(1)
            banned.add(best)
    shape = (len(tokens), num_interests)
    return np.array(interests).reshape(*shape, -1), np.array(generated).reshape(shape)


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


def assert_same_step(found, expected, num_cached):
    """Equal interest and item, and equal caches at the real tokens."""
    assert_close(found.interest, expected.interest)
    np.testing.assert_array_equal(found.next_rows, expected.next_rows)
    for row, number in enumerate(num_cached):
        assert_close(found.key_values[row, :, :, :, :number], expected.key_values[row, :, :, :, :number])


@pytest.mark.parametrize("lengths", [[1], [6], [ROOM], [1, 6, ROOM, 3]], ids=["one", "typical", "longest", "mixed"])
@pytest.mark.parametrize("segments", [True, False], ids=["segments", "no_segments"])
def test_fused_and_stepwise_equal_the_full_recompute(backend, exported, lengths, segments):
    tokens = make_tokens(lengths, segments=segments)
    interests, generated = recompute(exported.decoder, tokens, NUM_INTERESTS)
    for output in (backend.interests(tokens, NUM_INTERESTS), generate_stepwise(backend, tokens, NUM_INTERESTS)):
        assert_close(output.interests, interests)
        np.testing.assert_array_equal(output.generated_rows, generated[:, :-1])


@pytest.mark.parametrize("lengths", [[1], [1, 6, MAX_LENGTH, 3]], ids=["one", "mixed"])
def test_one_interest_equals_the_full_recompute_and_generates_nothing(backend, exported, lengths):
    tokens = make_tokens(lengths)
    interests, _ = recompute(exported.decoder, tokens, 1)
    for output in (backend.interests(tokens, 1), generate_stepwise(backend, tokens, 1)):
        assert_close(output.interests, interests)
        assert (output.generated_rows.shape, output.generated_rows.dtype) == ((len(tokens), 0), np.int64)


def test_the_interest_alone_is_that_of_prefill_and_decode(backend):
    tokens = make_tokens([4, 1, 7])
    prefilled = backend.prefill(tokens)
    np.testing.assert_array_equal(backend.interest(tokens), prefilled.interest)
    new = columns(make_tokens([2, 2, 2], seed=3), 0, 2, lengths=tokens.lengths)
    expected = backend.decode(new, prefilled.key_values)
    np.testing.assert_array_equal(backend.interest(new, prefilled.key_values), expected.interest)


def test_a_history_as_long_as_the_window_has_one_interest(backend, exported):
    tokens = make_tokens([MAX_LENGTH, MAX_LENGTH])
    interests, generated = recompute(exported.decoder, tokens, 1)
    output = backend.prefill(tokens)
    assert_close(output.interest, interests[:, 0])
    np.testing.assert_array_equal(output.next_rows, generated[:, 0])


def test_outputs_have_the_shapes_and_types_of_the_signature(backend):
    tokens = make_tokens([2, 5])
    sizes = (backend.spec.num_blocks, 2, backend.spec.num_heads)
    prefilled = backend.prefill(tokens)
    decoded = backend.decode(columns(tokens, 0, 2, lengths=[2, 5]), prefilled.key_values)
    fused = backend.interests(tokens, NUM_INTERESTS)
    assert prefilled.key_values.shape == (2, *sizes, 5, backend.spec.head_size)
    assert decoded.key_values.shape == (2, *sizes, 5 + 2, backend.spec.head_size)
    for output in (prefilled, decoded):
        assert output.interest.shape == (2, backend.spec.hidden_size)
        assert output.next_rows.shape == (2,)
        assert (output.interest.dtype, output.next_rows.dtype, output.key_values.dtype) == (
            np.float32,
            np.int64,
            np.float32,
        )
    assert fused.interests.shape == (2, NUM_INTERESTS, backend.spec.hidden_size)
    assert fused.generated_rows.shape == (2, NUM_INTERESTS - 1)
    assert (fused.interests.dtype, fused.generated_rows.dtype) == (np.float32, np.int64)


def test_a_batch_equals_its_requests_one_by_one(backend):
    tokens = make_tokens([4, 1, ROOM, 7])
    prefilled, fused = backend.prefill(tokens), backend.interests(tokens, NUM_INTERESTS)
    for row in range(len(tokens)):
        single = backend.prefill(row_of(tokens, row))
        assert_close(single.interest[0], prefilled.interest[row])
        assert single.next_rows[0] == prefilled.next_rows[row]
        alone = backend.interests(row_of(tokens, row), NUM_INTERESTS)
        assert_close(alone.interests[0], fused.interests[row])
        np.testing.assert_array_equal(alone.generated_rows[0], fused.generated_rows[row])


def test_width_and_content_of_the_padding_do_not_matter(backend):
    tokens = make_tokens([4, 1, 7])
    padded = tokens.padded(MAX_LENGTH, 9)
    padding = np.arange(MAX_LENGTH) >= tokens.lengths[:, None]
    noise = np.random.default_rng(1).integers(1, 201, padded.item_rows.shape)
    noisy = replace(
        padded,
        item_rows=np.where(padding, noise, padded.item_rows),
        segments=np.where(padding, 1, padded.segments),
    )
    expected, fused = backend.prefill(tokens), backend.interests(tokens, NUM_INTERESTS)
    new = columns(make_tokens([2, 2, 2], seed=3), 0, 2, lengths=tokens.lengths)
    decoded = backend.decode(new, expected.key_values)
    for other in (padded, noisy):
        prefilled = backend.prefill(other)
        assert_same_step(prefilled, expected, tokens.lengths)
        assert_same_step(backend.decode(new, prefilled.key_values), decoded, tokens.lengths + 2)
        output = backend.interests(other, NUM_INTERESTS)
        assert_close(output.interests, fused.interests)
        np.testing.assert_array_equal(output.generated_rows, fused.generated_rows)


def test_prefill_of_one_more_equals_prefill_and_one_decode(backend):
    tokens = make_tokens([8, 8])
    expected = backend.prefill(tokens)
    shorter = backend.prefill(columns(tokens, 0, 7, lengths=[7, 7]))
    decoded = backend.decode(columns(tokens, 7, 8, lengths=[7, 7]), shorter.key_values)
    assert_same_step(decoded, expected, [8, 8])


def test_decode_of_two_tokens_equals_two_decodes_of_one(backend):
    tokens = make_tokens([8, 8])
    past = backend.prefill(columns(tokens, 0, 6, lengths=[6, 6])).key_values
    together = backend.decode(columns(tokens, 6, 8, lengths=[6, 6]), past)
    first = backend.decode(columns(tokens, 6, 7, lengths=[6, 6]), past)
    second = backend.decode(columns(tokens, 7, 8, lengths=[7, 7]), first.key_values)
    assert_same_step(together, second, [8, 8])
    assert_same_step(together, backend.prefill(tokens), [8, 8])


def test_decode_fills_the_window_to_the_last_position(backend):
    tokens = make_tokens([MAX_LENGTH])
    past = backend.prefill(columns(tokens, 0, 1, lengths=[1])).key_values
    decoded = backend.decode(columns(tokens, 1, MAX_LENGTH, lengths=[1]), past)
    assert_same_step(decoded, backend.prefill(tokens), [MAX_LENGTH])


def test_decode_keeps_caches_of_different_lengths_compact(backend):
    histories = make_tokens([3, 9, 1, 6])
    step = columns(make_tokens([2] * 4, seed=5), 0, 2, lengths=histories.lengths)
    step = replace(step, user_rows=histories.user_rows, excluded=histories.excluded)
    decoded = backend.decode(step, backend.prefill(histories).key_values)
    for row, length in enumerate(histories.lengths):
        one = row_of(histories, row)
        whole = replace(
            one,
            item_rows=np.concatenate([one.item_rows, step.item_rows[row : row + 1]], axis=1),
            segments=np.concatenate([one.segments, step.segments[row : row + 1]], axis=1),
            lengths=one.lengths + 2,
        )
        expected = backend.prefill(whole)
        assert_close(decoded.interest[row], expected.interest[0])
        assert decoded.next_rows[row] == expected.next_rows[0]
        assert_close(decoded.key_values[row, :, :, :, : length + 2], expected.key_values[0])


def test_order_of_requests_does_not_matter(backend):
    tokens = make_tokens([4, 1, 7, 7, 2])
    order = np.array([3, 0, 4, 2, 1])
    shuffled = Tokens(**{name: getattr(tokens, name)[order] for name in tokens.__dataclass_fields__})
    expected, found = backend.interests(tokens, NUM_INTERESTS), backend.interests(shuffled, NUM_INTERESTS)
    assert_close(found.interests, expected.interests[order])
    np.testing.assert_array_equal(found.generated_rows, expected.generated_rows[order])


@pytest.mark.parametrize("change", ["user_rows", "item_rows", "segments"])
def test_every_input_changes_the_interest(backend, change):
    tokens = make_tokens([5])
    values = getattr(tokens, change).copy()
    values.flat[0] = 1 - values.flat[0] if change == "segments" else values.flat[0] % 9 + 1
    before = backend.prefill(tokens).interest
    after = backend.prefill(replace(tokens, **{change: values})).interest
    assert np.abs(after - before).max() > 100 * TOLERANCE


def test_neither_excluded_nor_generated_items_nor_padding_are_generated(backend):
    tokens = make_tokens([5, 3, 8])
    for _ in range(10):
        generated = backend.interests(tokens, NUM_INTERESTS).generated_rows
        for row, excluded in zip(generated, tokens.excluded, strict=True):
            assert len(set(row)) == NUM_INTERESTS - 1
            assert not set(row) & {0, *excluded}
        np.testing.assert_array_equal(backend.prefill(tokens).next_rows, generated[:, 0])
        tokens = replace(tokens, excluded=np.concatenate([tokens.excluded, generated], axis=1))


def test_the_lowest_row_wins_a_tie(backend):
    first, last = 1 + np.arange(NUM_TWINS), backend.spec.num_items - NUM_TWINS + 1 + np.arange(NUM_TWINS)
    tokens = make_tokens([5] * NUM_TWINS)
    # Request n may generate the items n and its twin alone.
    everything = np.arange(1, backend.spec.num_items + 1)
    allowed = (everything == first[:, None]) | (everything == last[:, None])
    excluded = np.where(allowed, 0, everything)
    output = backend.prefill(replace(tokens, excluded=excluded))
    np.testing.assert_array_equal(output.next_rows, first)
    output = backend.prefill(replace(tokens, excluded=np.concatenate([excluded, first[:, None]], axis=1)))
    np.testing.assert_array_equal(output.next_rows, last)


def test_sizes_of_one_everywhere_run(backend, exported):
    tokens = make_tokens([1], num_excluded=1)
    prefilled = backend.prefill(tokens)
    decoded = backend.decode(tokens, prefilled.key_values)
    twice = replace(
        tokens,
        lengths=tokens.lengths + 1,
        **{name: np.repeat(getattr(tokens, name), 2, axis=1) for name in ("item_rows", "segments")},
    )
    interests, generated = recompute(exported.decoder, twice, 1)
    assert_close(decoded.interest, interests[:, 0])
    np.testing.assert_array_equal(decoded.next_rows, generated[:, 0])


def test_larger_batches_than_the_exporter_saw_run(backend, exported):
    tokens = make_tokens(1 + np.arange(64) % ROOM, seed=7)
    interests, generated = recompute(exported.decoder, tokens, 1)
    output = backend.prefill(tokens)
    assert_close(output.interest, interests[:, 0])
    np.testing.assert_array_equal(output.next_rows, generated[:, 0])


def test_calls_from_several_threads_do_not_mix(backend):
    batches = [make_tokens([1 + seed % ROOM, 5], seed=seed) for seed in range(24)]
    expected = [backend.interests(tokens, NUM_INTERESTS) for tokens in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda tokens: backend.interests(tokens, NUM_INTERESTS), batches))
    for one, other in zip(found, expected, strict=True):
        assert_close(one.interests, other.interests)
        np.testing.assert_array_equal(one.generated_rows, other.generated_rows)


def test_histories_beyond_the_window_are_refused(backend):
    with pytest.raises(RequestError, match="at most 12"):
        backend.prefill(make_tokens([MAX_LENGTH + 1]))
    with pytest.raises(RequestError, match="lengths"):
        backend.interests(make_tokens([ROOM + 1]), NUM_INTERESTS)
    tokens = make_tokens([MAX_LENGTH])
    past = backend.prefill(tokens).key_values
    with pytest.raises(RequestError, match="lengths"):
        backend.decode(columns(tokens, 0, 1, lengths=[MAX_LENGTH]), past)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_rows": np.array([11, 0])}, "user_rows"),
        ({"excluded": np.full((2, 1), 201)}, "excluded"),
        ({"excluded": np.zeros((2, 0), dtype=np.int64)}, "excluded"),
        ({"segments": np.full((2, 3), 2)}, "segments"),
        ({"lengths": np.array([0, 3])}, "lengths"),
        ({"lengths": np.array([4, 3])}, "lengths"),
    ],
)
def test_tokens_out_of_range_are_refused(backend, change, message):
    tokens = replace(make_tokens([3, 3]), **change)
    with pytest.raises(RequestError, match=message):
        backend.prefill(tokens)
    with pytest.raises(RequestError, match=message):
        backend.interest(tokens)
    with pytest.raises(RequestError, match=message):
        backend.interests(tokens, NUM_INTERESTS)


def test_a_cache_that_does_not_fit_is_refused(backend):
    tokens = make_tokens([4, 4])
    past = backend.prefill(tokens).key_values
    new = columns(tokens, 0, 1, lengths=[4, 4])
    for bad in (past[:1], past[:, :, :1], past[..., :-1], past[0]):
        with pytest.raises(RequestError, match="past has shape"):
            backend.decode(new, bad)
        with pytest.raises(RequestError, match="past has shape"):
            backend.interest(new, bad)
    with pytest.raises(RequestError, match="lengths"):
        backend.decode(columns(tokens, 0, 1, lengths=[5, 4]), past)


def test_numbers_of_interests_without_a_graph_are_refused(backend):
    assert backend.fused == {1, NUM_INTERESTS}
    with pytest.raises(RequestError, match="5 interests"):
        backend.interests(make_tokens([3]), 5)
