"""From a decision to an answer: asks the experts of a ranking in order until one answers or the deadline is spent."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, Generic, TypeVar

from torouter.chat import Attempt
from torouter.dispatch.attempt_timeout import attempt_timeout
from torouter.dispatch.hedging import first_answer
from torouter.dispatch.hooks import AnswerFacts, CallEvents, DispatchHook
from torouter.dispatch.limits import Waiter
from torouter.dispatch.pool_state import PoolState
from torouter.dispatch.replica import Lease, ReplicaSnapshot
from torouter.dispatch.settings import DispatchSettings
from torouter.errors import ExpertError, ExpertProtocolError, ExpertRequestError, ExpertTimeoutError
from torouter.experts import Expert, ExpertPool
from torouter.routing.decision import RouteDecision
from torouter.routing.requirements import Estimate

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask: one replica ("" where a framework's object is the expert), and the seconds left of the deadline.

    Whoever asks may `tell` what the answer, or each part of a streamed one, says of itself; it is for the hooks.
    """

    expert: Expert
    url: str
    seconds: float | None
    tell: Callable[[AnswerFacts], None]


@dataclass(frozen=True, slots=True)
class Served(Generic[T]):
    """An answer, who gave it, and who had failed before. `milliseconds` is the whole call's time."""

    value: T
    expert: str
    url: str
    attempts: tuple[Attempt, ...]
    milliseconds: float


class ServedStream(Generic[T]):
    """A stream whose first item is there: from here on one expert serves it, and its errors pass on as they are.

    `aclose` frees the expert's slot and its connection; a stream that was read to its end needs no closing.
    """

    def __init__(
        self,
        first: T,
        rest: AsyncGenerator[T, None],
        target: Target,
        attempts: tuple[Attempt, ...],
        until: float | None,
    ) -> None:
        self.expert = target.expert.name
        self.url = target.url
        self.attempts = attempts
        self._first: list[T] = [first]
        self._rest = rest
        self._until = until  # loop time at which we cut it; None where the client keeps the deadline

    def __aiter__(self) -> ServedStream[T]:
        return self

    async def __anext__(self) -> T:
        if self._first:
            return self._first.pop()
        if self._until is None:
            return await anext(self._rest)
        try:
            async with asyncio.timeout_at(self._until) as timer:
                return await anext(self._rest)
        except TimeoutError:
            if not timer.expired():
                raise
            msg = f"expert {self.expert!r}: the deadline was spent before the stream ended"
            raise ExpertTimeoutError(msg, expert=self.expert) from None

    async def aclose(self) -> None:
        self._first.clear()
        await self._rest.aclose()


