"""OpenTelemetry: what spans and metrics say of calls and attempts, and that they hold no content."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.support.adapter_calls import Framework, aask, ask, model_of
from tests.support.scripted_experts import ManualClock, ScriptedExperts, dispatcher, pool, ranking, settle
from tests.support.scripted_tgi import Fault, ScriptedTGI, Text
from torouter.dispatch import AnswerFacts, DispatchEvent, DispatchSettings, Target
from torouter.errors import ExpertOverloadedError, NoExpertLeftError
from torouter.experts import Expert
from torouter.routers.baselines import BestSingleRouter
from torouter.runtime.telemetry import OpenTelemetryHook

QUESTION, ANSWER, TOKEN = "a private question", "a private answer", "canary-7"

frameworks = pytest.mark.parametrize("framework", ["langchain", "llamaindex"])
both_ways = pytest.mark.parametrize("streamed", [False, True], ids=["call", "stream"])


class Recording:
    """A hook and what it has recorded."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.hook = OpenTelemetryHook(
            tracer_provider=self.tracers, meter_provider=MeterProvider(metric_readers=[self._metrics])
        )

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """In the order in which they ended: attempts before their call."""
        return self._spans.get_finished_spans()

    def metrics(self) -> dict[str, list[tuple[float, Mapping[str, Any]]]]:
        """Sum and attributes of each series, by the metric's name."""
        data = self._metrics.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: [(point.sum, point.attributes) for point in metric.data.data_points]
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def recording() -> Recording:
    return Recording()


@dataclass(frozen=True)
class World:
    """Two experts that serve other names than their own."""

    a: ScriptedTGI
    b: ScriptedTGI

    def model(self, framework: Framework, recording: Recording) -> Any:
        experts = {
            "a": Expert(name="a", url=self.a.url, model="test/a", api_key=TOKEN),
            "b": Expert(name="b", url=self.b.url, model="test/b"),
        }
        return model_of(
            framework,
            router=BestSingleRouter.of({"a": 0.9, "b": 0.5}),
            experts=experts,
            settings=DispatchSettings(handshake="off"),
            hooks=[recording.hook],
        )


@pytest.fixture
def world() -> Iterator[World]:
    with ScriptedTGI(model_id="test/a") as a, ScriptedTGI(model_id="test/b") as b:
        b.answer = lambda _: Text(ANSWER)
        yield World(a, b)


@frameworks
@both_ways
def test_a_call_is_one_span_with_a_child_for_each_attempt(
    world: World, recording: Recording, framework: Framework, streamed: bool
) -> None:
    world.a.script(Fault.overloaded())
    assert ask(world.model(framework, recording), QUESTION, streamed=streamed).text == ANSWER
    first, second, call = recording.spans
    assert call.parent is None
    for attempt in (first, second):
        assert attempt.parent is not None
        assert attempt.parent.span_id == call.context.span_id
        assert attempt.kind is SpanKind.CLIENT

    assert (call.name, first.name, second.name) == ("chat a", "chat test/a", "chat test/b")
    assert call.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "torouter",
        "gen_ai.request.model": "a",
        "gen_ai.response.model": "test/b",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "torouter.ranking": ("a", "b"),
        "torouter.reason": "router",
        "torouter.streamed": streamed,
        "torouter.expert": "b",
        "torouter.failed_attempts": 1,
    }
    assert first.attributes is not None
    assert first.attributes["error.type"] == "ExpertOverloadedError"
    assert (first.status.status_code, call.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert second.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "torouter",
        "gen_ai.request.model": "test/b",
        "gen_ai.response.model": "test/b",
        "server.address": "127.0.0.1",
        "server.port": urlsplit(world.b.url).port,
        "torouter.expert": "b",
        "torouter.attempt": 2,
    }


@frameworks
@both_ways
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_call_is_a_child_of_the_callers_span(
    world: World, recording: Recording, framework: Framework, streamed: bool, asynchronous: bool
) -> None:
    model = world.model(framework, recording)
    with recording.tracers.get_tracer("app").start_as_current_span("request") as caller:
        if asynchronous:
            asyncio.run(aask(model, QUESTION, streamed=streamed))
        else:
            ask(model, QUESTION, streamed=streamed)
    _, call, _ = recording.spans
    assert call.parent is not None
    assert call.parent.span_id == caller.get_span_context().span_id


@frameworks
@both_ways
def test_neither_content_nor_token_is_recorded(
    world: World, recording: Recording, framework: Framework, streamed: bool
) -> None:
    world.a.script(Fault.plain_422(QUESTION), Fault.validation(QUESTION), Fault.error_midway(2, text=QUESTION))
    model = world.model(framework, recording)
    for _ in range(4):
        ask(model, QUESTION, streamed=streamed)
    recorded = "".join(span.to_json() for span in recording.spans) + repr(recording.metrics())
    assert len(recording.spans) >= 8
    for secret in (QUESTION, ANSWER, TOKEN):
        assert secret not in recorded


