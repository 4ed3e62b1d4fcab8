"""What a call gets from experts that fail in every way: the failure table, cool-downs, limits and the one deadline."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import random
import threading
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torouter import background
from torouter.dispatch import (
    AttemptBegan,
    AttemptEnded,
    CallBegan,
    CallEnded,
    Dispatcher,
    DispatchEvent,
    DispatchSettings,
    Target,
)
from torouter.errors import (
    ConfigurationError,
    ContextLengthError,
    DeadlineExceededError,
    ExpertAuthenticationError,
    ExpertConnectionError,
    ExpertError,
    ExpertGenerationError,
    ExpertNotFoundError,
    ExpertOverloadedError,
    ExpertPermissionError,
    ExpertProtocolError,
    ExpertRequestError,
    ExpertServerError,
    ExpertTimeoutError,
    NoExpertLeftError,
    TruncatedReplyError,
)
from torouter.experts import Expert, ExpertPool
from torouter.routing.decision import RouteDecision
from torouter.routing.needs import Estimate

UNAVAILABLE = [
    ExpertConnectionError,
    ExpertTimeoutError,
    ExpertOverloadedError,
    ExpertGenerationError,
    ExpertServerError,
    ExpertProtocolError,
    TruncatedReplyError,
]
ACCESS = [ExpertAuthenticationError, ExpertPermissionError, ExpertNotFoundError]


class Time:
    """A clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, woken))
        await woken

    @property
    def next(self) -> float:
        """When the next sleeper wakes, inf if nobody sleeps."""
        return min((until for until, woken in self._sleepers if not woken.done()), default=math.inf)

    async def advance(self, seconds: float) -> None:
        await self.advance_to(self.now + seconds)

    async def advance_to(self, now: float) -> None:
        self.now = now
        for until, woken in self._sleepers:
            if until <= now and not woken.done():
                woken.set_result(None)
        self._sleepers = [(until, woken) for until, woken in self._sleepers if not woken.done()]
        await settle()


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class Script:
    """Experts that do what the test has written down for them, and answer with their name otherwise."""

    def __init__(self, **faults: list[ExpertError | BaseException | asyncio.Event]) -> None:
        self.faults = faults
        self.asked: list[str] = []
        self.targets: list[Target] = []
        self.in_flight: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def ask(self, target: Target) -> str:
        name = target.expert.name
        self.asked.append(name)
        self.targets.append(target)
        self.in_flight[name] += 1
        self.most[name] = max(self.most[name], self.in_flight[name])
        try:
            fault = self.faults[name].pop(0) if self.faults.get(name) else None
            if isinstance(fault, asyncio.Event):
                await fault.wait()
            elif fault is not None:
                raise fault
            return f"{name} answers"
        finally:
            self.in_flight[name] -= 1

    async def stream(self, target: Target) -> AsyncGenerator[str, None]:
        yield f"{await self.ask(target)}: 1"
        yield "2"
        yield "3"


def pool(*names: str, **fields: Any) -> ExpertPool:
    return ExpertPool([Expert(name=name, url=f"http://{name}.test", **fields) for name in names])


def ranking(*names: str) -> RouteDecision:
    return RouteDecision(ranking=names, scores={})


def dispatcher(experts: ExpertPool, time: Time | None = None, **options: Any) -> Dispatcher:
    time = time or Time()
    hooks = options.pop("hooks", ())
    return Dispatcher(
        experts, DispatchSettings(**options), clock=time.clock, sleep=time.sleep, random=NoJitter(), hooks=hooks
    )


def state(dispatch: Dispatcher, name: str) -> str:
    return next(replica.state for replica in dispatch.snapshot() if replica.expert == name)


def in_flight(dispatch: Dispatcher) -> int:
    return sum(replica.in_flight for replica in dispatch.snapshot())


async def settle() -> None:
    """Let every task that can go on do so."""
    for _ in range(20):
        await asyncio.sleep(0)


# The walk


