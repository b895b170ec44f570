from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from toy_model import ByHand, ToyModel, fuse_by_hand, ranking, recall_by_hand

from recgpt.backends.eager import EagerBackend
from recgpt.config import ModelConfig
from recgpt.data.feedback import Unclicked
from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.split import Split, leave_last_out, leave_one_out
from recgpt.errors import DataError, QuotaError
from recgpt.evaluation import evaluate, evaluate_lists, evaluate_popularity, popularity_ranks, summarise
from recgpt.horizon import summarise_horizon
from recgpt.model.decoder import Decoder
from recgpt.recall.index import ItemIndex
from recgpt.recall.recaller import Recaller
from recgpt.types import RecallRequest

NUM_ITEMS, NUM_USERS = 40, 25


def random_split(seed: int = 0) -> Split:
    """Histories of 1 to 12 items, repeats included, so that some users are not evaluated and some targets are seen."""
    rng = np.random.default_rng(seed)
    sequences = tuple(rng.integers(1, NUM_ITEMS + 1, rng.integers(1, 13)) for _ in range(NUM_USERS))
    users, items = IdMap(range(1, NUM_USERS + 1)), IdMap(range(1, NUM_ITEMS + 1))
    return leave_one_out(Interactions(user_ids=users, item_ids=items, sequences=sequences))


def toy() -> ToyModel:
    return ToyModel(seed=7, num_items=NUM_ITEMS, num_users=NUM_USERS, max_length=8)


def worst_ranks(
    scores_of_users: list[list[tuple[int, float]]],
    split: Split,
    stage: str,
    stands_before: Callable[[float, float], bool] = operator.ge,
) -> np.ndarray:
    """1 + the unseen items that score at least as much as the target; 0 if the target was seen."""
    ranks = []
    for user, target in enumerate(split.test if stage == "test" else split.validation):
        if target == 0:
            continue
        seen = set(split.history(stage)[user].tolist())
        scores = dict(scores_of_users[user])
        ahead = [
            row for row in scores if row not in seen and row != target and stands_before(scores[row], scores[target])
        ]
        ranks.append(0 if target in seen else 1 + len(ahead))
    return np.array(ranks)


def by_hand(ranks: np.ndarray) -> dict[str, float]:
    metrics = {}
    for k in (5, 10):
        hits = [1 <= rank <= k for rank in ranks.tolist()]
        metrics[f"hr@{k}"] = sum(hits) / len(hits)
        gains = [1 / np.log2(rank + 1) for rank, hit in zip(ranks.tolist(), hits, strict=True) if hit]
        metrics[f"ndcg@{k}"] = sum(gains) / len(hits)
    return metrics


def toy_scores(model: ToyModel, split: Split, stage: str) -> list[list[tuple[int, float]]]:
    histories = [[(row, 0) for row in rows.tolist()][-model.spec.max_length :] for rows in split.history(stage)]
    return [
        ranking(model.items, model.interest(user, history)) if history else []
        for user, history in enumerate(histories, start=1)
    ]


@pytest.mark.parametrize("stage", ["test", "validation"])
@pytest.mark.parametrize("batch_size", [1, 7, 512])
@pytest.mark.parametrize("k", [10, 28])
def test_one_step_equals_the_brute_force_ranks_ties_lost(stage: str, batch_size: int, k: int) -> None:
    model, split = toy(), random_split()
    expected = by_hand(worst_ranks(toy_scores(model, split, stage), split, stage))
    found = evaluate(model.recaller(), split, stage=stage, quotas=(k,), batch_size=batch_size)
    assert found == pytest.approx(expected)
    assert 0 < expected["hr@10"] < 1


@pytest.mark.parametrize("max_unclicked", [1, 2])
def test_what_was_shown_before_the_target_is_sent_as_prompts_and_stays_a_candidate(max_unclicked: int) -> None:
    model, split, histories = toy(), random_split(4), []
    rng = np.random.default_rng(4)
    unclicked = []
    for history, validation, test in zip(split.train, split.validation, split.test, strict=True):
        items = [row for row in [*history.tolist(), validation, test] if row]
        counts, pairs, shown, places = rng.integers(0, 4, len(items) + 1), [], [], []
        for place, count in enumerate(counts.tolist()):
            rows = rng.integers(1, NUM_ITEMS + 1, count).tolist()
            shown, places = shown + rows, places + [place] * count
            if place < len(items):  # what comes after the target is not known before it
                pairs += [(row, 1) for row in rows[-max_unclicked:]]
                pairs += [(items[place], 0)] if place < len(items) - 1 else []
        histories.append(pairs)
        unclicked.append(Unclicked(item_rows=np.array(shown, np.int64), num_before=np.array(places, np.int64)))
    window = slice(-model.spec.max_length, None)
    scores = [ranking(model.items, model.interest(user, pairs[window])) for user, pairs in enumerate(histories, 1)]
    split = replace(split, unclicked=tuple(unclicked))
    found = evaluate(model.recaller(), split, max_unclicked=max_unclicked)
    assert found == pytest.approx(by_hand(worst_ranks(scores, split, "test")))
    assert found != evaluate(model.recaller(), split)


