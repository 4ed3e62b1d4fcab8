"""A call that is late is sent to a second expert where the settings allow it, and the first answer wins."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.support.scripted_experts import (
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
    AnswerFacts,
    AttemptBegan,
    AttemptEnded,
    CallBegan,
    CallEnded,
    Dispatcher,
    DispatchEvent,
    Served,
    Target,
)
from torouter.errors import (
    ExpertConnectionError,
    ExpertError,
    ExpertOverloadedError,
    ExpertRequestError,
    ExpertServerError,
    NoExpertLeftError,
)
from torouter.experts import Expert, ExpertPool


class Gates:
    """Experts that answer, or fail, when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.seconds: list[float | None] = []
        self.cancelled: list[str] = []
        self._gates: dict[str, asyncio.Future[None]] = {}

    async def ask(self, target: Target) -> str:
        name = target.url or target.expert.name
        self.asked.append(name)
        self.seconds.append(target.seconds)
        target.tell(AnswerFacts(model=f"model of {name}"))
        gate = self._gates[name] = asyncio.get_running_loop().create_future()
        try:
            await gate
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        return f"{name} answers"

    async def answer(self, name: str) -> None:
        self._gates[name].set_result(None)
        await settle()

    async def fail(self, name: str, error: BaseException) -> None:
        self._gates[name].set_exception(error)
        await settle()


def objects(*names: str, **fields: Any) -> ExpertPool:
    return ExpertPool([Expert(name=name, **fields) for name in names])


async def late(
    dispatch: Dispatcher, time: ManualClock, gates: Gates, *names: str, seconds: float = 5
) -> asyncio.Task[Served[str]]:
    """A call that has had no answer for so many seconds."""
    call = asyncio.ensure_future(dispatch.call(ranking(*names), gates.ask, deadline=60))
    await settle()
    await time.advance(seconds)
    return call


async def test_the_second_answers_first_and_the_first_is_cancelled_and_its_place_is_free() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b", max_concurrency=1), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", "b", seconds=4.9)
    assert gates.asked == ["a"]
    await time.advance(0.1)
    assert gates.asked == ["a", "b"]
    assert gates.seconds == [60, 55]
    await gates.answer("b")
    served = await call
    assert (served.value, served.expert, served.attempts, served.milliseconds) == ("b answers", "b", (), 5000)
    assert gates.cancelled == ["a"]
    assert in_flight(dispatch) == 0
    assert [state(dispatch, name) for name in ("a", "b")] == ["ready", "ready"]


async def test_the_first_answers_after_all_and_the_second_is_cancelled() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b", "c"), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", "b", "c")
    await time.advance(20)
    assert gates.asked == ["a", "b"]  # never a third
    await gates.answer("a")
    assert (await call).expert == "a"
    assert gates.cancelled == ["b"]
    assert in_flight(dispatch) == 0


async def test_an_answer_in_time_asks_nobody_else() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b"), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", "b", seconds=4)
    await gates.answer("a")
    assert (await call).expert == "a"
    await time.advance(10)
    assert gates.asked == ["a"]


@pytest.mark.parametrize(("fails", "answers"), [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("error", [ExpertServerError("boom"), ExpertRequestError("no tools here")])
async def test_an_error_of_one_does_not_end_the_other(fails: str, answers: str, error: ExpertError) -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b", "c"), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", "b", "c")
    await gates.fail(fails, error)
    assert not call.done()
    await gates.answer(answers)
    assert (await call).expert == answers
    assert gates.asked == ["a", "b"]
    assert gates.cancelled == []


async def test_when_both_fail_the_walk_goes_on_and_its_error_lists_both() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b", "c"), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", "b", "c")
    await gates.fail("b", ExpertServerError("boom"))
    await gates.fail("a", ExpertConnectionError("reset"))
    assert gates.asked == ["a", "b", "c"]
    last = ExpertOverloadedError("busy")
    await gates.fail("c", last)
    with pytest.raises(NoExpertLeftError) as caught:
        await call
    assert [(a.expert, a.error) for a in caught.value.attempts] == [
        ("b", "ExpertServerError"),
        ("a", "ExpertConnectionError"),
        ("c", "ExpertOverloadedError"),
    ]
    assert caught.value.__cause__ is last
    assert in_flight(dispatch) == 0


async def test_a_request_that_no_attempt_gets_through_is_raised_as_it_is() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b", "c"), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", "b", "c")
    refusal = ExpertRequestError("temperature", status=422)
    await gates.fail("a", refusal)
    await gates.fail("b", ExpertServerError("boom"))
    with pytest.raises(ExpertRequestError) as caught:
        await call
    assert caught.value is refusal
    assert gates.asked == ["a", "b"]


