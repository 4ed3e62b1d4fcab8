"""How many requests an expert is sent at the same time, and what becomes of those who wait."""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from typing import Any

import pytest

from tests.support.scripted_experts import ManualClock, ScriptedExperts, dispatcher, in_flight, pool, ranking, settle
from torouter.dispatch import (
    Dispatcher,
    Target,
)
from torouter.errors import (
    DeadlineExceededError,
    ExpertConnectionError,
)
from torouter.experts import Expert, ExpertPool


async def test_an_expert_is_never_sent_more_than_its_limit_and_serves_in_order() -> None:
    dispatch = dispatcher(pool("a", max_concurrency=2))
    gates = [asyncio.Event() for _ in range(6)]
    script = ScriptedExperts(a=list(gates))
    done: list[int] = []

    async def call(number: int) -> None:
        await dispatch.call(ranking("a"), script.ask)
        done.append(number)

    calls = [asyncio.ensure_future(call(number)) for number in range(6)]
    for gate in gates:
        await settle()
        gate.set()
    await asyncio.gather(*calls)
    assert script.most["a"] == 2
    assert done == list(range(6))
    assert in_flight(dispatch) == 0


async def test_the_settings_limit_experts_that_name_none_and_it_can_be_changed() -> None:
    dispatch = dispatcher(pool("a"), max_concurrency=1)
    gate = asyncio.Event()
    script = ScriptedExperts(a=[gate, gate, gate])
    calls = [asyncio.ensure_future(dispatch.call(ranking("a"), script.ask)) for _ in range(3)]
    await settle()
    assert script.in_flight["a"] == 1
    dispatch.limit("a", 2)
    await settle()
    assert script.in_flight["a"] == 2
    gate.set()
    await asyncio.gather(*calls)


async def test_a_call_waits_for_its_full_expert_and_then_goes_to_the_next_with_room() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b", max_concurrency=1), time, queue_seconds=10, deadline=60)
    script = ScriptedExperts(a=[asyncio.Event()])
    busy = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    waiting = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    await time.advance(9)
    assert not waiting.done()
    await time.advance(1)
    served = await waiting
    assert served.expert == "b"
    assert served.attempts == ()
    busy.cancel()


async def test_where_all_experts_are_full_the_deadline_ends_the_waiting() -> None:
    time = ManualClock()
    dispatch = dispatcher(pool("a", "b", max_concurrency=1), time, queue_seconds=10, deadline=60)
    script = ScriptedExperts(a=[asyncio.Event()], b=[asyncio.Event()])
    busy = [asyncio.ensure_future(dispatch.call(ranking(name), script.ask)) for name in ("a", "b")]
    await settle()
    waiting = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask, deadline=30))
    await settle()
    await time.advance(10)
    await time.advance(19.9)
    assert not waiting.done()
    await time.advance(0.2)
    with pytest.raises(DeadlineExceededError, match="no slot was free"):
        await waiting
    for call in busy:
        call.cancel()


async def test_calls_that_wait_for_an_expert_move_on_when_it_fails() -> None:
    dispatch = dispatcher(pool("a", "b", max_concurrency=1))
    crash = asyncio.Event()

    async def ask(target: Target) -> str:
        if target.expert.name == "a":
            await crash.wait()
            raise ExpertConnectionError("reset")
        return "b answers"

    calls = [asyncio.ensure_future(dispatch.call(ranking("a", "b"), ask)) for _ in range(4)]
    await settle()
    crash.set()
    served = await asyncio.gather(*calls)
    assert [one.value for one in served] == ["b answers"] * 4
    assert [len(one.attempts) for one in served] == [1, 0, 0, 0]