def test_ranks_are_of_the_evaluated_users_in_order() -> None:
    model, split = toy(), random_split()
    expected = worst_ranks(toy_scores(model, split, "test"), split, "test")
    assert evaluate_lists(model.recaller(), split).ranks.tolist() == [rank if rank <= 10 else 0 for rank in expected]


def test_a_tie_across_the_end_of_the_list_is_lost_one_before_it_is_not() -> None:
    model = toy()
    num_across = num_at = 0
    for seed in range(10):
        split = random_split(seed)
        scores = toy_scores(model, split, "test")
        worst, best = worst_ranks(scores, split, "test"), worst_ranks(scores, split, "test", operator.gt)
        num_across += int(((best <= 10) & (worst > 10)).sum())
        num_at += int(((best < worst) & (worst == 10)).sum())
        assert evaluate(model.recaller(), split, quotas=(10,)) == pytest.approx(by_hand(worst))
    assert min(num_across, num_at) > 0, "the data of this test holds both"


def test_a_tie_across_the_end_of_the_first_steps_part_is_lost() -> None:
    model, split = toy(), random_split(1)
    recaller = model.recaller()
    quotas, expected = (6, 4), []
    for user, target in enumerate(split.test.tolist()):
        if target:
            history = [10 * row for row in split.history("test")[user].tolist()]
            request = RecallRequest(history=history, user_id=100 * (user + 1), k=10, quotas=quotas)
            # By hand: a list with one item more in each step shows what each quota left out.
            longer = [
                recall_by_hand(model, recaller.catalogue, replace(request, k=11, quotas=more), more)
                for more in ((7, 4), (6, 5))
            ]
            answer = recall_by_hand(model, recaller.catalogue, request, quotas)
            expected.append(rank_in(answer, 10 * target, left_out={1: longer[0].scores[6], 2: longer[1].scores[10]}))
    found = evaluate(recaller, split, quotas=quotas)
    assert found == pytest.approx(by_hand(np.array(expected)))
    assert found["hr@10"] > 0


def rank_in(answer: ByHand, target: int, left_out: dict[int, float]) -> int:
    if target not in answer.item_ids:
        return 0
    place = answer.item_ids.index(target)
    step, score = answer.steps[place], answer.scores[place]
    if left_out[step] == score:
        return 0
    return max(p for p in range(10) if answer.steps[p] == step and answer.scores[p] == score) + 1


@pytest.mark.parametrize("merge", ["probability", "reciprocal_rank"])
def test_a_tie_in_a_fusion_is_lost_also_across_the_end_of_the_list(merge: str) -> None:
    # Vectors this short are often equal, and only then do both steps' scores tie.
    model = ToyModel(seed=7, num_items=NUM_ITEMS, num_users=NUM_USERS, max_length=8, size=2)
    quotas, num_across = (6, 4), 0
    for seed in range(6):
        split = random_split(seed)
        expected = []
        for user, target in enumerate(split.test.tolist()):
            if target:
                history = split.history("test")[user].tolist()
                everything = fused_catalogue(model, user + 1, history, merge, quotas)
                places = [place for place, (row, _, _) in enumerate(everything) if row == target]
                # Last among the items of the same score and step.
                last = [
                    1 + max(p for p, x in enumerate(everything) if x[1:] == everything[place][1:]) for place in places
                ]
                expected.append(last[0] if last and last[0] <= 10 else 0)
                num_across += bool(places and places[0] < 10 < last[0])
        assert evaluate_lists(model.recaller(), split, quotas=quotas, merge=merge).ranks.tolist() == expected
    assert num_across > 0, "the data of this test holds such ties"


