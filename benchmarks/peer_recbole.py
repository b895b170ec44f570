"""RecBole's SASRec by ``full_sort_predict`` as a process that ``benchmarks/peers.py`` times.

Runs in an environment of its own, with recbole, and without recgpt.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from peer_loop import TOP_K, Sizes, Way, answer
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec


class Catalogue:
    """All that SASRec asks of a RecBole dataset."""

    def __init__(self, num_items: int) -> None:
        self._num_items = num_items

    def num(self, field: str) -> int:
        """Items, and the padding."""
        return self._num_items + 1


def ways(sizes: Sizes) -> Mapping[str, Way]:
    """``full_sort``: what RecBole's own ``full_sort_topk`` runs, without looking users up in a dataset first."""
    shape = {
        "n_layers": sizes["num_blocks"],
        "n_heads": sizes["num_heads"],
        "hidden_size": sizes["hidden_size"],
        "inner_size": sizes["hidden_size"],  # as SASRec's authors have it, and the other peers
        "MAX_ITEM_LIST_LENGTH": sizes["max_length"],
        "train_neg_sample_args": None,  # its loss is cross entropy
        "use_gpu": False,
    }
    config = Config(model="SASRec", dataset="histories", config_dict=shape)
    model = SASRec(config, Catalogue(sizes["num_items"])).eval()

    def interaction(histories: list[list[int]], k: int) -> Interaction:
        """Right-padded to the longest, as Interaction itself pads lists."""
        lengths = [len(history) for history in histories]
        width = max(lengths)
        items = torch.tensor([history + [0] * (width - len(history)) for history in histories])
        return Interaction({model.ITEM_SEQ: items, model.ITEM_SEQ_LEN: torch.tensor(lengths)})

    def scores(batch: Interaction, k: int) -> torch.Tensor:
        found: torch.Tensor = model.full_sort_predict(batch)
        return found[:, 1:]  # column 0 is padding

    return {"full_sort": {"encode": interaction, "interests": scores, **TOP_K}}


if __name__ == "__main__":
    answer(ways, packages=("recbole", "torch"))