async def test_a_bug_of_one_is_raised_at_once_and_cancels_the_other() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b"), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", "b")
    bug = KeyError("ours")
    await gates.fail("b", bug)
    with pytest.raises(KeyError) as caught:
        await call
    assert caught.value is bug
    assert gates.cancelled == ["a"]
    assert in_flight(dispatch) == 0


async def test_hedging_is_off_by_default() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b"), time)
    call = await late(dispatch, time, gates, "a", "b", seconds=50)
    assert gates.asked == ["a"]
    await gates.answer("a")
    assert (await call).expert == "a"


async def test_a_stream_is_never_hedged() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, hedge_seconds=5)
    gate = asyncio.Event()
    script = ScriptedExperts(a=[gate])
    opening = asyncio.ensure_future(dispatch.open_stream(ranking("a", "b"), script.stream))
    await settle()
    await time.advance(50)
    gate.set()
    stream = await opening
    await stream.aclose()
    assert script.asked == ["a"]


async def test_hedges_cost_retry_budget_so_that_slow_experts_are_not_sent_twice_the_load() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b"), time, hedge_seconds=5, retry_reserve=2, retry_ratio=0)
    calls = [await late(dispatch, time, gates, "a", "b") for _ in range(5)]
    assert gates.asked.count("a") == 5
    assert gates.asked.count("b") == 2
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert in_flight(dispatch) == 0


async def test_a_pinned_call_goes_to_no_other_expert_but_to_another_replica_of_its_own() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b"), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", seconds=50)
    assert gates.asked == ["a"]
    await gates.answer("a")
    await call

    gates = Gates()
    experts = ExpertPool([Expert(name="a", urls=("http://one.test", "http://two.test")), Expert(name="b")])
    dispatch = dispatcher(experts, time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a")
    assert gates.asked == ["http://one.test", "http://two.test"]
    await gates.answer("http://two.test")
    assert (await call).url == "http://two.test"


async def test_only_an_expert_that_is_well_and_has_room_is_asked_as_well() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b", "c", "d", max_concurrency=1), time, hedge_seconds=5, cooldown=100)
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("b"), ScriptedExperts(b=[ExpertConnectionError("down")]).ask)
    busy = asyncio.ensure_future(dispatch.call(ranking("c"), Gates().ask))
    await settle()
    call = await late(dispatch, time, gates, "a", "b", "c", "d")
    assert gates.asked == ["a", "d"]
    for task in (busy, call):
        task.cancel()
    await asyncio.wait((busy, call))
    assert in_flight(dispatch) == 0


async def test_an_attempt_after_a_failure_is_hedged_too() -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b", "c"), time, hedge_seconds=5)
    call = await late(dispatch, time, gates, "a", "b", "c", seconds=1)
    await gates.fail("a", ExpertServerError("boom"))
    await time.advance(4)
    assert gates.asked == ["a", "b"]
    await time.advance(1)
    assert gates.asked == ["a", "b", "c"]
    await gates.answer("c")
    served = await call
    assert (served.expert, [attempt.expert for attempt in served.attempts]) == ("c", ["a"])


@pytest.mark.parametrize("seconds", [1, 5])
async def test_cancelling_the_call_cancels_every_attempt(seconds: float) -> None:
    time, gates = ManualClock(), Gates()
    dispatch = dispatcher(objects("a", "b", max_concurrency=1), time, hedge_seconds=5)
    before = asyncio.all_tasks()
    call = await late(dispatch, time, gates, "a", "b", seconds=seconds)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert gates.cancelled == gates.asked == ["a", "b"][: len(gates.asked)]
    assert len(gates.asked) == (2 if seconds == 5 else 1)
    assert in_flight(dispatch) == 0
    assert asyncio.all_tasks() == before
    assert [state(dispatch, name) for name in ("a", "b")] == ["ready", "ready"]


async def test_hooks_see_one_call_and_what_each_attempt_told() -> None:
    time, gates = ManualClock(), Gates()
    events: list[DispatchEvent] = []
    dispatch = dispatcher(objects("a", "b"), time, hedge_seconds=5, hooks=[events.append])
    call = await late(dispatch, time, gates, "a", "b")
    await gates.answer("b")
    await call
    number = events[0].call
    assert [type(event) for event in events] == [
        CallBegan,
        AttemptBegan,
        AttemptBegan,
        AttemptEnded,
        AttemptEnded,
        CallEnded,
    ]
    assert events[1:] == [
        AttemptBegan(number, 1, "a", "", "a"),
        AttemptBegan(number, 2, "b", "", "b"),
        AttemptEnded(number, 2, "b", "", 0, None, AnswerFacts(model="model of b")),
        AttemptEnded(number, 1, "a", "", 5000, "CancelledError", AnswerFacts(model="model of a")),
        CallEnded(number, "b", (), 5000, None),
    ]