def fused_catalogue(
    model: ToyModel, user: int, history: list[int], merge: str, quotas: tuple[int, int]
) -> list[tuple[int, float, int]]:
    """All unseen items by the fusion of two steps."""
    sequence = [(row, 0) for row in history][-(model.spec.max_length - 1) :]
    rankings = []
    for _ in quotas:
        rankings.append(
            [pair for pair in ranking(model.items, model.interest(user, sequence)) if pair[0] not in history]
        )
        sequence = [*sequence, (rankings[-1][0][0], 1)]
    return fuse_by_hand(merge, rankings, quotas)


def test_a_real_model_without_ties_equals_brute_force() -> None:
    import torch

    torch.manual_seed(0)
    config = ModelConfig(max_length=8, hidden_size=8, num_heads=2, ffn_size=16, dropout=0.0)
    decoder = Decoder(config, num_items=NUM_ITEMS, num_users=NUM_USERS)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.3)
        matrix = decoder.eval().item_matrix.numpy()
    split = random_split(2)
    scores = []
    for user, rows in enumerate(split.history("test"), start=1):
        items = torch.tensor(rows[-8:])[None]
        with torch.no_grad():
            interest = decoder(torch.tensor([user]), items, torch.zeros_like(items))[0, -1].numpy()
        scores.append(list(enumerate((matrix @ interest).tolist()))[1:])
    recaller = Recaller(EagerBackend(decoder), ItemIndex.build(matrix), toy().catalogue(), prompt_tuned=True)
    expected = by_hand(worst_ranks(scores, split, "test"))
    assert evaluate(recaller, split, quotas=(10,)) == pytest.approx(expected)
    assert expected["hr@10"] > 0


def test_a_pretrained_model_may_be_measured_with_two_steps_without_a_warning() -> None:
    metrics = evaluate(toy().recaller(prompt_tuned=False), random_split(), quotas=(8, 2))
    assert set(metrics) == {"hr@5", "hr@10", "ndcg@5", "ndcg@10"}


def test_seen_targets_can_be_found_when_seen_items_are_kept() -> None:
    model = toy()
    repeat = np.array([3, 3, 3, 3], dtype=np.int64)
    users, items = IdMap(range(1, NUM_USERS + 1)), IdMap(range(1, NUM_ITEMS + 1))
    split = leave_one_out(Interactions(user_ids=users, item_ids=items, sequences=(repeat,) * NUM_USERS))
    assert evaluate(model.recaller(), split, quotas=(10,))["hr@10"] == 0.0
    assert evaluate(model.recaller(), split, quotas=(38,), filter_seen=False)["hr@10"] > 0


def test_progress_is_told_after_each_batch() -> None:
    split = random_split()
    num_evaluated = int((split.test > 0).sum())
    told: list[tuple[int, int]] = []
    evaluate(toy().recaller(), split, batch_size=10, progress=lambda done, total: told.append((done, total)))
    assert told == [(min(end, num_evaluated), num_evaluated) for end in range(10, num_evaluated + 10, 10)]


@pytest.mark.parametrize("stage", ["test", "validation"])
def test_popularity_is_ranked_by_brute_force_ties_lost(stage: str) -> None:
    model, split = toy(), random_split(3)
    scores = [[(row, float(count)) for row, count in enumerate(model.popularity)][1:]] * NUM_USERS
    assert evaluate_popularity(model.recaller(), split, stage=stage) == pytest.approx(
        by_hand(worst_ranks(scores, split, stage))
    )


def test_lists_shorter_than_the_largest_cut_off_are_refused() -> None:
    with pytest.raises(QuotaError, match=r"\(4, 1\) give 5 items; expected at least 10"):
        evaluate(toy().recaller(), random_split(), quotas=(4, 1))


def test_nobody_to_evaluate_is_an_error_and_not_a_number() -> None:
    users, items = IdMap(range(1, NUM_USERS + 1)), IdMap(range(1, NUM_ITEMS + 1))
    pairs = (np.array([1, 2], dtype=np.int64),) * NUM_USERS
    split = leave_one_out(Interactions(user_ids=users, item_ids=items, sequences=pairs))
    with pytest.raises(DataError, match="at least 3 items"):
        evaluate(toy().recaller(), split)
    with pytest.raises(DataError, match="at least 3 items"):
        evaluate_popularity(toy().recaller(), split)