class Dispatcher:
    """Carries out decisions over the experts of one pool, and keeps their health, load and usual answers.

    One dispatcher may serve several threads and event loops at once.

    Args:
        experts: The pool that decisions name.
        settings: Deadline, cool-downs, limits.
        estimates: What is known of the experts' usual answers at the start; observations move it.
        hooks: Observers of decisions, attempts and outcomes.
        clock: Seconds that only grow.
        sleep: Waits so many seconds, for slots and cool-downs.
        random: Jitter of the cool-downs.
    """

    def __init__(
        self,
        experts: ExpertPool,
        settings: DispatchSettings = DispatchSettings(),  # noqa: B008 - frozen
        *,
        estimates: Mapping[str, Estimate] | None = None,
        hooks: Sequence[DispatchHook] = (),
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        self.settings = settings
        self._hooks = tuple(hooks)
        self._clock = clock
        self._sleep = sleep
        self._board = PoolState(experts, settings, estimates or {}, clock, random or Random())  # noqa: S311 - jitter

    async def call(
        self, decision: RouteDecision, ask: Callable[[Target], Awaitable[T]], *, deadline: float | None = None
    ) -> Served[T]:
        """Ask the ranking's experts for one whole answer.

        With the settings' `hedge_seconds` two replicas may be asked at once, each `ask` in a task of its own.

        Args:
            decision: Whose ranking is walked.
            ask: Asks one replica. An `ExpertError` of it counts as the failure table says; anything else is raised.
            deadline: Seconds for this call in place of the settings'; inf for no limit.

        Raises:
            ExpertRequestError: The request is wrong.
            ContextLengthError: The input fits into no expert's window.
            DeadlineExceededError: The deadline is spent.
            NoExpertLeftError: Every expert has failed.
        """
        events = self._start(decision, deadline, streamed=False)
        hedge_seconds = self.settings.hedge_seconds
        try:
            while True:
                lease = await self._next_place(events)
                attempt = self._attempt(events, lease, ask)
                if hedge_seconds is None:
                    served = await attempt
                else:
                    second = partial(self._second_attempt, events, lease, ask)
                    served = await first_answer(attempt, self._sleep(hedge_seconds), second)
                if served is not None:
                    events.ended(served.expert, None)
                    return served
        except BaseException as error:
            events.ended(None, error)
            raise

    async def open_stream(
        self,
        decision: RouteDecision,
        ask: Callable[[Target], AsyncGenerator[T, None]],
        *,
        deadline: float | None = None,
    ) -> ServedStream[T]:
        """Open a stream at the first of the ranking's experts that gives a first item.

        Arguments and errors are `call`'s. After the first item an `ExpertError` of the stream passes on as it is.
        """
        events = self._start(decision, deadline, streamed=True)
        failover = events.failover
        try:
            while True:
                lease = await self._next_place(events)
                target = self._target(events, lease)
                items = self._items(events, lease, target, ask)
                try:
                    async with attempt_timeout(failover, lease) as timer:
                        first = await anext(items)
                except BaseException as error:
                    if self._may_go_on(events, lease, error, timer):
                        continue
                    raise
                lease.answering = True
                self._board.mark_alive(lease)
                until = None
                if not target.url and target.seconds is not None:
                    until = asyncio.get_running_loop().time() + failover.deadline - self._clock()
                return ServedStream(first, items, target, tuple(failover.attempts), until)
        except BaseException as error:
            events.ended(None, error)
            raise

    def snapshot(self) -> tuple[ReplicaSnapshot, ...]:
        """The state of every replica."""
        return self._board.snapshot()

    def estimates(self) -> Mapping[str, Estimate]:
        """What each expert usually takes, by name: the given estimates, moved by what was observed."""
        return self._board.estimates()

    def observe(self, expert: str, *, output_tokens: float) -> None:
        """Take note of an answer's length, since the dispatcher does not look into answers."""
        self._board.observe(expert, output_tokens)

    def limit(self, expert: str, max_concurrency: int | None, *, url: str | None = None) -> None:
        """Change how many requests the expert's replicas, or the one at `url`, are sent at the same time."""
        self._board.limit(expert, max_concurrency, url)

    def describe(self, expert: Expert) -> None:
        """Put what has become known of an expert, such as its window, in the place of the expert of the same name."""
        self._board.describe(expert)

    def _start(self, decision: RouteDecision, deadline: float | None, *, streamed: bool) -> CallEvents:
        failover = self._board.start(decision.ranking, self.settings.deadline if deadline is None else deadline)
        return CallEvents(self._hooks, decision, failover, self._clock, streamed=streamed)

    async def _next_place(self, events: CallEvents) -> Lease:
        """A place on the replica that is to be asked next; waits for it where all are taken."""
        while True:
            place = self._board.next_place(events.failover)
            lease = place if isinstance(place, Lease) else await self._wait(*place)
            if lease is not None:
                events.attempt_began(lease)
                return lease

    async def _wait(self, waiter: Waiter, seconds: float) -> Lease | None:
        timer = None if seconds == math.inf else asyncio.ensure_future(self._sleep(seconds))
        events = (waiter.woken,) if timer is None else (waiter.woken, timer)
        try:
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            return self._board.take_lease(waiter)
        finally:
            self._board.leave_queue(waiter)
            if timer is not None:
                timer.cancel()

    async def _attempt(
        self, events: CallEvents, lease: Lease, ask: Callable[[Target], Awaitable[T]]
    ) -> Served[T] | None:
        """Ask one replica for a whole answer; None after a failure after which somebody else is asked."""
        failover = events.failover
        target = self._target(events, lease)
        try:
            async with attempt_timeout(failover, lease) as timer:
                value = await ask(target)
        except BaseException as error:
            if self._may_go_on(events, lease, error, timer):
                return None
            raise
        now = self._clock()
        self._finish(events, lease, seconds=now - lease.began)
        return Served(value, target.expert.name, target.url, tuple(failover.attempts), (now - failover.began) * 1000)

    def _second_attempt(
        self, events: CallEvents, slow: Lease, ask: Callable[[Target], Awaitable[T]]
    ) -> Coroutine[Any, Any, Served[T] | None] | None:
        """An attempt beside the one that is slow to answer; None if nobody is there for it."""
        lease = self._board.second_place(events.failover, slow)
        if lease is None:
            return None
        events.attempt_began(lease)
        return self._attempt(events, lease, ask)

    def _target(self, events: CallEvents, lease: Lease) -> Target:
        left = events.failover.deadline - lease.began
        seconds = None if left == math.inf else left
        return Target(lease.replica.expert, lease.replica.url, seconds, partial(events.answer_says, lease))

    async def _items(
        self, events: CallEvents, lease: Lease, target: Target, ask: Callable[[Target], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        """The stream's items. After the first one, whatever ends it frees its place."""
        try:
            began, seconds = lease.began, 0.0  # the time that the consumer takes between the items is not the expert's
            async with aclosing(ask(target)) as stream:
                async for item in stream:
                    seconds += self._clock() - began
                    yield item
                    began = self._clock()
        except BaseException as error:
            if lease.answering:
                self._finish(events, lease, error=error)
                events.ended(target.expert.name, error)
            raise
        if lease.answering:
            self._finish(events, lease, seconds=seconds + self._clock() - began)
            events.ended(target.expert.name, None)

    def _may_go_on(self, events: CallEvents, lease: Lease, error: BaseException, timer: asyncio.Timeout) -> bool:
        """Take the place back, and say whether this failure is one after which somebody else is asked."""
        name = lease.replica.expert.name
        took = self._clock() - lease.began
        if isinstance(error, TimeoutError) and timer.expired():
            error = ExpertTimeoutError(f"expert {name!r}: no answer within {took:.3g} s", expert=name)
        elif isinstance(error, StopAsyncIteration):
            error = ExpertProtocolError(f"expert {name!r}: the stream ended before its first item", expert=name)
        self._finish(events, lease, error=error)
        if not isinstance(error, ExpertError) or isinstance(error, ExpertRequestError):
            return False
        events.failover.failed(lease.replica, error, took * 1000)
        return True

    def _finish(
        self, events: CallEvents, lease: Lease, *, error: BaseException | None = None, seconds: float | None = None
    ) -> None:
        self._board.finish(lease, error=error, seconds=seconds)
        events.attempt_ended(lease, error)