@both_ways
def test_duration_and_tokens_are_measured_once_for_each_call(
    world: World, recording: Recording, streamed: bool
) -> None:
    world.a.script(Fault.overloaded())
    ask(world.model("langchain", recording), QUESTION, streamed=streamed)
    metrics = recording.metrics()
    ((seconds, attributes),) = metrics["gen_ai.client.operation.duration"]
    assert 0 < seconds < 60
    common = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "torouter",
        "gen_ai.request.model": "a",
        "gen_ai.response.model": "test/b",
        "server.address": "127.0.0.1",
        "server.port": urlsplit(world.b.url).port,
    }
    assert attributes == common
    assert metrics["gen_ai.client.token.usage"] == [
        (3, {**common, "gen_ai.token.type": "input"}),
        (4, {**common, "gen_ai.token.type": "output"}),
    ]


async def test_a_call_that_nobody_answers_is_an_error(recording: Recording) -> None:
    dispatch = dispatcher(pool("a"), hooks=[recording.hook])
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("a"), ScriptedExperts(a=[ExpertOverloadedError("busy")]).ask)
    _, call = recording.spans
    assert call.attributes is not None
    assert call.attributes["error.type"] == "NoExpertLeftError"
    assert call.status.status_code is StatusCode.ERROR
    ((_, attributes),) = recording.metrics()["gen_ai.client.operation.duration"]
    assert attributes["error.type"] == "NoExpertLeftError"


async def test_a_stream_that_is_closed_early_is_no_error_and_ends_its_spans(recording: Recording) -> None:
    dispatch = dispatcher(pool("a"), hooks=[recording.hook])
    stream = await dispatch.open_stream(ranking("a"), ScriptedExperts().stream)
    await anext(stream)
    assert not recording.spans
    await stream.aclose()
    assert [span.status.status_code for span in recording.spans] == [StatusCode.UNSET, StatusCode.UNSET]
    assert all("error.type" not in (span.attributes or {}) for span in recording.spans)


async def test_a_cancelled_call_ends_its_spans(recording: Recording) -> None:
    dispatch = dispatcher(pool("a"), hooks=[recording.hook])
    call = asyncio.ensure_future(dispatch.call(ranking("a"), ScriptedExperts(a=[asyncio.Event()]).ask))
    await settle()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert [(span.attributes or {})["error.type"] for span in recording.spans] == ["CancelledError"] * 2


async def test_a_hedged_calls_span_tells_of_the_attempt_that_answered(recording: Recording) -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, hooks=[recording.hook], hedge_seconds=5)

    async def ask(target: Target) -> str:
        target.tell(AnswerFacts(model=f"served by {target.expert.name}"))
        if target.expert.name == "a":
            await asyncio.Event().wait()
        return "answer"

    call = asyncio.ensure_future(dispatch.call(ranking("a", "b"), ask))
    await settle()
    await time.advance(5)
    await call
    recorded = [dict(span.attributes or {}) for span in recording.spans]
    assert [attributes.get("torouter.attempt") for attributes in recorded] == [2, 1, None]
    assert [attributes["gen_ai.response.model"] for attributes in recorded] == [
        "served by b",
        "served by a",
        "served by b",
    ]
    assert [attributes.get("error.type") for attributes in recorded] == [None, "CancelledError", None]
    assert [
        attributes["server.address"] for _, attributes in recording.metrics()["gen_ai.client.operation.duration"]
    ] == ["b.test"]


async def test_a_frameworks_own_model_has_no_server(recording: Recording) -> None:
    from torouter.experts import ExpertPool

    dispatch = dispatcher(ExpertPool([Expert(name="own")]), hooks=[recording.hook])
    await dispatch.call(ranking("own"), ScriptedExperts().ask)
    attempt, _ = recording.spans
    assert attempt.attributes is not None
    assert not {"server.address", "server.port", "gen_ai.response.model"} & attempt.attributes.keys()


async def test_hooks_hear_what_parts_of_an_answer_say_of_it() -> None:
    events: list[DispatchEvent] = []
    dispatch = dispatcher(pool("a"), hooks=[events.append])

    async def ask(target: Target) -> str:
        target.tell(AnswerFacts(model="served"))
        target.tell(AnswerFacts(input_tokens=3, output_tokens=4))
        return "answer"

    await dispatch.call(ranking("a"), ask)
    (facts,) = [event.facts for event in events if hasattr(event, "facts")]
    assert facts == AnswerFacts("served", 3, 4)


def test_what_is_no_hook_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="hooks"):
        model_of("langchain", router=BestSingleRouter.of({"a": 1.0}), experts={"a": world.a.url}, hooks=["otel"])
