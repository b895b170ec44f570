"""Metrics and traces of a client by OpenTelemetry: an ``on_call`` hook. Needs the extra ``otel``.

Exported to Prometheus, the metrics have the names that ``docs/client.md`` lists.
"""

from __future__ import annotations

from typing import Any

from recgpt.client_core import CallReport
from recgpt.extras import require

_NAME = "recgpt.client"
_STAGES = ("encode", "interests", "search", "merge")
# Upper ends of a histogram's buckets, in seconds: a recall takes from half a millisecond to seconds.
_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class OpenTelemetryHook:
    """Turns each report into metrics, and into a span with one child a sending to a server.

    The span is a child of the one that is current where the client is called. Safe to use from several threads, and by
    several clients.

    Args:
        meter_provider: of ``opentelemetry.metrics``; None takes the global one.
        tracer_provider: of ``opentelemetry.trace``; None takes the global one.

    Raises:
        DependencyError: the OpenTelemetry API is not installed.

    Example:
        >>> client = RecallClient("localhost:8001", bundle="artifacts/bundle", on_call=OpenTelemetryHook())
    """

    def __init__(self, *, meter_provider: Any = None, tracer_provider: Any = None) -> None:
        metrics = require("opentelemetry.metrics")
        self._trace = require("opentelemetry.trace")
        meter = metrics.get_meter(_NAME, meter_provider=meter_provider)
        self._tracer = self._trace.get_tracer(_NAME, tracer_provider=tracer_provider)

        def seconds(name: str, description: str) -> Any:
            return meter.create_histogram(
                name, unit="s", description=description, explicit_bucket_boundaries_advisory=_BUCKETS_S
            )

        self._durations = seconds("recgpt.client.call.duration", "of a recall_many, by outcome and who recalls")
        self._stages = seconds("recgpt.client.stage.duration", "of a stage of an answered recall_many")
        self._attempt_durations = seconds("recgpt.client.attempt.duration", "of a sending to a server")
        self._requests = meter.create_counter("recgpt.client.requests", description="requests, by rung and outcome")

    def __call__(self, report: CallReport) -> None:
        """Records one call."""
        outcome = "ok" if report.error is None else type(report.error).__name__
        self._durations.record(report.duration_s, {"outcome": outcome, "recall_by": str(report.recall_by)})
        if report.error is not None:
            self._requests.add(report.num_requests, {"outcome": outcome, "rung": "none"})
        for candidates in report.candidates:
            rung = "full" if candidates.degraded is None else candidates.degraded.rung
            self._requests.add(1, {"outcome": outcome, "rung": rung})
        for timings in [candidates.timings for candidates in report.candidates[:1]]:
            for stage in _STAGES:
                self._stages.record(getattr(timings, f"{stage}_ns") / 1e9, {"stage": stage})
        for attempt in report.attempts:
            attributes = {"server": attempt.url, "kind": attempt.kind, "outcome": attempt.outcome}
            self._attempt_durations.record(attempt.duration_s, attributes)
        self._record_spans(report, outcome)

    def _record_spans(self, report: CallReport, outcome: str) -> None:
        def time_ns(after_s: float) -> int:
            return report.started_ns + int(after_s * 1e9)

        attributes = {
            "recgpt.num_requests": report.num_requests,
            "recgpt.outcome": outcome,
            "recgpt.recall_by": str(report.recall_by),
        }
        span = self._tracer.start_span("recgpt.recall", start_time=report.started_ns, attributes=attributes)
        if report.error is not None:
            span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, str(report.error)))
        context = self._trace.set_span_in_context(span)
        for attempt in report.attempts:
            child = self._tracer.start_span(
                attempt.what,
                context=context,
                kind=self._trace.SpanKind.CLIENT,
                start_time=time_ns(attempt.start_s),
                attributes={
                    "server.address": attempt.url,
                    "recgpt.attempt": attempt.kind,
                    "recgpt.outcome": attempt.outcome,
                },
            )
            child.end(time_ns(attempt.start_s + attempt.duration_s))
        span.end(time_ns(report.duration_s))
