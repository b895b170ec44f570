"""Timed recalls: the whole call from outside, and its stages.

encode -> [network -> queue ->] interests -> search -> merge; the two in brackets only where a server computes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from recgpt.bench.server_statistics import ServerAccount
from recgpt.bench.timing import Sample
from recgpt.one_hop.answering import Recalls
from recgpt.types import RecallRequest

STAGES = ("encode", "network", "queue", "interests", "search", "merge")


def time_recall(recaller: Recalls, requests: Sequence[RecallRequest]) -> Sample:
    """Times one ``recall_many``; ``merge`` is all that follows the search: quotas, and rows back to ids."""
    started = time.perf_counter_ns()
    answers = recaller.recall_many(requests)
    total = time.perf_counter_ns() - started
    timings = answers[0].timings
    before_merge = {
        "encode": timings.encode_ns,
        "interests": timings.interests_ns,
        "search": timings.search_ns,
    }
    return Sample(total_ns=total, stages_ns=before_merge | {"merge": total - sum(before_merge.values())})


def time_served_recall(recaller: Recalls, requests: Sequence[RecallRequest], account: ServerAccount) -> Sample:
    """Times one ``recall_many`` over a server that nobody else uses, and splits what the model's stage took.

    By the server's own account: ``queue``, and ``interests``, which is copying in and running. ``network`` is the rest
    of the round trip: gRPC, and the tensors' way in and out of its messages on both sides. What the server counts as
    copying out goes there too, since that clock still runs when the answer has long left.
    """
    before = account.read()
    sample = time_recall(recaller, requests)
    server = account.since(before, num_inferences=len(requests))
    compute = server.compute_input_ns + server.compute_infer_ns
    stages = {
        **sample.stages_ns,
        "network": sample.stages_ns["interests"] - server.queue_ns - compute,
        "queue": server.queue_ns,
        "interests": compute,
    }
    return Sample(total_ns=sample.total_ns, stages_ns={stage: stages[stage] for stage in STAGES})