async def test_the_first_expert_of_the_ranking_answers() -> None:
    script = Script()
    served = await dispatcher(pool("a", "b")).call(ranking("b", "a"), script.ask)
    assert (served.value, served.expert, served.url) == ("b answers", "b", "http://b.test")
    assert served.attempts == ()
    assert script.asked == ["b"]


@pytest.mark.parametrize("kind", UNAVAILABLE + ACCESS)
async def test_an_expert_that_cannot_answer_hands_over_to_the_next_of_this_ranking(kind: type[ExpertError]) -> None:
    script = Script(a=[kind("no", expert="a")])
    served = await dispatcher(pool("a", "b", "c")).call(ranking("a", "c", "b"), script.ask)
    assert served.value == "c answers"
    assert [(a.expert, a.error, a.message) for a in served.attempts] == [("a", kind.__name__, "no")]


@pytest.mark.parametrize("kind", UNAVAILABLE + ACCESS)
async def test_a_failed_expert_is_left_alone_by_the_next_call(kind: type[ExpertError]) -> None:
    script = Script(a=[kind("no")])
    dispatch = dispatcher(pool("a", "b"))
    for _ in range(3):
        await dispatch.call(ranking("a", "b"), script.ask)
    assert script.asked == ["a", "b", "b", "b"]
    assert state(dispatch, "a") == "cooling"


async def test_a_wrong_request_is_raised_at_once_and_nobody_cools_down() -> None:
    script = Script(a=[ExpertRequestError("temperature", status=422)])
    dispatch = dispatcher(pool("a", "b"))
    with pytest.raises(ExpertRequestError, match="temperature"):
        await dispatch.call(ranking("a", "b"), script.ask)
    assert script.asked == ["a"]
    assert state(dispatch, "a") == "ready"


async def test_a_bug_is_raised_as_it_is_and_frees_its_place() -> None:
    bug = KeyError("ours")
    script = Script(a=[bug])
    dispatch = dispatcher(pool("a", "b"))
    with pytest.raises(KeyError) as caught:
        await dispatch.call(ranking("a", "b"), script.ask)
    assert caught.value is bug
    assert script.asked == ["a"]
    assert in_flight(dispatch) == 0
    assert state(dispatch, "a") == "ready"


async def test_the_timeout_error_of_a_bug_is_no_expert_timeout() -> None:
    with pytest.raises(TimeoutError) as caught:
        await dispatcher(pool("a", "b")).call(ranking("a", "b"), Script(a=[TimeoutError("foreign")]).ask)
    assert type(caught.value) is TimeoutError


async def test_when_nobody_answers_the_error_lists_every_attempt_and_its_cause() -> None:
    last = ExpertConnectionError("refused", expert="b")
    script = Script(a=[ExpertOverloadedError("Model is overloaded", expert="a")], b=[last])
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
        await dispatcher(pool("a", "b")).call(ranking("a"), Script(a=[ExpertServerError("boom")]).ask)
    assert isinstance(caught.value.__cause__, ExpertServerError)


async def test_a_ranking_that_names_a_stranger_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'x'"):
        await dispatcher(pool("a")).call(ranking("a", "x"), Script().ask)
    with pytest.raises(ConfigurationError, match="no expert"):
        await dispatcher(pool("a")).call(ranking(), Script().ask)


@pytest.mark.parametrize("kind", ACCESS)
async def test_a_refusal_warns_once_and_cools_down_for_long(
    kind: type[ExpertError], caplog: pytest.LogCaptureFixture
) -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time, access_cooldown=300)
    script = Script(a=[kind("token canary-123 refused"), kind("again")])
    with caplog.at_level(logging.DEBUG):
        await dispatch.call(ranking("a", "b"), script.ask)
        await time.advance(299)
        await dispatch.call(ranking("a", "b"), script.ask)
        assert script.asked == ["a", "b", "b"]
        await time.advance(2)
        await dispatch.call(ranking("a", "b"), script.ask)
    assert script.asked == ["a", "b", "b", "a", "b"]
    warnings = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert "'a'" in warnings[0].getMessage()
    assert "canary" not in caplog.text


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
    script = Script(small=[ContextLengthError("too long")], unknown=[ContextLengthError("too long")])
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
    script = Script(a=[ContextLengthError("inputs must have less than 2048 tokens", expert="a", status=422)])
    with pytest.raises(ContextLengthError, match="'b': not asked, its window is no larger") as caught:
        await dispatcher(experts).call(ranking("a", "b"), script.ask)
    assert caught.value.status == 422
    assert script.asked == ["a"]


