"""What a benchmark found, as one JSON file: raw samples and what follows from them. Tables and plots read only this."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recgpt.bench.timing import Sample, percentiles_ms
from recgpt.errors import DataError
from recgpt.files import atomic_path

Fact = int | float | str | None

# Keys of a row in the JSON that are not facts.
_OWN_KEYS = ("row", "latency_ms", "stages_ms", "samples_ns", "stages_ns")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was measured of one contender under one setting.

    Attributes:
        name: of the contender.
        facts: the setting (``batch``, ``clients``, ..) and what is known beside the times (``throughput``, ..); None
            where a value does not exist.
        samples_ns: every timed call.
        stages_ns: the same calls by stage; may be empty.
    """

    name: str
    facts: Mapping[str, Fact]
    samples_ns: tuple[int, ...]
    stages_ns: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if clash := sorted(set(self.facts) & set(_OWN_KEYS)):
            raise ValueError(f"facts {', '.join(clash)}: expected other names than {', '.join(_OWN_KEYS)}")
        if not self.samples_ns:
            raise ValueError(f"row {self.name} has no samples; expected at least one")

    @classmethod
    def of(cls, name: str, facts: Mapping[str, Fact], samples: Sequence[Sample]) -> Row:
        """Makes a row of samples that have the same stages."""
        stages = {stage: tuple(sample.stages_ns[stage] for sample in samples) for stage in samples[0].stages_ns}
        return cls(name=name, facts=facts, samples_ns=tuple(sample.total_ns for sample in samples), stages_ns=stages)

    @property
    def latency_ms(self) -> dict[str, float]:
        """p50, p90, p99 of a call."""
        return percentiles_ms(self.samples_ns)

    @property
    def stages_ms(self) -> dict[str, dict[str, float]]:
        """p50, p90, p99 of each stage; percentiles of parts do not add up to the percentile of the whole."""
        return {stage: percentiles_ms(samples) for stage, samples in self.stages_ns.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, facts at the top."""
        return {
            "row": self.name,
            **self.facts,
            "latency_ms": self.latency_ms,
            "stages_ms": self.stages_ms,
            "samples_ns": list(self.samples_ns),
            "stages_ns": {stage: list(samples) for stage, samples in self.stages_ns.items()},
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Row:
        """The inverse of ``to_dict``; what follows from the samples is computed again."""
        return Row(
            name=values["row"],
            facts={key: value for key, value in values.items() if key not in _OWN_KEYS},
            samples_ns=tuple(values["samples_ns"]),
            stages_ns={stage: tuple(samples) for stage, samples in values["stages_ns"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run of one benchmark.

    Attributes:
        name: of the benchmark.
        environment: machine and versions, from ``describe_environment``.
        method: ``text``, what was done, and ``parameters``, with which numbers.
        rows: in the order to show them.
        created: UTC, ISO 8601.
    """

    name: str
    environment: Mapping[str, Any]
    method: Mapping[str, Any]
    rows: tuple[Row, ...]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def calls_by_batch(self) -> dict[int, list[Row]]:
        """The rows of single calls, those with stages, by their fact ``batch``."""
        groups: dict[int, list[Row]] = {}
        for row in self.rows:
            if row.stages_ns:
                groups.setdefault(int(row.facts["batch"] or 0), []).append(row)
        return groups

    def save(self, path: Path) -> None:
        """Writes the JSON, wholly or not at all; OutputError if it cannot."""
        plain = {
            "name": self.name,
            "created": self.created,
            "environment": dict(self.environment),
            "method": dict(self.method),
            "rows": [row.to_dict() for row in self.rows],
        }
        write_json(path, plain)

    @staticmethod
    def load(path: Path) -> Result:
        """Reads what ``save`` wrote; DataError if it is missing or something else."""
        try:
            values = json.loads(path.read_text())
            rows = tuple(Row.from_dict(row) for row in values.pop("rows"))
            return Result(**values, rows=rows)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: expected the JSON of a benchmark: {error}; run the benchmark again") from error


def write_json(path: Path, plain: Mapping[str, Any]) -> None:
    """Writes plain values as readable JSON, wholly or not at all; OutputError if it cannot."""
    with atomic_path(path) as temporary:
        temporary.write_text(_numbers_on_one_line(json.dumps(plain, indent=2)) + "\n")


def _numbers_on_one_line(text: str) -> str:
    # Thousands of samples, one a line, would bury what a person wants to read.
    return re.sub(r"\[[\d\s,]+\]", lambda found: re.sub(r"\s+", "", found.group()), text)
