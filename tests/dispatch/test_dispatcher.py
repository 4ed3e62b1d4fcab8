"""Whom a call asks next, and what it ends with: the failure table, the deadline and streams."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from collections.abc import AsyncGenerator

import pytest

from tests.support.scripted_experts import (
    ACCESS,
    UNAVAILABLE,
    ManualClock,
    ScriptedExperts,
    dispatcher,
    in_flight,
    pool,
    ranking,
    settle,
    state,
)
from torouter.dispatch import (
    Dispatcher,
    DispatchSettings,
    Target,
)
from torouter.errors import (
    ConfigurationError,
    ContextLengthError,
    DeadlineExceededError,
    ExpertConnectionError,
    ExpertError,
    ExpertGenerationError,
    ExpertNotFoundError,
    ExpertOverloadedError,
    ExpertRequestError,
    ExpertServerError,
    ExpertTimeoutError,
    NoExpertLeftError,
    TruncatedReplyError,
)
from torouter.experts import Expert, ExpertPool
from torouter.runtime import background

# The walk


async def test_the_first_expert_of_the_ranking_answers() -> None:
    script = ScriptedExperts()
    served = await dispatcher(pool("a", "b")).call(ranking("b", "a"), script.ask)
    assert (served.value, served.expert, served.url) == ("b answers", "b", "http://b.test")
    assert served.attempts == ()
    assert script.asked == ["b"]


@pytest.mark.parametrize("kind", UNAVAILABLE + ACCESS)
async def test_an_expert_that_cannot_answer_hands_over_to_the_next_of_this_ranking(kind: type[ExpertError]) -> None:
    script = ScriptedExperts(a=[kind("no", expert="a")])
    served = await dispatcher(pool("a", "b", "c")).call(ranking("a", "c", "b"), script.ask)
    assert served.value == "c answers"
    assert [(a.expert, a.error, a.message) for a in served.attempts] == [("a", kind.__name__, "no")]


@pytest.mark.parametrize("kind", UNAVAILABLE + ACCESS)
async def test_a_failed_expert_is_left_alone_by_the_next_call(kind: type[ExpertError]) -> None:
    script = ScriptedExperts(a=[kind("no")])
    dispatch = dispatcher(pool("a", "b"))
    for _ in range(3):
        await dispatch.call(ranking("a", "b"), script.ask)
    assert script.asked == ["a", "b", "b", "b"]
    assert state(dispatch, "a") == "cooling"


async def test_a_wrong_request_is_raised_at_once_and_nobody_cools_down() -> None:
    script = ScriptedExperts(a=[ExpertRequestError("temperature", status=422)])
    dispatch = dispatcher(pool("a", "b"))
    with pytest.raises(ExpertRequestError, match="temperature"):
        await dispatch.call(ranking("a", "b"), script.ask)
    assert script.asked == ["a"]
    assert state(dispatch, "a") == "ready"


async def test_a_bug_is_raised_as_it_is_and_frees_its_place() -> None:
    bug = KeyError("ours")
    script = ScriptedExperts(a=[bug])
    dispatch = dispatcher(pool("a", "b"))
    with pytest.raises(KeyError) as caught:
        await dispatch.call(ranking("a", "b"), script.ask)
    assert caught.value is bug
    assert script.asked == ["a"]
    assert in_flight(dispatch) == 0
    assert state(dispatch, "a") == "ready"


async def test_the_timeout_error_of_a_bug_is_no_expert_timeout() -> None:
    with pytest.raises(TimeoutError) as caught:
        await dispatcher(pool("a", "b")).call(ranking("a", "b"), ScriptedExperts(a=[TimeoutError("foreign")]).ask)
    assert type(caught.value) is TimeoutError


async def test_when_nobody_answers_the_error_lists_every_attempt_and_its_cause() -> None:
    last = ExpertConnectionError("refused", expert="b")
    script = ScriptedExperts(a=[ExpertOverloadedError("Model is overloaded", expert="a")], b=[last])
    with pytest.raises(NoExpertLeftError) as caught:
        await dispatcher(pool("a", "b")).call(ranking("a", "b"), script.ask)
    error = caught.value
    assert [attempt.expert for attempt in error.attempts] == ["a", "b"]
    assert error.__cause__ is last
    for part in ("'a'", "ExpertOverloadedError", "Model is overloaded", "'b'", "ExpertConnectionError", "refused"):
        assert part in str(error)
    assert not isinstance(error, DeadlineExceededError)


async def test_one_expert_alone_that_fails_is_the_same_error() -> None:
    with pytest.raises(NoExpertLeftError) as caught:
        await dispatcher(pool("a", "b")).call(ranking("a"), ScriptedExperts(a=[ExpertServerError("boom")]).ask)
    assert isinstance(caught.value.__cause__, ExpertServerError)


async def test_a_ranking_that_names_a_stranger_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'x'"):
        await dispatcher(pool("a")).call(ranking("a", "x"), ScriptedExperts().ask)
    with pytest.raises(ConfigurationError, match="no expert"):
        await dispatcher(pool("a")).call(ranking(), ScriptedExperts().ask)


@pytest.mark.parametrize("kind", ACCESS)
async def test_a_refusal_warns_once_and_cools_down_for_long(
    kind: type[ExpertError], caplog: pytest.LogCaptureFixture
) -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, access_cooldown=300)
    script = ScriptedExperts(a=[kind("token canary-123 refused"), kind("again")])
    with caplog.at_level(logging.DEBUG):
        await dispatch.call(ranking("a", "b"), script.ask)
        await time.advance(299)
        await dispatch.call(ranking("a", "b"), script.ask)
        assert script.asked == ["a", "b", "b"]
        await time.advance(2)
        await dispatch.call(ranking("a", "b"), script.ask)
        assert script.asked == ["a", "b", "b", "a", "b"]
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert "'a'" in warnings[0]
        assert "canary" not in caplog.text

        await time.advance(300)
        await dispatch.call(ranking("a"), script.ask)  # somebody has mended it
        script.faults["a"] = [kind("broken once more")]
        await dispatch.call(ranking("a", "b"), script.ask)
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 2


async def test_an_input_that_is_too_long_goes_to_larger_and_unknown_windows_only() -> None:
    experts = ExpertPool(
        [
            Expert(name="small", url="http://s.test", context_window=2048),
            Expert(name="smaller", url="http://t.test", context_window=1024),
            Expert(name="same", url="http://u.test", context_window=2048),
            Expert(name="unknown", url="http://v.test"),
            Expert(name="large", url="http://w.test", context_window=8192),
        ]
    )
    script = ScriptedExperts(small=[ContextLengthError("too long")], unknown=[ContextLengthError("too long")])
    dispatch = dispatcher(experts)
    served = await dispatch.call(ranking("small", "smaller", "same", "unknown", "large"), script.ask)
    assert script.asked == ["small", "unknown", "large"]
    assert served.expert == "large"
    assert {replica.state for replica in dispatch.snapshot()} == {"ready"}


async def test_an_input_that_is_too_long_for_all_is_a_context_error() -> None:
    experts = ExpertPool(
        [
            Expert(name="a", url="http://s.test", context_window=2048),
            Expert(name="b", url="http://t.test", context_window=1024),
        ]
    )
    script = ScriptedExperts(a=[ContextLengthError("inputs must have less than 2048 tokens", expert="a", status=422)])
    with pytest.raises(ContextLengthError, match="'b': not asked, its window is no larger") as caught:
        await dispatcher(experts).call(ranking("a", "b"), script.ask)
    assert caught.value.status == 422
    assert script.asked == ["a"]


async def test_a_failed_generation_is_tried_again_only_where_nobody_else_is_left() -> None:
    script = ScriptedExperts(a=[ExpertGenerationError("424")])
    served = await dispatcher(pool("a", "b")).call(ranking("a"), script.ask)
    assert served.value == "a answers"
    assert script.asked == ["a", "a"]

    script = ScriptedExperts(a=[ExpertGenerationError("424")])
    await dispatcher(pool("a", "b")).call(ranking("a", "b"), script.ask)
    assert script.asked == ["a", "b"]

    script = ScriptedExperts(
        a=[ExpertGenerationError("424"), ExpertGenerationError("424")], b=[ExpertServerError("502")]
    )
    with pytest.raises(NoExpertLeftError):
        await dispatcher(pool("a", "b")).call(ranking("a", "b"), script.ask)
    assert script.asked == ["a", "b", "a"]


# Deadline


async def test_the_target_says_what_is_left_of_the_one_deadline() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, deadline=60)
    left = []

    async def ask(target: Target) -> str:
        left.append(target.seconds)
        await time.advance(20)
        raise ExpertConnectionError("down")

    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("a", "b"), ask)
    assert left == [60, 40]
    with pytest.raises(
        DeadlineExceededError, match="the deadline of 20 s is spent: 'a': ExpertConnectionError"
    ) as caught:
        await dispatch.call(ranking("a", "b"), ask, deadline=20)
    assert [attempt.expert for attempt in caught.value.attempts] == ["a"]
    assert isinstance(caught.value, TimeoutError)
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("a", "b"), ask, deadline=math.inf)
    assert left[-1] is None


async def test_an_expert_that_the_deadline_leaves_unasked_is_not_said_to_be_full() -> None:
    time = ManualClock()

    async def ask(_: Target) -> str:
        await time.advance(20)
        raise ExpertConnectionError("down")

    with pytest.raises(DeadlineExceededError, match="'b': not asked, the time was spent before"):
        await dispatcher(pool("a", "b"), time).call(ranking("a", "b"), ask, deadline=20)


async def test_a_stalled_expert_leaves_time_for_the_next_one() -> None:
    dispatch = Dispatcher(ExpertPool([Expert(name="a"), Expert(name="b")]), DispatchSettings(deadline=0.1))
    script = ScriptedExperts(a=[asyncio.Event()])
    served = await dispatch.call(ranking("a", "b"), script.ask)
    assert served.value == "b answers"
    assert [attempt.error for attempt in served.attempts] == ["ExpertTimeoutError"]
    assert in_flight(dispatch) == 0
    script.faults["a"] = [asyncio.Event()]
    stream = await dispatch.open_stream(ranking("a", "b"), script.stream, deadline=0.1)
    assert stream.expert == "b"


async def test_the_last_expert_has_all_the_time_that_is_left() -> None:
    with pytest.raises(DeadlineExceededError) as caught:
        await Dispatcher(ExpertPool([Expert(name="a")])).call(
            ranking("a"), ScriptedExperts(a=[asyncio.Event()]).ask, deadline=0.02
        )
    assert isinstance(caught.value.__cause__, ExpertTimeoutError)
    assert caught.value.attempts[0].milliseconds >= 20


async def test_an_expert_has_all_the_time_where_the_others_are_known_to_be_dead() -> None:
    dispatch = Dispatcher(ExpertPool([Expert(name="a"), Expert(name="b")]))
    script = ScriptedExperts(a=[asyncio.Event()], b=[ExpertNotFoundError("gone")])
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("b"), script.ask)
    with pytest.raises(DeadlineExceededError) as caught:
        await dispatch.call(ranking("a", "b"), script.ask, deadline=0.05)
    assert [attempt.expert for attempt in caught.value.attempts] == ["a"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_stalled_expert_is_left_when_one_that_was_dead_answers_somebody_again(streamed: bool) -> None:
    dispatch = Dispatcher(
        ExpertPool([Expert(name="a"), Expert(name="b")]), DispatchSettings(deadline=5, attempt_share=0.02)
    )
    script = ScriptedExperts(a=[asyncio.Event()], b=[ExpertConnectionError("gone")])
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("b"), script.ask)
    ask = (
        dispatch.open_stream(ranking("a", "b"), script.stream)
        if streamed
        else dispatch.call(ranking("a", "b"), script.ask)
    )
    stalled = asyncio.ensure_future(ask)
    await settle()
    assert script.asked == ["b", "a"]
    await dispatch.call(ranking("b"), script.ask)
    served = await stalled
    assert served.expert == "b"
    assert [attempt.error for attempt in served.attempts] == ["ExpertTimeoutError"]


async def test_a_framework_objects_stream_is_cut_at_the_deadline() -> None:
    dispatch = Dispatcher(ExpertPool([Expert(name="a")]))
    closed = []

    async def ask(target: Target) -> AsyncGenerator[str, None]:
        try:
            yield "1"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    stream = await dispatch.open_stream(ranking("a"), ask, deadline=0.05)
    assert await anext(stream) == "1"
    with pytest.raises(ExpertTimeoutError, match="'a'"):
        await anext(stream)
    assert closed == [True]
    assert in_flight(dispatch) == 0


# Streams


async def test_a_stream_fails_over_before_its_first_item_and_never_after() -> None:
    script = ScriptedExperts(a=[ExpertOverloadedError("busy")])
    dispatch = dispatcher(pool("a", "b"))
    stream = await dispatch.open_stream(ranking("a", "b"), script.stream)
    assert (stream.expert, stream.url) == ("b", "http://b.test")
    assert [attempt.expert for attempt in stream.attempts] == ["a"]
    assert [item async for item in stream] == ["b answers: 1", "2", "3"]
    assert in_flight(dispatch) == 0

    cut = TruncatedReplyError("cut", partial_text="half an")
    asked = []

    async def ask(target: Target) -> AsyncGenerator[str, None]:
        asked.append(target.expert.name)
        yield "half an"
        raise cut

    dispatch = dispatcher(pool("a", "b"))
    stream = await dispatch.open_stream(ranking("a", "b"), ask)
    assert await anext(stream) == "half an"
    with pytest.raises(TruncatedReplyError) as caught:
        await anext(stream)
    assert caught.value is cut
    assert asked == ["a"]
    assert in_flight(dispatch) == 0
    assert state(dispatch, "a") == "cooling"


async def test_a_stream_without_any_item_is_a_failure() -> None:
    async def ask(target: Target) -> AsyncGenerator[str, None]:
        if target.expert.name == "b":
            yield "b"

    stream = await dispatcher(pool("a", "b")).open_stream(ranking("a", "b"), ask)
    assert stream.expert == "b"
    assert [attempt.error for attempt in stream.attempts] == ["ExpertProtocolError"]


async def test_a_bug_in_a_stream_is_raised_as_it_is() -> None:
    async def ask(target: Target) -> AsyncGenerator[str, None]:
        raise KeyError("ours")
        yield ""

    dispatch = dispatcher(pool("a", "b"))
    with pytest.raises(KeyError):
        await dispatch.open_stream(ranking("a", "b"), ask)
    assert in_flight(dispatch) == 0


@pytest.mark.parametrize("way", ["closed", "dropped", "cancelled", "closed unread"])
async def test_a_stream_that_is_not_read_to_its_end_frees_its_place_and_its_source(way: str) -> None:
    dispatch = dispatcher(pool("a", max_concurrency=1))
    closed = []

    async def ask(target: Target) -> AsyncGenerator[str, None]:
        try:
            yield "1"
            yield "2"
            await asyncio.Event().wait()
        finally:
            closed.append(True)

    stream = await dispatch.open_stream(ranking("a"), ask)
    assert in_flight(dispatch) == 1
    if way != "closed unread":
        assert await anext(stream) == "1"
        assert await anext(stream) == "2"
    if way == "cancelled":
        reading = asyncio.ensure_future(anext(stream))
        await settle()
        reading.cancel()
        await settle()
    elif way == "dropped":
        del stream
        gc.collect()
        await settle()
    else:
        await stream.aclose()
    assert closed == [True]
    assert in_flight(dispatch) == 0
    assert state(dispatch, "a") == "ready"


def test_a_stream_can_be_read_from_synchronous_code() -> None:
    dispatch = Dispatcher(pool("a"))
    stream = background.run(dispatch.open_stream(ranking("a"), ScriptedExperts().stream))
    assert list(background.iterate(stream)) == ["a answers: 1", "2", "3"]  # each item in a task of its own
    assert in_flight(dispatch) == 0


async def test_the_first_item_of_a_trial_ends_the_cool_down() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time)
    script = ScriptedExperts(a=[ExpertConnectionError("down")])
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    stream = await dispatch.open_stream(ranking("a", "b"), script.stream)
    assert state(dispatch, "a") == "ready"
    await stream.aclose()