async def test_a_call_moves_on_when_the_one_replica_it_waits_for_fails_though_another_has_recovered() -> None:
    time = ManualClock()
    experts = ExpertPool(
        [Expert(name="a", urls=("http://one.test", "http://two.test"), max_concurrency=1), Expert(name="b")]
    )
    dispatch = dispatcher(experts, time, deadline=None, queue_seconds=1000)
    crash = asyncio.Event()
    one_fails = True

    async def ask(target: Target) -> str:
        if target.url == "http://two.test":
            await crash.wait()
            raise ExpertConnectionError("reset")
        if target.url == "http://one.test" and one_fails:
            raise ExpertConnectionError("down")
        return target.url or "b"

    first = asyncio.ensure_future(dispatch.call(ranking("a", "b"), ask))  # down at one, hangs at two
    await settle()
    await time.advance(1)
    second = asyncio.ensure_future(dispatch.call(ranking("a", "b"), ask))  # down at one, waits for two
    await settle()
    one_fails = False
    await time.advance(2)
    assert (await dispatch.call(ranking("a"), ask)).value == "http://one.test"
    crash.set()
    assert [(await call).value for call in (first, second)] == ["b", "b"]


async def test_giving_up_frees_the_place_and_the_queue() -> None:
    dispatch = dispatcher(pool("a", max_concurrency=1))
    script = ScriptedExperts(a=[asyncio.Event()])
    asking = asyncio.ensure_future(dispatch.call(ranking("a"), script.ask))
    await settle()
    queued = [asyncio.ensure_future(dispatch.call(ranking("a"), script.ask)) for _ in range(3)]
    await settle()
    queued[1].cancel()
    await settle()
    asking.cancel()
    await asyncio.wait([asking, *queued])
    assert [call.cancelled() for call in (asking, *queued)] == [True, False, True, False]
    assert in_flight(dispatch) == 0


async def test_a_place_handed_to_a_call_that_gives_up_goes_to_the_next() -> None:
    dispatch = dispatcher(pool("a", max_concurrency=1))
    gate = asyncio.Event()
    script = ScriptedExperts(a=[gate])
    asking = asyncio.ensure_future(dispatch.call(ranking("a"), script.ask))
    await settle()
    queued = [asyncio.ensure_future(dispatch.call(ranking("a"), script.ask)) for _ in range(2)]
    await settle()
    gate.set()
    while not asking.done():  # noqa: ASYNC110 - the place is handed over in this very step
        await asyncio.sleep(0)
    queued[0].cancel()
    assert (await queued[1]).value == "a answers"
    assert queued[0].cancelled()
    assert in_flight(dispatch) == 0


def test_threads_with_their_own_event_loops_share_one_limit() -> None:
    dispatch = Dispatcher(pool("a", max_concurrency=2))
    lock = threading.Lock()
    now, most = 0, 0

    async def ask(target: Target) -> str:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        await asyncio.sleep(0)
        with lock:
            now -= 1
        return target.expert.name

    async def main() -> list[str]:
        served = await asyncio.gather(*(dispatch.call(ranking("a"), ask) for _ in range(50)))
        return [one.value for one in served]

    results: list[list[str]] = []
    threads = [threading.Thread(target=lambda: results.append(asyncio.run(main()))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert results == [["a"] * 50] * 4
    assert most <= 2
    assert in_flight(dispatch) == 0


def test_a_place_handed_to_a_closed_event_loop_goes_to_the_next() -> None:
    dispatch = Dispatcher(pool("a", max_concurrency=1))
    gate = asyncio.Event()
    dead = asyncio.new_event_loop()

    async def main() -> str:
        script = ScriptedExperts(a=[gate])
        asking = asyncio.ensure_future(dispatch.call(ranking("a"), script.ask))
        await settle()
        waiting = await asyncio.to_thread(start_waiting)
        live = asyncio.ensure_future(dispatch.call(ranking("a"), script.ask))
        await settle()
        gate.set()
        await asking
        served = await live
        with contextlib.suppress(RuntimeError):
            waiting.close()
        return served.value

    def start_waiting() -> Any:
        coroutine = dispatch.call(ranking("a"), ScriptedExperts().ask, deadline=math.inf)
        task = dead.create_task(coroutine)
        for _ in range(3):
            dead.run_until_complete(asyncio.sleep(0))
        dead.close()
        task._log_destroy_pending = False
        return coroutine

    assert asyncio.run(main()) == "a answers"
    assert in_flight(dispatch) == 0
