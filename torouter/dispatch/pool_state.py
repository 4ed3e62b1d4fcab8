"""The state of all experts, shared by all calls under one lock that is held for microseconds, never across a wait."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from torouter.dispatch.failover import FailoverState, Wait
from torouter.dispatch.limits import RetryBudget, Waiter
from torouter.dispatch.replica import Lease, Replica, ReplicaSnapshot, smoothed
from torouter.dispatch.settings import DispatchSettings
from torouter.errors import (
    ConfigurationError,
    ContextLengthError,
    ExpertAccessError,
    ExpertError,
    ExpertRequestError,
    UnknownExpertError,
)
from torouter.experts import Expert, ExpertPool
from torouter.routing.requirements import Estimate, Estimates

logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ExpertState:
    """One expert's replicas and the calls that wait for them."""

    expert: Expert
    replicas: tuple[Replica, ...]
    waiters: deque[Waiter] = field(default_factory=deque)
    warned: bool = False
    """A warning about denied access was logged, and the expert has not answered since."""


class PoolState:
    """Leases places on replicas and records how each request ended. Safe to use from any thread."""

    def __init__(
        self,
        experts: ExpertPool,
        settings: DispatchSettings,
        estimates: Mapping[str, Estimate],
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._budget = RetryBudget(settings.retry_ratio, settings.retry_reserve)
        self._experts = {name: ExpertState(expert, _replicas(expert, settings)) for name, expert in experts.items()}
        self._estimates = Estimates.of(estimates, experts.names)
        self._replicas = {name: state.replicas for name, state in self._experts.items()}

    def start(self, ranking: tuple[str, ...], seconds: float | None) -> FailoverState:
        """Begin a call.

        Raises:
            ConfigurationError: The ranking is empty.
            UnknownExpertError: It names an expert that is not in the pool.
        """
        if not ranking:
            msg = "the decision ranks no expert; give at least one"
            raise ConfigurationError(msg)
        for name in set(ranking).difference(self._experts):
            self._state(name)
        now = self._clock()
        with self._lock:
            self._budget.pay_in()
        return FailoverState(
            ranking, self._replicas, self._settings, now, math.inf if seconds is None else now + seconds
        )

    def next_place(self, failover: FailoverState) -> Lease | tuple[Waiter, float]:
        """A place on the replica to call now, or a place in a queue and the most seconds to wait there.

        Raises:
            DeadlineExceededError: The deadline is spent.
            NoExpertLeftError, ContextLengthError: No replica is left to try.
        """
        with self._lock:
            now = self._clock()
            if now >= failover.deadline:
                raise failover.deadline_exceeded() from failover.error
            step = failover.next_step(now, self._budget)
            if isinstance(step, Wait):
                loop = asyncio.get_running_loop()
                waiter = Waiter(step.expert, loop, loop.create_future(), failover.tried)
                self._experts[step.expert].waiters.append(waiter)
                return waiter, min(step.seconds, failover.deadline - now)
            if step is None:
                raise failover.no_expert_left() from failover.error
            return step.acquire(now)

    def second_place(self, failover: FailoverState, slow: Lease) -> Lease | None:
        """A place for a second attempt beside a slow one; None if no replica is ready for it."""
        with self._lock:
            now = self._clock()
            replica = failover.hedge(slow.replica, now, self._budget)
            return None if replica is None else replica.acquire(now)

    def take_lease(self, waiter: Waiter) -> Lease | None:
        """Take over the lease that was handed to the waiter; None if it was only woken."""
        with self._lock:
            lease, waiter.lease = waiter.lease, None
            return lease

    def leave_queue(self, waiter: Waiter) -> None:
        """Stop waiting. A place that was handed over meanwhile goes to the next waiter."""
        with self._lock:
            waiters = self._experts[waiter.expert].waiters
            if waiter in waiters:
                waiters.remove(waiter)
        if (lease := self.take_lease(waiter)) is not None:
            self.finish(lease)

    def mark_alive(self, lease: Lease) -> None:
        """Record that the replica has begun to answer; calls that wait for this probe may use it now."""
        if lease.replica.failures:
            with self._lock:
                lease.replica.mark_alive(lease)
            self._wake(self._experts[lease.replica.expert.name])

    def finish(self, lease: Lease, *, error: BaseException | None = None, seconds: float | None = None) -> None:
        """Release a place and record how the request ended.

        Args:
            lease: The place.
            error: What ended the request. Only an `ExpertError` counts against the replica.
            seconds: The time to a whole answer.
        """
        replica = lease.replica
        state = self._experts[replica.expert.name]
        warn = False
        with self._lock:
            replica.release(lease)
            if isinstance(error, (ContextLengthError, ExpertRequestError)):
                replica.mark_alive(lease)  # the replica works: only the request does not suit it
            elif isinstance(error, ExpertError):
                warn = isinstance(error, ExpertAccessError) and not state.warned
                state.warned = state.warned or warn
                seconds_off = replica.cooldown(error, self._settings) * (1 - self._random.random() / 2)
                replica.record_failure(lease, error, self._clock() + seconds_off)
            elif seconds is not None:
                replica.mark_alive(lease)
                replica.answered += 1
                replica.seconds = smoothed(replica.seconds, seconds)
                state.warned = False
                self._estimates = self._estimates.moved(
                    state.expert.name, _observed(self._estimates[state.expert.name], seconds, lease.facts.output_tokens)
                )
        if warn:
            logger.warning(
                "expert %r denies access (%s): check its url, model and token; it is not called for up to %.0f s",
                replica.expert.name,
                type(error).__name__,
                self._settings.access_cooldown,
            )
        if state.waiters:
            self._wake(state)

    def _state(self, name: str) -> ExpertState:
        try:
            return self._experts[name]
        except KeyError:
            msg = f"no expert is called {name!r}; the experts are {', '.join(self._experts)}"
            raise UnknownExpertError(msg) from None

    def _wake(self, state: ExpertState) -> None:
        """Hand free slots to the waiters in their order; wake those that no ready replica of this expert can serve."""
        woken: list[Waiter] = []
        with self._lock:
            now = self._clock()
            ready = [replica for replica in state.replicas if replica.ready(now)]
            for replica in ready:
                while not replica.full and (waiter := next((w for w in state.waiters if replica not in w.tried), None)):
                    state.waiters.remove(waiter)
                    waiter.lease = replica.acquire(now)
                    woken.append(waiter)
                    if waiter.lease.probe:
                        break
            if len(ready) < len(state.replicas):
                unserved = [waiter for waiter in state.waiters if waiter.tried.issuperset(ready)]
                for waiter in unserved:
                    state.waiters.remove(waiter)
                woken += unserved
        for waiter in woken:
            if not waiter.wake():
                self.leave_queue(waiter)

    def limit(self, expert: str, max_concurrency: int | None, url: str | None) -> None:
        state = self._state(expert)
        with self._lock:
            for replica in state.replicas:
                if url is None or replica.url == url:
                    replica.limit = max_concurrency
        self._wake(state)

    def describe(self, expert: Expert) -> None:
        state = self._state(expert.name)
        with self._lock:
            state.expert = expert
            for replica in state.replicas:
                replica.expert = expert

    def estimates(self) -> Estimates:
        return self._estimates

    def snapshot(self) -> tuple[ReplicaSnapshot, ...]:
        with self._lock:
            now = self._clock()
            return tuple(replica.snapshot(now) for state in self._experts.values() for replica in state.replicas)


def _observed(usual: Estimate, seconds: float, output_tokens: int | None) -> Estimate:
    """The estimate after one more answer."""
    tokens = usual.output_tokens if output_tokens is None else smoothed(usual.output_tokens, output_tokens)
    return Estimate(output_tokens=tokens, seconds=smoothed(usual.seconds, seconds))


def _replicas(expert: Expert, settings: DispatchSettings) -> tuple[Replica, ...]:
    limit = expert.max_concurrency or settings.max_concurrency
    return tuple(Replica(expert, url, limit) for url in expert.urls or ("",))