async def test_a_failed_generation_is_tried_again_only_where_nobody_else_is_left() -> None:
    script = Script(a=[ExpertGenerationError("424")])
    served = await dispatcher(pool("a", "b")).call(ranking("a"), script.ask)
    assert served.value == "a answers"
    assert script.asked == ["a", "a"]

    script = Script(a=[ExpertGenerationError("424")])
    await dispatcher(pool("a", "b")).call(ranking("a", "b"), script.ask)
    assert script.asked == ["a", "b"]

    script = Script(a=[ExpertGenerationError("424"), ExpertGenerationError("424")], b=[ExpertServerError("502")])
    with pytest.raises(NoExpertLeftError):
        await dispatcher(pool("a", "b")).call(ranking("a", "b"), script.ask)
    assert script.asked == ["a", "b", "a"]


# Health


async def test_cool_downs_double_up_to_the_most_and_end_with_an_answer() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time, cooldown=1, max_cooldown=5)
    script = Script(a=[ExpertConnectionError("down") for _ in range(4)])
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
    dispatch = Dispatcher(pool("a", "b"), DispatchSettings(cooldown=10), clock=Time().clock, random=random.Random(1))
    await dispatch.call(ranking("a", "b"), Script(a=[ExpertConnectionError("down")]).ask)
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
    script = Script(a=[slow, ExpertOverloadedError("busy")])
    early = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    await dispatch.call(ranking("a", "b"), script.ask)
    slow.set()
    assert (await early).value == "a answers"
    assert state(dispatch, "a") == "cooling"


async def test_one_call_at_a_time_tries_whether_an_expert_is_back() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time)
    probe = asyncio.Event()
    script = Script(a=[ExpertConnectionError("down"), probe])
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    trial = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    assert (await dispatch.call(ranking("a", "b"), script.ask)).expert == "b"
    probe.set()
    assert (await trial).expert == "a"
    assert (await dispatch.call(ranking("a", "b"), script.ask)).expert == "a"


async def test_a_cancelled_trial_lets_the_next_call_try() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time)
    script = Script(a=[ExpertConnectionError("down"), asyncio.Event()])
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    trial = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    trial.cancel()
    await settle()
    assert (await dispatch.call(ranking("a", "b"), script.ask)).expert == "a"


async def test_where_all_cool_down_the_soonest_back_is_asked_first_and_then_the_others() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b", "c"), time)
    down = ExpertConnectionError
    script = Script(a=[down("1"), down("2")], b=[down("1"), down("2")], c=[down("1"), down("2")])
    for names in (("a", "b", "c"), ("a", "b")):  # now a and b have failed twice and cool down for longer
        with pytest.raises(NoExpertLeftError):
            await dispatch.call(ranking(*names), script.ask)
    script.asked.clear()
    served = await dispatch.call(ranking("a", "b", "c"), script.ask)
    assert script.asked == ["c", "a"]
    assert served.value == "a answers"


async def test_an_outage_does_not_multiply_the_load() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b", "c"), time, retry_ratio=0.1, retry_reserve=5, deadline=60)
    asked = 0

    async def ask(target: Target) -> str:
        nonlocal asked
        asked += 1
        raise ExpertOverloadedError("busy")

    async def call() -> None:
        with pytest.raises(NoExpertLeftError):
            await dispatch.call(ranking("a", "b", "c"), ask)

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
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time, retry_reserve=0)
    script = Script(a=[ExpertConnectionError("1"), ExpertConnectionError("2")], b=[ExpertConnectionError("1")])
    for name in ("a", "b"):
        with pytest.raises(NoExpertLeftError):
            await dispatch.call(ranking(name), script.ask)
    call = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    assert script.asked == ["a", "b", "a"]  # a is the free first try; asking b before its time would be a retry
    assert not call.done()
    await time.advance(1)
    assert (await call).value == "b answers"


