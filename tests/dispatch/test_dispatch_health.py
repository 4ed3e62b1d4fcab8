"""When an expert cools down, which call probes it afterwards, and which of its replicas is asked."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from tests.support.scripted_experts import ManualClock, ScriptedExperts, dispatcher, pool, ranking, settle, state
from torouter.dispatch import Dispatcher, DispatchSettings, Target
from torouter.errors import (
    ExpertConnectionError,
    ExpertGenerationError,
    ExpertNotFoundError,
    ExpertOverloadedError,
    ExpertRequestError,
    NoExpertLeftError,
)
from torouter.experts import Expert, ExpertPool

# Health


async def test_cool_downs_double_up_to_the_most_and_end_with_an_answer() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, cooldown=1, max_cooldown=5)
    script = ScriptedExperts(a=[ExpertConnectionError("down") for _ in range(4)])
    seen = []
    for _ in range(4):
        await dispatch.call(ranking("a", "b"), script.ask)
        seen.append(dispatch.snapshot()[0].cooling_seconds)
        await time.advance(seen[-1])
    assert seen == [1, 2, 4, 5]
    assert state(dispatch, "a") == "half_open"
    await dispatch.call(ranking("a", "b"), script.ask)
    assert state(dispatch, "a") == "ready"
    script.faults["a"] = [ExpertConnectionError("down")]
    await dispatch.call(ranking("a", "b"), script.ask)
    assert dispatch.snapshot()[0].cooling_seconds == 1


async def test_jitter_takes_off_up_to_half_of_a_cool_down() -> None:
    dispatch = Dispatcher(
        pool("a", "b"), DispatchSettings(cooldown=10), clock=ManualClock().clock, random=random.Random(1)
    )
    await dispatch.call(ranking("a", "b"), ScriptedExperts(a=[ExpertConnectionError("down")]).ask)
    assert dispatch.snapshot()[0].cooling_seconds == pytest.approx(10 * (1 - random.Random(1).random() / 2))


async def test_one_crash_that_breaks_many_calls_is_one_failure() -> None:
    dispatch = dispatcher(pool("a", "b"), cooldown=1)
    crash = asyncio.Event()

    async def ask(target: Target) -> str:
        if target.expert.name == "a":
            await crash.wait()
            raise ExpertConnectionError("reset")
        return "b answers"

    calls = [asyncio.ensure_future(dispatch.call(ranking("a", "b"), ask)) for _ in range(10)]
    await settle()
    crash.set()
    assert [served.value for served in await asyncio.gather(*calls)] == ["b answers"] * 10
    assert dispatch.snapshot()[0].cooling_seconds == 1
    assert dispatch.snapshot()[0].failed == 10


async def test_an_answer_begun_before_the_failure_proves_no_recovery() -> None:
    dispatch = dispatcher(pool("a", "b"))
    slow = asyncio.Event()
    script = ScriptedExperts(a=[slow, ExpertOverloadedError("busy")])
    early = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    await dispatch.call(ranking("a", "b"), script.ask)
    slow.set()
    assert (await early).value == "a answers"
    assert state(dispatch, "a") == "cooling"


async def test_a_wrong_request_shows_that_an_expert_is_back() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time)
    script = ScriptedExperts(a=[ExpertConnectionError("down"), ExpertRequestError("temperature")])
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    with pytest.raises(ExpertRequestError):
        await dispatch.call(ranking("a", "b"), script.ask)
    assert state(dispatch, "a") == "ready"


async def test_one_call_at_a_time_tries_whether_an_expert_is_back() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time)
    probe = asyncio.Event()
    script = ScriptedExperts(a=[ExpertConnectionError("down"), probe])
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    trial = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    assert (await dispatch.call(ranking("a", "b"), script.ask)).expert == "b"
    probe.set()
    assert (await trial).expert == "a"
    assert (await dispatch.call(ranking("a", "b"), script.ask)).expert == "a"


async def test_a_cancelled_trial_lets_the_next_call_try() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time)
    script = ScriptedExperts(a=[ExpertConnectionError("down"), asyncio.Event()])
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    trial = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    trial.cancel()
    await settle()
    assert (await dispatch.call(ranking("a", "b"), script.ask)).expert == "a"


async def test_where_all_cool_down_the_soonest_back_is_asked_first_and_then_the_others() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b", "c"), time)
    down = ExpertConnectionError
    script = ScriptedExperts(a=[down("1"), down("2")], b=[down("1"), down("2")], c=[down("1"), down("2")])
    for names in (("a", "b", "c"), ("a", "b")):  # now a and b have failed twice and cool down for longer
        with pytest.raises(NoExpertLeftError):
            await dispatch.call(ranking(*names), script.ask)
    script.asked.clear()
    served = await dispatch.call(ranking("a", "b", "c"), script.ask)
    assert script.asked == ["c", "a"]
    assert served.value == "a answers"


async def test_of_experts_that_are_being_tried_the_better_one_is_asked() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time)
    script = ScriptedExperts(
        a=[ExpertConnectionError("1"), asyncio.Event()], b=[ExpertConnectionError("1"), asyncio.Event()]
    )
    for name in ("a", "b"):
        with pytest.raises(NoExpertLeftError):
            await dispatch.call(ranking(name), script.ask)
        await time.advance(1)
    trials = [asyncio.ensure_future(dispatch.call(ranking(name), script.ask)) for name in ("a", "b")]
    await settle()
    assert (await dispatch.call(ranking("b", "a"), script.ask)).expert == "b"
    for trial in trials:
        trial.cancel()


async def test_an_outage_does_not_multiply_the_load() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b", "c"), time, retry_ratio=0.1, retry_reserve=5, deadline=60)
    asked = 0

    async def ask(target: Target) -> str:
        nonlocal asked
        asked += 1
        raise ExpertOverloadedError("busy")

    async def call() -> None:
        with pytest.raises(NoExpertLeftError) as caught:
            await dispatch.call(ranking("a", "b", "c"), ask)
        assert type(caught.value) is NoExpertLeftError  # nobody has to wait for the deadline to know

    calls = []
    for _ in range(300):
        calls.append(asyncio.ensure_future(call()))
        await time.advance(0.1)
    while not all(task.done() for task in calls):
        await time.advance_to(time.next)
    await asyncio.gather(*calls)
    probes = 3 * 30  # one for each expert and second at most
    assert 300 <= asked <= 300 * 1.1 + 5 + probes


async def test_without_budget_a_call_waits_for_the_cool_down_rather_than_fail() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, retry_reserve=0)
    script = ScriptedExperts(a=[ExpertConnectionError("1"), ExpertConnectionError("2")], b=[ExpertConnectionError("1")])
    for name in ("a", "b"):
        with pytest.raises(NoExpertLeftError):
            await dispatch.call(ranking(name), script.ask)
    call = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    assert script.asked == ["a", "b", "a"]  # a is the free first try; asking b before its time would be a retry
    assert not call.done()
    await time.advance(1)
    assert (await call).value == "b answers"


async def test_nobody_waits_for_a_cool_down_that_ends_after_the_deadline() -> None:
    dispatch = dispatcher(
        pool("a", "b"), retry_reserve=0, cooldown=200, max_cooldown=200, access_cooldown=300, deadline=180, rounds=10**6
    )
    script = ScriptedExperts(a=[ExpertNotFoundError("1"), ExpertNotFoundError("2")], b=[ExpertConnectionError("1")] * 2)
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("a"), script.ask)
    with pytest.raises(NoExpertLeftError, match=r"'a': not asked, it failed other calls \(ExpertNotFoundError\)"):
        await dispatch.call(ranking("b", "a"), script.ask)


async def test_a_call_that_waits_for_a_trial_shares_its_outcome() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, retry_reserve=0)
    trial = asyncio.Event()
    script = ScriptedExperts(
        a=[ExpertConnectionError("1"), trial], b=[ExpertConnectionError("1"), ExpertConnectionError("2")]
    )
    for name in ("a", "b"):
        with pytest.raises(NoExpertLeftError):
            await dispatch.call(ranking(name), script.ask)
    await time.advance(1)
    first = asyncio.ensure_future(dispatch.call(ranking("a"), script.ask))
    await settle()
    second = asyncio.ensure_future(dispatch.call(ranking("b", "a"), script.ask))
    await settle()
    assert script.asked == ["a", "b", "a", "b"]
    trial.set()
    assert [(await call).value for call in (first, second)] == ["a answers", "a answers"]


async def test_of_those_that_wait_for_a_cancelled_trial_one_tries_next() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, retry_reserve=0)
    crash, again = asyncio.Event(), asyncio.Event()
    script = ScriptedExperts(a=[ExpertConnectionError("down"), asyncio.Event(), again])

    async def ask(target: Target) -> str:
        if target.expert.name == "b":
            await crash.wait()
            raise ExpertConnectionError("reset")
        return await script.ask(target)

    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("a"), ask)
    await time.advance(1)
    trial = asyncio.ensure_future(dispatch.call(ranking("a"), ask))
    waiting = [asyncio.ensure_future(dispatch.call(ranking("b", "a"), ask)) for _ in range(2)]
    await settle()
    crash.set()
    await settle()
    trial.cancel()
    await settle()
    assert script.asked == ["a"] * 3
    again.set()
    assert [(await call).value for call in waiting] == ["a answers", "a answers"]


async def test_an_input_that_breaks_every_expert_ends_no_other_call() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, retry_reserve=0)
    script = ScriptedExperts(a=[ExpertConnectionError("1"), ExpertConnectionError("2")], b=[ExpertConnectionError("1")])
    for name in ("a", "b"):
        with pytest.raises(NoExpertLeftError):
            await dispatch.call(ranking(name), script.ask)
    await time.advance(0.5)
    call = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    await time.advance(0.1)
    script.faults["b"] = [ExpertGenerationError("424")]
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("b"), script.ask)
    await settle()
    await time.advance(2)
    assert (await call).value == "b answers"


async def test_a_stream_that_ended_a_cool_down_does_not_count_as_the_next_trial() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time)
    script = ScriptedExperts(a=[ExpertConnectionError("down")])
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    stream = await dispatch.open_stream(ranking("a", "b"), script.stream)
    script.faults["a"] = [ExpertConnectionError("down again")]
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    assert (await dispatch.call(ranking("a", "b"), script.ask)).expert == "a"  # while the stream is still open
    await stream.aclose()


async def test_a_second_round_waits_for_the_cool_down() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, rounds=2, retry_reserve=0)
    script = ScriptedExperts(a=[ExpertOverloadedError("busy")], b=[ExpertOverloadedError("busy")])
    call = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    assert script.asked == ["a", "b"]
    await time.advance(10)
    served = await call
    assert served.value == "a answers"
    assert len(served.attempts) == 2


async def test_no_round_waits_for_an_expert_that_refuses_us() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b"), time, rounds=3, access_cooldown=10)
    script = ScriptedExperts(a=[ExpertNotFoundError("gone")], b=[ExpertNotFoundError("gone")])
    call = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    assert call.done()
    assert isinstance(call.exception(), NoExpertLeftError)
    script.faults.update(a=[ExpertNotFoundError("gone")], b=[ExpertOverloadedError("busy")])
    await time.advance(100)
    call = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    await time.advance(10)
    assert (await call).value == "b answers"
    assert script.asked == ["a", "b"] * 2 + ["b"]


# Replicas


async def test_the_replica_with_the_fewest_requests_is_asked() -> None:
    experts = ExpertPool([Expert(name="a", urls=("http://one.test", "http://two.test"))])
    dispatch = dispatcher(experts)
    script = ScriptedExperts(a=[asyncio.Event() for _ in range(4)])
    calls = [asyncio.ensure_future(dispatch.call(ranking("a"), script.ask)) for _ in range(4)]
    await settle()
    assert Counter(target.url for target in script.targets) == {"http://one.test": 2, "http://two.test": 2}
    for call in calls:
        call.cancel()


async def test_another_replica_of_the_expert_is_asked_before_the_next_expert() -> None:
    experts = ExpertPool(
        [Expert(name="a", urls=("http://one.test", "http://two.test")), Expert(name="b", url="http://b.test")]
    )
    dispatch = dispatcher(experts)
    script = ScriptedExperts(a=[ExpertConnectionError("down")])
    served = await dispatch.call(ranking("a", "b"), script.ask)
    assert (served.expert, served.url) == ("a", "http://two.test")
    assert [attempt.url for attempt in served.attempts] == ["http://one.test"]
    assert [replica.state for replica in dispatch.snapshot()] == ["cooling", "ready", "ready"]
