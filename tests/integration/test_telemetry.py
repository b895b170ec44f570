"""What OpenTelemetry's own SDK and its Prometheus exporter make of a client's calls."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import REGISTRY, generate_latest
from tiny_model import Export

from recgpt import RecallClient
from recgpt.errors import ServerOverloadedError, ServerUnavailableError
from recgpt.telemetry import OpenTelemetryHook
from recgpt.testing import FakeNetwork, FakeServer

DOCS = (Path(__file__).parents[2] / "docs" / "client.md").read_text()


def test_metrics_have_the_documented_names_and_spans_show_each_attempt(export: Export) -> None:
    spans, reader = InMemorySpanExporter(), PrometheusMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    server = FakeServer(export.bundle)
    hook = OpenTelemetryHook(meter_provider=meters, tracer_provider=tracers)
    with RecallClient("a:1", bundle=export.bundle, network=FakeNetwork({"a:1": server}), on_call=hook) as client:
        with tracers.get_tracer("test").start_as_current_span("page"):
            server.fail_next(ServerOverloadedError("full"))
            client.recall(["i5", "i7"])
        server.is_down = True
        with pytest.raises(ServerUnavailableError):
            client.recall(["i5", "i7"])
    text = generate_latest(REGISTRY).decode()
    meters.shutdown()
    found = set(re.findall(r"^# TYPE (recgpt_\w+) ", text, re.MULTILINE))
    documented = set(re.findall(r"^\| `(recgpt_\w+)`", DOCS, re.MULTILINE))
    assert documented == found
    assert re.search(r'^recgpt_client_requests_total\{.*outcome="ok".*rung="full".*\} 1\.0$', text, re.MULTILINE)
    assert 'outcome="ServerOverloadedError"' in text
    assert re.search(r'^recgpt_client_call_duration_seconds_count\{.*recall_by="client".*\} 1\.0$', text, re.MULTILINE)
    for stage in ("encode", "interests", "search", "merge"):
        assert f'stage="{stage}"' in text

    finished = spans.get_finished_spans()
    page = next(span for span in finished if span.name == "page")
    answered, failed = (span for span in finished if span.name == "recgpt.recall")
    attempts = [span for span in finished if span.parent and span.parent.span_id == answered.context.span_id]
    assert answered.parent is not None and answered.parent.span_id == page.context.span_id
    assert [span.attributes["recgpt.attempt"] for span in attempts] == ["first", "retry"]
    for span in attempts:
        assert answered.start_time <= span.start_time <= span.end_time <= answered.end_time
    assert answered.attributes["recgpt.recall_by"] == "client"
    assert answered.status.status_code is StatusCode.UNSET
    assert failed.status.status_code is StatusCode.ERROR