async def test_a_call_that_waits_for_a_trial_shares_its_outcome() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time, retry_reserve=0)
    trial = asyncio.Event()
    script = Script(a=[ExpertConnectionError("1"), trial], b=[ExpertConnectionError("1"), ExpertConnectionError("2")])
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


async def test_a_second_round_waits_for_the_cool_down() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time, rounds=2)
    script = Script(a=[ExpertOverloadedError("busy")], b=[ExpertOverloadedError("busy")])
    call = asyncio.ensure_future(dispatch.call(ranking("a", "b"), script.ask))
    await settle()
    assert script.asked == ["a", "b"]
    await time.advance(1)
    served = await call
    assert served.value == "a answers"
    assert len(served.attempts) == 2


# Replicas


async def test_the_replica_with_the_fewest_requests_is_asked() -> None:
    experts = ExpertPool([Expert(name="a", urls=("http://one.test", "http://two.test"))])
    dispatch = dispatcher(experts)
    script = Script(a=[asyncio.Event() for _ in range(4)])
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
    script = Script(a=[ExpertConnectionError("down")])
    served = await dispatch.call(ranking("a", "b"), script.ask)
    assert (served.expert, served.url) == ("a", "http://two.test")
    assert [attempt.url for attempt in served.attempts] == ["http://one.test"]
    assert [replica.state for replica in dispatch.snapshot()] == ["cooling", "ready", "ready"]


# Deadline


async def test_the_target_says_what_is_left_of_the_one_deadline() -> None:
    time = Time()
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


async def test_a_stalled_expert_leaves_time_for_the_next_one() -> None:
    dispatch = Dispatcher(ExpertPool([Expert(name="a"), Expert(name="b")]), DispatchSettings(deadline=0.1))
    script = Script(a=[asyncio.Event()])
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
            ranking("a"), Script(a=[asyncio.Event()]).ask, deadline=0.02
        )
    assert isinstance(caught.value.__cause__, ExpertTimeoutError)
    assert caught.value.attempts[0].milliseconds >= 20


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


# Concurrency


async def test_an_expert_is_never_sent_more_than_its_limit_and_serves_in_order() -> None:
    dispatch = dispatcher(pool("a", max_concurrency=2))
    gates = [asyncio.Event() for _ in range(6)]
    script = Script(a=list(gates))
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
    script = Script(a=[gate, gate, gate])
    calls = [asyncio.ensure_future(dispatch.call(ranking("a"), script.ask)) for _ in range(3)]
    await settle()
    assert script.in_flight["a"] == 1
    dispatch.limit("a", 2)
    await settle()
    assert script.in_flight["a"] == 2
    gate.set()
    await asyncio.gather(*calls)


async def test_a_call_waits_for_its_full_expert_and_then_goes_to_the_next_with_room() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b", max_concurrency=1), time, queue_seconds=10, deadline=60)
    script = Script(a=[asyncio.Event()])
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
    time = Time()
    dispatch = dispatcher(pool("a", "b", max_concurrency=1), time, queue_seconds=10, deadline=60)
    script = Script(a=[asyncio.Event()], b=[asyncio.Event()])
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
    time = Time()
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
    script = Script(a=[asyncio.Event()])
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
    script = Script(a=[gate])
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
        script = Script(a=[gate])
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
        coroutine = dispatch.call(ranking("a"), Script().ask, deadline=math.inf)
        task = dead.create_task(coroutine)
        for _ in range(3):
            dead.run_until_complete(asyncio.sleep(0))
        dead.close()
        task._log_destroy_pending = False
        return coroutine

    assert asyncio.run(main()) == "a answers"
    assert in_flight(dispatch) == 0


