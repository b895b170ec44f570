"""What a one-hop recall sends and what it makes of the answers; who sends it, and how, is the caller's affair.

plan = codec.plan(requests)
outputs = [infer(call.graph, call.feeds) for call in plan.calls]      (or awaited, or at once)
candidates = plan.finish(outputs)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from recgpt.backends.tensors import NamedArrays
from recgpt.signature import GraphSpec
from recgpt.types import Candidates, RecallRequest, Timings


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One request to one model.

    Attributes:
        graph: name and tensors of the model.
        feeds: its inputs by name, (B, ...) each.
        places: which of the plan's requests the B rows are.
    """

    graph: GraphSpec
    feeds: NamedArrays
    places: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The calls that answer some requests, and how to read their outputs.

    Attributes:
        calls: in any order, also at once; none where nobody need be asked.
        read: makes answers, by the place of their request, of the outputs in the order of the calls; those of a call
            whose outputs are None are left out.
        started_ns: when the plan was begun, by ``time.perf_counter_ns``.
        planned_ns: when it stood.
    """

    calls: Sequence[Call]
    read: Callable[[Sequence[NamedArrays | None], Timings], dict[int, Candidates]]
    started_ns: int
    planned_ns: int = field(default_factory=time.perf_counter_ns)

    def finish(
        self, outputs: Sequence[NamedArrays | None], instead: Mapping[int, Candidates] | None = None
    ) -> list[Candidates]:
        """One answer a request, in their order.

        Args:
            outputs: of each call, by name; None of one that failed. The time since the plan stood counts as that of the
                interests.
            instead: the answers to the requests of calls that failed, by the requests' places.
        """
        answered = time.perf_counter_ns()
        timings = Timings(
            encode_ns=self.planned_ns - self.started_ns,
            interests_ns=answered - self.planned_ns,
            search_ns=0,
            merge_ns=0,
            total_ns=answered - self.started_ns,
        )
        answers = self.read(outputs, timings)
        answers.update({place: replace(answer, timings=timings) for place, answer in (instead or {}).items()})
        return [answers[place] for place in range(len(answers))]


class Codec(Protocol):
    """One form of one-hop recall."""

    def plan(self, requests: Sequence[RecallRequest]) -> Plan:
        """What to send; RequestError where a request cannot be answered by this form."""
