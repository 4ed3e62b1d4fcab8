"""Dispatcher: calls the experts of a ranking in order until one answers or the deadline is spent."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from random import Random
from typing import Any, TypeVar

from torouter.dispatch.answers import AnswerReader, Served, ServedStream, Target
from torouter.dispatch.attempt_timeout import attempt_timeout
from torouter.dispatch.hedging import first_answer
from torouter.dispatch.hooks import CallEvents, DispatchHook
from torouter.dispatch.limits import Waiter
from torouter.dispatch.pool_state import PoolState
from torouter.dispatch.replica import Lease, ReplicaSnapshot
from torouter.dispatch.settings import DispatchSettings
from torouter.errors import (
    DeadlineExceededError,
    ExpertError,
    ExpertProtocolError,
    ExpertRequestError,
    ExpertTimeoutError,
    NoExpertLeftError,
)
from torouter.experts import Expert, ExpertPool
from torouter.routing.decision import RouteDecision
from torouter.routing.requirements import Estimate

T = TypeVar("T")


class Dispatcher:
    """Calls the experts of one pool as decisions rank them, and tracks their health, load and usual answers.

    One dispatcher may serve several threads and event loops at once.

    Args:
        experts: The pool that decisions name.
        settings: Deadline, cool-downs, limits.
        estimates: The experts' usual answers as known at the start; observed answers update them.
        hooks: Observers of decisions, attempts and outcomes.
        reader: Reads facts and text from the answers.
        before: Awaited before each request to a replica, within the attempt's time, such as a handshake.
        clock: A monotonic clock in seconds.
        sleep: Waits for a number of seconds, for slots and cool-downs.
        random: Source of the cool-downs' jitter.
    """

    def __init__(
        self,
        experts: ExpertPool,
        settings: DispatchSettings = DispatchSettings(),  # noqa: B008 - frozen
        *,
        estimates: Mapping[str, Estimate] | None = None,
        hooks: Sequence[DispatchHook] = (),
        reader: AnswerReader[Any] = AnswerReader(),
        before: Callable[[Target], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: Random | None = None,
    ) -> None:
        self.settings = settings
        self._hooks = tuple(hooks)
        self._reader = reader
        self._before = before
        self._clock = clock
        self._sleep = sleep
        self._pool = PoolState(experts, settings, estimates or {}, clock, random or Random())  # noqa: S311 - jitter

    async def call(
        self,
        decision: RouteDecision,
        ask: Callable[[Target], Awaitable[T]],
        *,
        deadline: float | None = None,
        answered: Callable[[str], None] | None = None,
        own_error: bool = False,
    ) -> Served[T]:
        """Call the ranking's experts until one gives a whole answer.

        With the settings' `hedge_seconds` two replicas may be called at once, each `ask` in a task of its own.

        Args:
            decision: The decision whose ranking is followed.
            ask: Calls one replica. Its `ExpertError`s are handled as the failure table says; anything else is raised.
            deadline: Seconds for this call, in place of the settings' deadline; inf for no limit.
            answered: Called with the expert's name once its answer is complete.
            own_error: Where the ranking has only one expert, raise that expert's error instead of NoExpertLeftError.

        Raises:
            ExpertRequestError: The request is wrong.
            ContextLengthError: The input is too long for every expert's context window.
            DeadlineExceededError: The deadline is spent.
            NoExpertLeftError: Every expert has failed.
        """
        events = self._start(decision, deadline, streamed=False, answered=answered)
        hedge_seconds = self.settings.hedge_seconds
        try:
            while True:
                lease = await self._next_place(events, own_error=own_error)
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
        answered: Callable[[str], None] | None = None,
        own_error: bool = False,
    ) -> ServedStream[T]:
        """Open a stream at the first of the ranking's experts that sends a first item.

        Arguments and errors are those of `call`. An `ExpertError` after the first item is raised by the stream, with
        the text so far in `partial_text`.
        """
        events = self._start(decision, deadline, streamed=True, answered=answered)
        failover = events.failover
        try:
            while True:
                lease = await self._next_place(events, own_error=own_error)
                target = self._target(events, lease)
                items = self._items(events, lease, target, ask)
                try:
                    async with attempt_timeout(failover, lease) as timer:
                        first = await anext(items)
                except BaseException as error:
                    if self._may_try_next(events, lease, error, timer):
                        continue
                    raise
                lease.answering = True
                self._pool.mark_alive(lease)
                return ServedStream(first, items, decision, target, tuple(failover.attempts))
        except BaseException as error:
            events.ended(None, error)
            raise

    def snapshot(self) -> tuple[ReplicaSnapshot, ...]:
        """The state of every replica."""
        return self._pool.snapshot()

    def estimates(self) -> Mapping[str, Estimate]:
        """Each expert's usual answer, by name: the initial estimates, updated by observed answers."""
        return self._pool.estimates()

    def limit(self, expert: str, max_concurrency: int | None, *, url: str | None = None) -> None:
        """Change how many requests the expert's replicas, or the one at `url`, are sent at the same time."""
        self._pool.limit(expert, max_concurrency, url)

    def describe(self, expert: Expert) -> None:
        """Replace the expert of the same name by a fuller description, for example with its context window."""
        self._pool.describe(expert)

    def _start(
        self,
        decision: RouteDecision,
        deadline: float | None,
        *,
        streamed: bool,
        answered: Callable[[str], None] | None,
    ) -> CallEvents:
        failover = self._pool.start(decision.ranking, self.settings.deadline if deadline is None else deadline)
        return CallEvents(self._hooks, decision, failover, self._clock, streamed=streamed, answered=answered)

    async def _next_place(self, events: CallEvents, *, own_error: bool) -> Lease:
        """A place on the replica to call next; waits where all places are taken."""
        try:
            while True:
                place = self._pool.next_place(events.failover)
                lease = place if isinstance(place, Lease) else await self._wait(*place)
                if lease is not None:
                    events.attempt_began(lease)
                    return lease
        except DeadlineExceededError:
            raise
        except NoExpertLeftError:
            last = events.failover.error
            if own_error and last is not None and len(events.decision.ranking) == 1:
                raise last from None
            raise

    async def _wait(self, waiter: Waiter, seconds: float) -> Lease | None:
        timer = None if seconds == math.inf else asyncio.ensure_future(self._sleep(seconds))
        futures = (waiter.woken,) if timer is None else (waiter.woken, timer)
        try:
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            return self._pool.take_lease(waiter)
        finally:
            self._pool.leave_queue(waiter)
            if timer is not None:
                timer.cancel()

    async def _attempt(
        self, events: CallEvents, lease: Lease, ask: Callable[[Target], Awaitable[T]]
    ) -> Served[T] | None:
        """Call one replica for a whole answer; None after a failure that lets another replica be tried."""
        failover = events.failover
        target = self._target(events, lease)
        try:
            async with attempt_timeout(failover, lease) as timer:
                if self._before is not None:
                    await self._before(target)
                value = await ask(target)
            lease.facts = self._reader.facts(value, lease.facts)
        except BaseException as error:
            if self._may_try_next(events, lease, error, timer):
                return None
            raise
        now = self._clock()
        self._finish(events, lease, seconds=now - lease.began)
        milliseconds = (now - failover.began) * 1000
        attempts = tuple(failover.attempts)
        return Served(value, events.decision, target.expert.name, target.url, attempts, milliseconds)

    def _second_attempt(
        self, events: CallEvents, slow: Lease, ask: Callable[[Target], Awaitable[T]]
    ) -> Coroutine[Any, Any, Served[T] | None] | None:
        """A second attempt beside the slow one; None if no replica is ready for it."""
        lease = self._pool.second_place(events.failover, slow)
        if lease is None:
            return None
        events.attempt_began(lease)
        return self._attempt(events, lease, ask)

    def _target(self, events: CallEvents, lease: Lease) -> Target:
        left = events.failover.deadline - lease.began
        seconds = None if left == math.inf else left
        return Target(lease.replica.expert, lease.replica.url, seconds, lease.note)

    async def _items(
        self, events: CallEvents, lease: Lease, target: Target, ask: Callable[[Target], AsyncGenerator[T, None]]
    ) -> AsyncGenerator[T, None]:
        """The stream's items. Once the first one has arrived, the end of the stream releases its place."""
        texts: list[str] = []
        read_text, read_facts = self._reader.text, self._reader.facts
        try:
            began, seconds = lease.began, 0.0  # without the time that the consumer takes between items
            if self._before is not None:
                await self._before(target)
            stream = ask(target)
            if not target.url and target.seconds is not None:  # our own client keeps the deadline itself
                left = events.failover.deadline - self._clock()
                stream = _until(asyncio.get_running_loop().time() + left, stream, target.expert.name)
            async with aclosing(stream):
                async for item in stream:
                    seconds += self._clock() - began
                    lease.facts = read_facts(item, lease.facts)
                    texts.append(read_text(item))
                    yield item
                    began = self._clock()
        except BaseException as error:
            if isinstance(error, ExpertError):
                error.partial_text = error.partial_text or "".join(texts)
            if lease.answering:
                self._finish(events, lease, error=error)
                events.ended(target.expert.name, error)
            raise
        if lease.answering:
            self._finish(events, lease, seconds=seconds + self._clock() - began)
            events.ended(target.expert.name, None)

    def _may_try_next(self, events: CallEvents, lease: Lease, error: BaseException, timer: asyncio.Timeout) -> bool:
        """Release the place after a failure, and return whether another replica may be tried."""
        name = lease.replica.expert.name
        seconds = self._clock() - lease.began
        if isinstance(error, TimeoutError) and timer.expired():
            error = ExpertTimeoutError(f"expert {name!r}: no answer within {seconds:.3g} s", expert=name)
        elif isinstance(error, StopAsyncIteration):
            error = ExpertProtocolError(f"expert {name!r}: the stream ended before its first item", expert=name)
        self._finish(events, lease, error=error)
        if not isinstance(error, ExpertError) or isinstance(error, ExpertRequestError):
            return False
        events.failover.record_failure(lease.replica, error, seconds * 1000)
        return True

    def _finish(
        self, events: CallEvents, lease: Lease, *, error: BaseException | None = None, seconds: float | None = None
    ) -> None:
        self._pool.finish(lease, error=error, seconds=seconds)
        events.attempt_ended(lease, error)


async def _until(end: float, stream: AsyncGenerator[T, None], expert: str) -> AsyncGenerator[T, None]:
    """The stream's items until the loop's clock reaches `end`.

    The limit is set around each step and never across a yield, since a generator's steps may run in different tasks.

    Raises:
        ExpertTimeoutError: The stream has not ended by then.
    """
    async with aclosing(stream):
        while True:
            try:
                async with asyncio.timeout_at(end) as timer:
                    item = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if not timer.expired():
                    raise
                msg = f"expert {expert!r}: the deadline was spent before the stream ended"
                raise ExpertTimeoutError(msg, expert=expert) from None
            yield item
