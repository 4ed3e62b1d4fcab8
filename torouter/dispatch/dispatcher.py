"""From a decision to an answer: asks the experts of a ranking in order until one answers or the deadline is spent."""

from __future__ import annotations

import asyncio
import logging
import math
import random as random_module
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from torouter.dispatch.health import ExpertState, Lease, Replica, ReplicaSnapshot, harmless, smoothed
from torouter.dispatch.limits import RetryBudget, Waiter
from torouter.dispatch.settings import DispatchSettings
from torouter.dispatch.walk import Walk
from torouter.errors import (
    ConfigurationError,
    ExpertAccessError,
    ExpertError,
    ExpertProtocolError,
    ExpertRequestError,
    ExpertTimeoutError,
)
from torouter.experts import Expert, ExpertPool
from torouter.routing.decision import Attempt, RouteDecision
from torouter.routing.needs import Estimate

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask: one replica ("" where a framework's object is the expert), and the seconds left of the deadline."""

    expert: Expert
    url: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Served(Generic[T]):
    """An answer, who gave it, and who was asked in vain before. `milliseconds` is the whole call's time."""

    value: T
    expert: str
    url: str
    attempts: tuple[Attempt, ...]
    milliseconds: float


class ServedStream(Generic[T]):
    """A stream whose first item is there: from here on one expert serves it, and its errors pass on as they are.

    `aclose` frees the expert's slot and the connection; a stream read to its end is closed already.
    """

    def __init__(
        self,
        first: T,
        rest: AsyncGenerator[T, None],
        *,
        target: Target,
        attempts: tuple[Attempt, ...],
        until: float | None,
    ) -> None:
        self.expert = target.expert.name
        self.url = target.url
        self.attempts = attempts
        self._first: list[T] = [first]
        self._rest = rest
        self._until = until
        """Loop time at which the stream is cut; None where the client keeps the deadline itself."""

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
    """Walks rankings over the experts of a pool, and keeps their health, load and usual answers.

    One dispatcher may serve several threads and event loops at once.

    Args:
        experts: The pool that decisions name.
        settings: Deadline, cool-downs, limits.
        estimates: What is known of the experts' usual answers from the start; own observations move it.
        clock: Seconds that only grow.
        sleep: Waits, for queues and cool-downs.
        random: Jitter of the cool-downs.
    """

    def __init__(
        self,
        experts: ExpertPool,
        settings: DispatchSettings = DispatchSettings(),  # noqa: B008 - frozen
        *,
        estimates: Mapping[str, Estimate] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        random: random_module.Random | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._sleep = sleep
        self._random = random or random_module.Random()  # noqa: S311 - jitter
        self._lock = threading.Lock()
        self._budget = RetryBudget(settings.retry_ratio, settings.retry_reserve)
        known = estimates or {}
        self._experts = {
            name: ExpertState(
                expert,
                tuple(
                    Replica(expert, url, expert.max_concurrency or settings.max_concurrency)
                    for url in expert.urls or ("",)
                ),
                known.get(name, Estimate()),
            )
            for name, expert in experts.items()
        }

    async def call(
        self, decision: RouteDecision, ask: Callable[[Target], Awaitable[T]], *, deadline: float | None = None
    ) -> Served[T]:
        """Ask the ranking's experts for one whole answer.

        Args:
            decision: Whose ranking is walked.
            ask: Asks one replica. An `ExpertError` of it is treated as the failure table says, anything else raised.
            deadline: Seconds for this call in place of the settings', inf for no limit.

        Raises:
            ExpertRequestError: The request is wrong.
            ContextLengthError: The input fits no expert that is left.
            DeadlineExceededError: The deadline is spent.
            NoExpertLeftError: Every expert has failed.
        """
        walk = self._walk(decision, deadline)
        while True:
            lease = await self._lease(walk)
            target = self._target(walk, lease)
            try:
                async with asyncio.timeout(self._attempt_seconds(walk, lease)) as timer:
                    value = await ask(target)
            except ExpertError as error:
                self._failed(walk, lease, error)
            except TimeoutError:
                if not timer.expired():
                    raise
                self._failed(walk, lease, self._too_slow(lease))
            else:
                now = self._clock()
                self._succeeded(lease, now - lease.began)
                return Served(value, target.expert.name, target.url, tuple(walk.attempts), (now - walk.began) * 1000)
            finally:
                self._return(lease)

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
        walk = self._walk(decision, deadline)
        while True:
            lease = await self._lease(walk)
            target = self._target(walk, lease)
            items = self._items(lease, ask(target))
            try:
                async with asyncio.timeout(self._attempt_seconds(walk, lease)) as timer:
                    first = await anext(items)
            except ExpertError as error:
                self._failed(walk, lease, error)
            except StopAsyncIteration:
                msg = f"expert {target.expert.name!r}: the stream ended before its first item"
                self._failed(walk, lease, ExpertProtocolError(msg, expert=target.expert.name))
            except TimeoutError:
                if not timer.expired():
                    raise
                self._failed(walk, lease, self._too_slow(lease))
            else:
                until = None
                if not target.url and target.seconds is not None:
                    until = asyncio.get_running_loop().time() + walk.left(self._clock())
                return ServedStream(first, items, target=target, attempts=tuple(walk.attempts), until=until)

    def snapshot(self) -> tuple[ReplicaSnapshot, ...]:
        """The state of every replica."""
        with self._lock:
            now = self._clock()
            return tuple(replica.snapshot(now) for state in self._experts.values() for replica in state.replicas)

    def estimates(self) -> Mapping[str, Estimate]:
        """What each expert usually takes, by name: the given estimates, moved by what was observed."""
        with self._lock:
            return {name: state.estimate for name, state in self._experts.items()}

    def observe(self, expert: str, *, output_tokens: float) -> None:
        """Take note of how long an answer was; the dispatcher does not look into answers."""
        state = self._experts[expert]
        with self._lock:
            mean = smoothed(state.estimate.output_tokens, output_tokens)
            state.estimate = replace(state.estimate, output_tokens=mean)

    def limit(self, expert: str, max_concurrency: int | None, *, url: str | None = None) -> None:
        """Change how many requests the expert's replicas, or the one at `url`, are sent at the same time."""
        with self._lock:
            for replica in self._experts[expert].replicas:
                if url is None or replica.url == url:
                    replica.limit = max_concurrency
        self._hand_out(self._experts[expert])

    def _walk(self, decision: RouteDecision, deadline: float | None) -> Walk:
        unknown = [name for name in decision.ranking if name not in self._experts]
        if unknown or not decision.ranking:
            msg = f"the decision ranks {decision.ranking}; there are {', '.join(self._experts)}"
            raise ConfigurationError(msg)
        seconds = self.settings.deadline if deadline is None else deadline
        now = self._clock()
        self._budget.pay_in()
        states = [self._experts[name] for name in decision.ranking]
        return Walk(states, now, math.inf if seconds is None else now + seconds)

    async def _lease(self, walk: Walk) -> Lease:
        """A place on the replica that is to be asked next."""
        while True:
            waiter: Waiter | None = None
            with self._lock:
                now = self._clock()
                if now >= walk.deadline:
                    raise walk.out_of_time() from walk.error
                step = walk.next_step(now, self._budget, self.settings)
                if isinstance(step, Replica):
                    return step.lend(now)
                if step is not None:
                    loop = asyncio.get_running_loop()
                    waiter = Waiter(loop, loop.create_future(), walk.asked)
                    step.expert.waiters.append(waiter)
            if step is None or waiter is None:
                raise walk.nobody_left() from walk.error
            lease = await self._wait(step.expert, waiter, min(step.seconds, walk.left(now)))
            if lease is not None:
                return lease

    async def _wait(self, expert: ExpertState, waiter: Waiter, seconds: float) -> Lease | None:
        timer = None if seconds == math.inf else asyncio.ensure_future(self._sleep(seconds))
        try:
            await asyncio.wait(
                (waiter.woken,) if timer is None else (waiter.woken, timer), return_when=asyncio.FIRST_COMPLETED
            )
            with self._lock:
                lease, waiter.lease = waiter.lease, None
            return lease
        finally:
            if timer is not None:
                timer.cancel()
            with self._lock:
                if waiter in expert.waiters:
                    expert.waiters.remove(waiter)
                unused, waiter.lease = waiter.lease, None
            if unused is not None:
                self._return(unused)

    def _target(self, walk: Walk, lease: Lease) -> Target:
        left = walk.left(lease.began)
        return Target(lease.replica.expert, lease.replica.url, None if left == math.inf else left)

    def _attempt_seconds(self, walk: Walk, lease: Lease) -> float | None:
        left = walk.left(lease.began)
        if left == math.inf:
            return None
        return left if walk.alone(lease.replica) else left * self.settings.attempt_share

    def _too_slow(self, lease: Lease) -> ExpertTimeoutError:
        name = lease.replica.expert.name
        return ExpertTimeoutError(f"expert {name!r}: no answer after {self._clock() - lease.began:.3g} s", expert=name)

    async def _items(self, lease: Lease, stream: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
        """The stream's items; whatever ends it frees the slot. The consumer's own time is not the expert's."""
        try:
            async with aclosing(stream):
                seconds = 0.0
                began = lease.began
                async for item in stream:
                    seconds += self._clock() - began
                    yield item
                    lease.started = True
                    began = self._clock()
        except ExpertError as error:
            if lease.started:
                self._judge(lease, error)
            raise
        else:
            if lease.started:
                self._succeeded(lease, seconds + self._clock() - began)
        finally:
            self._return(lease)

    def _failed(self, walk: Walk, lease: Lease, error: ExpertError) -> None:
        """Judge the replica and note the attempt; raises where no other expert may be asked."""
        self._judge(lease, error)
        if isinstance(error, ExpertRequestError):
            raise error
        walk.failed(lease.replica, error, (self._clock() - lease.began) * 1000)

    def _judge(self, lease: Lease, error: ExpertError) -> None:
        expert = self._experts[lease.replica.expert.name]
        with self._lock:
            if harmless(error):
                lease.replica.succeeded(lease, None)
                return
            lease.replica.broke(lease, error, self._clock(), self.settings, self._random)
            warn = isinstance(error, ExpertAccessError) and not expert.warned
            expert.warned = expert.warned or warn
            waiters = list(expert.waiters)
            expert.waiters.clear()
        for waiter in waiters:
            waiter.wake()
        if warn:
            logger.warning(
                "expert %r refuses us (%s): check its url, model and token. It is left alone for %.0f s at a time.",
                expert.expert.name, type(error).__name__, self.settings.access_cooldown,
            )  # fmt: skip

    def _succeeded(self, lease: Lease, seconds: float) -> None:
        state = self._experts[lease.replica.expert.name]
        with self._lock:
            lease.replica.succeeded(lease, seconds)
            state.warned = False
            state.estimate = replace(state.estimate, seconds=smoothed(state.estimate.seconds, seconds))

    def _return(self, lease: Lease) -> None:
        if lease.returned:
            return
        lease.returned = True
        with self._lock:
            lease.replica.take_back(lease)
        self._hand_out(self._experts[lease.replica.expert.name])

    def _hand_out(self, state: ExpertState) -> None:
        """Give free slots to those who wait for them, in their order."""
        if not state.waiters:
            return
        granted = []
        with self._lock:
            now = self._clock()
            for replica in state.replicas:
                while replica.ready(now) and not replica.full:
                    waiter = next((w for w in state.waiters if replica not in w.refused), None)
                    if waiter is None:
                        break
                    state.waiters.remove(waiter)
                    waiter.lease = replica.lend(now)
                    granted.append(waiter)
        for waiter in granted:
            if not waiter.wake() and waiter.lease is not None:
                self._return(waiter.lease)
