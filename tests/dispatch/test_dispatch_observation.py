"""What a dispatcher shows of its work: estimates that follow the answers, the state of replicas, events for hooks."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from tests.support.scripted_experts import ManualClock, ScriptedExperts, dispatcher, pool, ranking
from torouter.dispatch import (
    AnswerFacts,
    AttemptBegan,
    AttemptEnded,
    CallBegan,
    CallEnded,
    Dispatcher,
    DispatchEvent,
    Target,
)
from torouter.errors import ExpertOverloadedError, ExpertServerError, NoExpertLeftError
from torouter.routing.requirements import Estimate


async def test_estimates_start_as_given_and_follow_what_is_observed() -> None:
    time = ManualClock()
    dispatch = Dispatcher(
        pool("a", "b"), estimates={"a": Estimate(output_tokens=100, seconds=2.0)}, clock=time.clock, sleep=time.sleep
    )

    async def ask(target: Target) -> str:
        target.tell(AnswerFacts(output_tokens=200))
        await time.advance(12)
        return ""

    for name in ("a", "b"):
        await dispatch.call(ranking(name), ask)
    assert dispatch.estimates() == {
        "a": Estimate(output_tokens=pytest.approx(110), seconds=pytest.approx(3)),
        "b": Estimate(output_tokens=200, seconds=12),
    }


async def test_a_slow_reader_does_not_make_the_expert_look_slow() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a"), time)

    async def ask(target: Target) -> AsyncGenerator[str, None]:
        for item in "12":
            await time.advance(1)
            yield item

    stream = await dispatch.open_stream(ranking("a"), ask)
    async for _ in stream:
        await time.advance(100)
    assert dispatch.estimates()["a"].seconds == 2


async def test_the_snapshot_tells_each_replicas_state() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b", max_concurrency=4), time)
    script = ScriptedExperts(a=[ExpertOverloadedError("busy")])
    await dispatch.call(ranking("a", "b"), script.ask)
    a, b = dispatch.snapshot()
    assert (a.expert, a.url, a.state, a.limit) == ("a", "http://a.test", "cooling", 4)
    assert (a.cooling_seconds, a.failed, a.answered, a.last_error) == (1, 1, 0, "ExpertOverloadedError")
    assert (b.state, b.failed, b.answered, b.in_flight, b.last_error) == ("ready", 0, 1, 0, None)


async def test_hooks_see_each_call_and_attempt_with_its_end() -> None:
    events: list[DispatchEvent] = []
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, hooks=[events.append])
    decision = ranking("a", "b")
    await dispatch.call(decision, ScriptedExperts(a=[ExpertOverloadedError("busy")]).ask)
    call = events[0].call
    assert events[:5] == [
        CallBegan(call, decision, streamed=False),
        AttemptBegan(call, 1, "a", "http://a.test", "a"),
        AttemptEnded(call, 1, "a", "http://a.test", 0.0, "ExpertOverloadedError"),
        AttemptBegan(call, 2, "b", "http://b.test", "b"),
        AttemptEnded(call, 2, "b", "http://b.test", 0.0, None),
    ]
    last = events[5]
    assert isinstance(last, CallEnded)
    assert (last.expert, last.error, [a.expert for a in last.attempts]) == ("b", None, ["a"])

    events.clear()
    stream = await dispatch.open_stream(ranking("b"), ScriptedExperts().stream)
    assert len(events) == 2
    await anext(stream)
    await stream.aclose()
    assert [type(event) for event in events] == [CallBegan, AttemptBegan, AttemptEnded, CallEnded]
    assert [event.error for event in events[2:] if isinstance(event, AttemptEnded | CallEnded)] == ["GeneratorExit"] * 2

    events.clear()
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("b"), ScriptedExperts(b=[ExpertServerError("boom")]).ask)
    assert isinstance(events[-1], CallEnded)
    assert (events[-1].expert, events[-1].error) == (None, "NoExpertLeftError")


async def test_a_broken_hook_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: DispatchEvent, /) -> None:
        raise ZeroDivisionError

    served = await dispatcher(pool("a"), hooks=[hook]).call(ranking("a"), ScriptedExperts().ask)
    assert served.value == "a answers"
    assert "dispatch hook" in caplog.text