# Streams


async def test_a_stream_fails_over_before_its_first_item_and_never_after() -> None:
    script = Script(a=[ExpertOverloadedError("busy")])
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
    stream = background.run(dispatch.open_stream(ranking("a"), Script().stream))
    assert list(background.iterate(stream)) == ["a answers: 1", "2", "3"]  # each item in a task of its own
    assert in_flight(dispatch) == 0


async def test_the_first_item_of_a_trial_ends_the_cool_down() -> None:
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time)
    script = Script(a=[ExpertConnectionError("down")])
    await dispatch.call(ranking("a", "b"), script.ask)
    await time.advance(1)
    stream = await dispatch.open_stream(ranking("a", "b"), script.stream)
    assert state(dispatch, "a") == "ready"
    await stream.aclose()


# What can be seen


async def test_estimates_start_as_given_and_follow_what_is_observed() -> None:
    time = Time()
    dispatch = Dispatcher(
        pool("a", "b"), estimates={"a": Estimate(output_tokens=100, seconds=2.0)}, clock=time.clock, sleep=time.sleep
    )

    async def ask(target: Target) -> str:
        await time.advance(12)
        return ""

    for name in ("a", "b"):
        await dispatch.call(ranking(name), ask)
        dispatch.observe(name, output_tokens=200)
    assert dispatch.estimates() == {
        "a": Estimate(output_tokens=pytest.approx(110), seconds=pytest.approx(3)),
        "b": Estimate(output_tokens=200, seconds=12),
    }


async def test_a_slow_reader_does_not_make_the_expert_look_slow() -> None:
    time = Time()
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
    time = Time()
    dispatch = dispatcher(pool("a", "b", max_concurrency=4), time)
    script = Script(a=[ExpertOverloadedError("busy")])
    await dispatch.call(ranking("a", "b"), script.ask)
    a, b = dispatch.snapshot()
    assert (a.expert, a.url, a.state, a.limit) == ("a", "http://a.test", "cooling", 4)
    assert (a.cooling_seconds, a.failed, a.answered, a.last_error) == (1, 1, 0, "ExpertOverloadedError")
    assert (b.state, b.failed, b.answered, b.in_flight, b.last_error) == ("ready", 0, 1, 0, None)


async def test_hooks_see_each_call_and_attempt_with_its_end() -> None:
    events: list[DispatchEvent] = []
    time = Time()
    dispatch = dispatcher(pool("a", "b"), time, hooks=[events.append])
    decision = ranking("a", "b")
    await dispatch.call(decision, Script(a=[ExpertOverloadedError("busy")]).ask)
    call = events[0].call
    assert events[:5] == [
        CallBegan(call, decision, streamed=False),
        AttemptBegan(call, 1, "a", "http://a.test"),
        AttemptEnded(call, 1, "a", "http://a.test", 0.0, "ExpertOverloadedError"),
        AttemptBegan(call, 2, "b", "http://b.test"),
        AttemptEnded(call, 2, "b", "http://b.test", 0.0, None),
    ]
    last = events[5]
    assert isinstance(last, CallEnded)
    assert (last.expert, last.error, [a.expert for a in last.attempts]) == ("b", None, ["a"])

    events.clear()
    stream = await dispatch.open_stream(ranking("b"), Script().stream)
    assert len(events) == 2
    await anext(stream)
    await stream.aclose()
    assert [type(event) for event in events] == [CallBegan, AttemptBegan, AttemptEnded, CallEnded]
    assert [event.error for event in events[2:] if isinstance(event, AttemptEnded | CallEnded)] == ["GeneratorExit"] * 2

    events.clear()
    with pytest.raises(NoExpertLeftError):
        await dispatch.call(ranking("b"), Script(b=[ExpertServerError("boom")]).ask)
    assert isinstance(events[-1], CallEnded)
    assert (events[-1].expert, events[-1].error) == (None, "NoExpertLeftError")


