"""Our metrics against trec_eval, NIST's reference implementation, on the same recalled lists."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval
import torch

from recgpt.backends.eager import EagerBackend
from recgpt.config import ModelConfig
from recgpt.data.ids import IdMap
from recgpt.data.interactions import Interactions
from recgpt.data.split import Split, leave_last_out
from recgpt.evaluation import UserLists, evaluate_lists
from recgpt.metrics import hit_rate_at_k, ndcg_at_k, set_recall_at_k
from recgpt.model.decoder import Decoder
from recgpt.recall.catalogue import Catalogue
from recgpt.recall.index import ItemIndex
from recgpt.recall.recaller import Recaller

NUM_USERS, NUM_ITEMS, NUM_TARGETS = 150, 50, 3
CUTOFFS = (1, 5, 10, 20)


@pytest.fixture(scope="module")
def split() -> Split:
    """Histories with repeats, so that some targets are the same item and some were seen; some users are too short."""
    rng = np.random.default_rng(0)
    return leave_last_out(
        Interactions(
            user_ids=IdMap(range(NUM_USERS)),
            item_ids=IdMap(range(NUM_ITEMS)),
            sequences=tuple(rng.integers(1, NUM_ITEMS + 1, rng.integers(3, 12)) for _ in range(NUM_USERS)),
        ),
        num_targets=NUM_TARGETS,
    )


@pytest.fixture(scope="module")
def recaller() -> Recaller:
    """A model of random weights, whose scores have no ties: trec_eval would break them by name."""
    torch.manual_seed(0)
    config = ModelConfig(max_length=12, hidden_size=8, num_heads=2, ffn_size=16, dropout=0.0)
    decoder = Decoder(config, num_items=NUM_ITEMS, num_users=NUM_USERS).eval()
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(std=0.3)
    catalogue = Catalogue(
        item_ids=IdMap(range(NUM_ITEMS)),
        user_ids=IdMap(range(NUM_USERS)),
        popularity=np.arange(NUM_ITEMS + 1, dtype=np.int64),
    )
    index = ItemIndex.build(decoder.item_matrix.detach().numpy())
    return Recaller(EagerBackend(decoder), index, catalogue, prompt_tuned=True)


def trec_eval(lists: UserLists, targets: dict[int, list[int]], measures: set[str]) -> dict[str, float]:
    qrels = {str(user): {str(row): 1 for row in rows} for user, rows in targets.items()}
    run = {
        str(user): {str(row): float(-place) for place, row in enumerate(rows)}
        for user, rows in zip(lists.user_rows.tolist(), lists.item_rows.tolist(), strict=True)
    }
    by_user = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    assert len(by_user) == len(lists.user_rows)
    names = next(iter(by_user.values()))
    return {name: float(np.mean([found[name] for found in by_user.values()])) for name in names}


@pytest.mark.parametrize("merge", ["quotas", "probability"])
@pytest.mark.parametrize("quotas", [(20,), (12, 8)])
def test_the_next_items_hit_rate_and_ndcg(
    recaller: Recaller, split: Split, quotas: tuple[int, ...], merge: str
) -> None:
    lists = evaluate_lists(recaller, split, quotas=quotas, merge=merge)
    targets = {user: [int(split.test[user - 1])] for user in lists.user_rows.tolist()}
    theirs = trec_eval(lists, targets, {"success.1,5,10,20", "ndcg_cut.1,5,10,20"})
    for k in CUTOFFS:
        assert hit_rate_at_k(lists.ranks, k) == pytest.approx(theirs[f"success_{k}"])
        assert ndcg_at_k(lists.ranks, k) == pytest.approx(theirs[f"ndcg_cut_{k}"])
    assert 0.1 < hit_rate_at_k(lists.ranks, 20) < 0.9


@pytest.mark.parametrize("quotas", [(20,), (14, 2, 2, 2)])
def test_set_recall_of_a_horizon(recaller: Recaller, split: Split, quotas: tuple[int, ...]) -> None:
    lists = evaluate_lists(recaller, split, quotas=quotas)
    targets = {user: split.horizon[user - 1].tolist() for user in lists.user_rows.tolist()}
    assert any(len(set(rows)) < NUM_TARGETS for rows in targets.values()), "repeats count once"
    theirs = trec_eval(lists, targets, {"recall.1,5,10,20"})
    for k in CUTOFFS:
        assert set_recall_at_k(lists.target_ranks, k) == pytest.approx(theirs[f"recall_{k}"])
