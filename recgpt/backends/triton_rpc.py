"""What can be asked of a Triton server, as plain values; nothing here knows how a question travels."""

from __future__ import annotations

from dataclasses import dataclass

from recgpt.asking import Ask
from recgpt.backends.tensors import NamedArrays
from recgpt.signature import GraphSpec


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """What one model has done since the server started; times are sums over requests.

    Attributes:
        num_inferences: rows answered.
        num_executions: runs of the graph; fewer than the rows where batching took effect.
        num_failures: requests refused.
        queue_ns: waiting to be batched and run.
        compute_input_ns: getting inputs together.
        compute_infer_ns: running the graph.
        compute_output_ns: taking outputs apart.
    """

    num_inferences: int
    num_executions: int
    num_failures: int
    queue_ns: int
    compute_input_ns: int
    compute_infer_ns: int
    compute_output_ns: int


@dataclass(frozen=True, eq=False)
class Infer(Ask[NamedArrays]):
    """One run of a graph: its inputs by name, by name the outputs that ``graph`` names and no others."""

    graph: GraphSpec
    version: str
    feeds: NamedArrays

    def __str__(self) -> str:
        return f"model {self.graph.name} version {self.version}"


@dataclass(frozen=True)
class ModelReady(Ask[bool]):
    """Whether a model is served in a version."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"asking for {self.name}"


@dataclass(frozen=True)
class ServerReady(Ask[bool]):
    """Whether the server is ready, all its models loaded."""

    def __str__(self) -> str:
        return "asking whether it is ready"


@dataclass(frozen=True)
class MaxBatchSize(Ask[int]):
    """How many rows a model takes at once, at least 1."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"asking for the settings of model {self.name} version {self.version}"


@dataclass(frozen=True)
class ReadyModels(Ask[list[tuple[str, str]]]):
    """Name and version of each model that is ready."""

    def __str__(self) -> str:
        return "asking for its models"


@dataclass(frozen=True)
class Statistics(Ask[dict[str, ModelStatistics]]):
    """Counts and times of each model in a version, by name."""

    version: str

    def __str__(self) -> str:
        return "asking for statistics"


@dataclass(frozen=True)
class LoadModel(Ask[None]):
    """Looks at a model anew: loads versions that came, unloads those that went."""

    name: str

    def __str__(self) -> str:
        return f"loading {self.name}"


@dataclass(frozen=True)
class UnloadModel(Ask[None]):
    """Drops a model when its calls have ended."""

    name: str

    def __str__(self) -> str:
        return f"unloading {self.name}"


Rpc = Infer | ModelReady | ServerReady | MaxBatchSize | ReadyModels | Statistics | LoadModel | UnloadModel
"""Any of them; ``str`` of one says what is done, for messages."""