async def test_a_broken_hook_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: DispatchEvent, /) -> None:
        raise ZeroDivisionError

    served = await dispatcher(pool("a"), hooks=[hook]).call(ranking("a"), Script().ask)
    assert served.value == "a answers"
    assert "dispatch hook" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("deadline", 0),
        ("deadline", "soon"),
        ("attempt_share", 1.5),
        ("cooldown", -1),
        ("retry_ratio", math.nan),
        ("rounds", 0),
        ("max_concurrency", 0),
        ("max_concurrency", True),
        ("queue_seconds", math.inf),
    ],
)
def test_wrong_settings_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"DispatchSettings: {field}="):
        DispatchSettings(**{field: value})


def test_settings_from_a_mapping_refuse_unknown_keys() -> None:
    assert DispatchSettings.from_mapping({"deadline": 5}).deadline == 5
    with pytest.raises(ConfigurationError, match="'dedline'"):
        DispatchSettings.from_mapping({"dedline": 5})


# Any sequence of faults

FAULTS = [*UNAVAILABLE, *ACCESS, ContextLengthError]
NAMES = ("a", "b", "c")

Call = tuple[float, bool, list[str]]
Phase = tuple[str, list[Call]]

calls = st.tuples(st.sampled_from([0.0, 0.0, 0.4, 3.0, 40.0]), st.booleans(), st.permutations(NAMES))
phases = st.lists(st.tuples(st.sampled_from(NAMES), st.lists(calls, min_size=1, max_size=8)), min_size=1, max_size=4)
faults = st.fixed_dictionaries({name: st.lists(st.sampled_from(FAULTS), min_size=1, max_size=5) for name in NAMES})


@given(
    phases=phases, faults=faults, cuts=st.booleans(), limit=st.integers(1, 3), reserve=st.sampled_from([0.0, 2.0, 9.0])
)
@settings(max_examples=100, deadline=None)
def test_no_call_fails_while_one_expert_is_healthy_and_answers_never_mix(
    phases: list[Phase], faults: dict[str, list[type[ExpertError]]], cuts: bool, limit: int, reserve: float
) -> None:
    """In each phase one expert is healthy, perhaps one that all calls before have found dead, and the others fail."""

    async def main() -> None:
        time = Time()
        dispatch = dispatcher(
            pool(*NAMES, max_concurrency=limit), time, retry_reserve=reserve, retry_ratio=0.0, deadline=None
        )
        healthy = ""

        async def stream(target: Target) -> AsyncGenerator[str, None]:
            name = target.expert.name
            await time.sleep(1)
            if name != healthy:
                faults[name].append(faults[name].pop(0))
                if cuts and faults[name][0] is TruncatedReplyError:
                    yield name
                raise faults[name][0]("fault", expert=name)
            for _ in range(3):
                yield name
                await time.sleep(0.1)

        async def ask(target: Target) -> str:
            return "".join([item async for item in stream(target)])

        async def call(streamed: bool, names: list[str]) -> None:
            if not streamed:
                served = await dispatch.call(ranking(*names), ask)
                assert (served.value, served.expert) == (healthy * 3, healthy)
                return
            opened = await dispatch.open_stream(ranking(*names), stream)
            items: list[str] = []
            try:
                async for item in opened:
                    items += [item]
            except TruncatedReplyError:
                assert cuts
                assert items == [opened.expert]  # a stream that has begun ends with its error and goes nowhere else
            else:
                assert items == [healthy] * 3

        for healthy, planned in phases:  # noqa: B007 - the experts above read it
            tasks = []
            for pause, streamed, names in planned:
                await time.advance(pause)
                tasks.append(asyncio.ensure_future(call(streamed, names)))
            await settle()
            while not all(task.done() for task in tasks):
                assert time.next < math.inf, "calls wait for something that never comes"
                await time.advance_to(time.next)
            for task in tasks:
                task.result()
            assert in_flight(dispatch) == 0

    asyncio.run(main())