def horizon_split(seed: int = 0) -> Split:
    rng = np.random.default_rng(seed)
    sequences = tuple(rng.integers(1, NUM_ITEMS + 1, rng.integers(1, 13)) for _ in range(NUM_USERS))
    users, items = IdMap(range(1, NUM_USERS + 1)), IdMap(range(1, NUM_ITEMS + 1))
    interactions = Interactions(user_ids=users, item_ids=items, sequences=sequences)
    return leave_last_out(interactions, num_targets=3)


def test_each_target_of_a_horizon_has_its_own_rank_in_the_one_list() -> None:
    model = toy()
    num_repeats = 0
    for seed in range(4):
        split = horizon_split(seed)
        lists = evaluate_lists(model.recaller(), split, quotas=(20,))
        assert lists.user_rows.tolist() == [u for u, target in enumerate(split.test.tolist(), 1) if target]
        scores = toy_scores(model, split, "test")
        for place, user in enumerate(lists.user_rows.tolist()):
            targets = split.horizon[user - 1].tolist()
            for number, target in enumerate(targets):
                alone = np.zeros(NUM_USERS, dtype=np.int64)
                alone[user - 1] = target
                one = Split(train=split.train, validation=split.validation, horizon=alone[:, None])
                rank = int(worst_ranks(scores, one, "test")[0])
                repeated = target in targets[:number]
                num_repeats += repeated
                assert lists.target_ranks[place, number] == (-1 if repeated else rank if rank <= 20 else 0)
    assert num_repeats > 0


def test_lists_are_those_that_recall_gives() -> None:
    model, split = toy(), horizon_split()
    recaller = model.recaller()
    lists = evaluate_lists(recaller, split, quotas=(6, 4), merge="reciprocal_rank", batch_size=4)
    for place, user in enumerate(lists.user_rows.tolist()):
        history = [10 * row for row in split.history("test")[user - 1].tolist()]
        answer = recaller.recall(history, user_id=100 * user, k=10, quotas=(6, 4), merge="reciprocal_rank")
        assert [10 * row for row in lists.item_rows[place].tolist()] == list(answer.item_ids)
        assert lists.steps[place].tolist() == answer.steps.tolist()


def test_metrics_follow_from_the_ranks_at_any_cut_off() -> None:
    recaller, split = toy().recaller(), random_split()
    ranks = evaluate_lists(recaller, split, quotas=(25,)).ranks
    found = evaluate(recaller, split, quotas=(25,), cutoffs=(3, 20))
    assert found == summarise(ranks, (3, 20))
    assert set(found) == {"hr@3", "hr@20", "ndcg@3", "ndcg@20"}
    assert summarise(popularity_ranks(recaller, split)) == evaluate_popularity(recaller, split)


def test_popular_items_are_ranked_among_all_where_seen_ones_are_not_left_out() -> None:
    recaller, split = toy().recaller(), random_split()
    popularity, targets = recaller.catalogue.popularity, split.targets("test")[:, 0]
    at_least = [int((popularity[1:] >= popularity[target]).sum()) for target in targets[targets > 0]]
    assert popularity_ranks(recaller, split, filter_seen=False).tolist() == at_least


def test_a_horizon_is_summarised_beside_the_list_of_one_step() -> None:
    recaller, split = toy().recaller(), horizon_split()
    one, two = (evaluate_lists(recaller, split, quotas=quotas) for quotas in ((10,), (6, 4)))
    found = summarise_horizon(two, one, recaller, num_interests=2, cutoffs=(5, 10))
    assert 0 < found["recall@5"] <= found["recall@10"] < 1
    assert sum(found["new_items_by_step"]) == found["coverage"] * NUM_ITEMS
    pairs = list(zip(two.item_rows.tolist(), one.item_rows.tolist(), strict=True))
    assert found["outside_one_step"] == pytest.approx(np.mean([len(set(a) - set(b)) / 10 for a, b in pairs]))
    alone = summarise_horizon(one, one, recaller, num_interests=1, cutoffs=(10,))
    assert (alone["outside_one_step"], alone["coverage"]) == (0.0, len(np.unique(one.item_rows)) / NUM_ITEMS)
    assert 0 < alone["intra_list_distance"] < 2


def test_summary_of_ranks_by_hand() -> None:
    assert summarise(np.array([1, 7, 0, 11], dtype=np.int64)) == pytest.approx(
        {"hr@5": 0.25, "hr@10": 0.5, "ndcg@5": 0.25, "ndcg@10": (1 + 1 / 3) / 4}
    )
