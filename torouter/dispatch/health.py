"""What is known of each replica: its load, its cool-down and how long it takes to answer.

Nothing here waits, locks or reads a clock: the dispatcher calls with the time and holds its lock.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from torouter.dispatch.limits import Waiter
from torouter.dispatch.settings import DispatchSettings
from torouter.errors import ContextLengthError, ExpertAccessError, ExpertError, ExpertRequestError
from torouter.experts import Expert
from torouter.routing.needs import Estimate

ReplicaState = Literal["ready", "cooling", "half_open"]

SMOOTHING = 0.1
"""Weight of a new observation in the exponentially weighted means."""


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """One replica at one moment.

    Attributes:
        state: "ready"; "cooling": left alone after a failure; "half_open": one call at a time tries whether it is back.
        in_flight: Requests that it is answering.
        limit: The most it is sent at the same time, None for no limit.
        seconds: Exponentially weighted mean time to an answer, None before the first.
        cooling_seconds: What is left of the cool-down.
        answered, failed: Attempts since the start.
        last_error: Class name of the last failure.
    """

    expert: str
    url: str
    state: ReplicaState
    in_flight: int
    limit: int | None
    seconds: float | None
    cooling_seconds: float
    answered: int
    failed: int
    last_error: str | None


@dataclass(slots=True, eq=False)
class Replica:
    """One server of one expert."""

    expert: Expert
    url: str
    limit: int | None
    in_flight: int = 0
    probing: bool = False
    failures: int = 0
    episode: int = 0
    cooling_until: float = 0.0
    disproved: float = -math.inf
    """When the latest attempt that failed was begun."""
    last_error: str | None = None
    seconds: float | None = None
    answered: int = 0
    failed: int = 0

    @property
    def full(self) -> bool:
        return self.limit is not None and self.in_flight >= self.limit

    def ready(self, now: float) -> bool:
        """Whether a call may be sent here without second thoughts: healthy, or half open with no probe under way."""
        return not self.failures or (now >= self.cooling_until and not self.probing)

    def lend(self, now: float) -> Lease:
        probe = bool(self.failures) and not self.probing
        self.probing = self.probing or probe
        self.in_flight += 1
        return Lease(self, now, self.episode, probe)

    def take_back(self, lease: Lease) -> None:
        self.in_flight -= 1
        if lease.probe:
            self.probing = False

    def succeeded(self, lease: Lease, seconds: float | None) -> None:
        """It answered. `seconds` is None where the answer says nothing of its usual speed."""
        self.answered += 1
        if seconds is not None:
            self.seconds = smoothed(self.seconds, seconds)
        if self.failures and lease.episode == self.episode:
            self.failures = 0
            self.episode += 1

    def broke(
        self, lease: Lease, error: ExpertError, now: float, settings: DispatchSettings, rng: random.Random
    ) -> None:
        """It failed in a way that may hit the next call too, so it cools down."""
        self.failed += 1
        self.last_error = type(error).__name__
        self.disproved = max(self.disproved, lease.began)
        # Sixty calls that one crash breaks are one failure, and an answer begun before the crash proves no recovery.
        if lease.episode != self.episode:
            return
        self.episode += 1
        self.failures += 1
        seconds = min(settings.max_cooldown, settings.cooldown * 2.0 ** min(self.failures - 1, 60))
        if isinstance(error, ExpertAccessError):
            seconds = settings.access_cooldown
        self.cooling_until = now + seconds * (1 - rng.random() / 2)

    def snapshot(self, now: float) -> ReplicaSnapshot:
        cooling = max(0.0, self.cooling_until - now) if self.failures else 0.0
        state: ReplicaState = "cooling" if cooling else "half_open" if self.failures else "ready"
        return ReplicaSnapshot(
            self.expert.name, self.url, state, self.in_flight, self.limit, self.seconds, cooling, self.answered,
            self.failed, self.last_error,
        )  # fmt: skip


@dataclass(slots=True, eq=False)
class Lease:
    """One request's place on a replica."""

    replica: Replica
    began: float
    episode: int
    probe: bool
    started: bool = False
    """A stream has given its first item."""
    returned: bool = False


@dataclass(slots=True, eq=False)
class ExpertState:
    """One expert's replicas, the calls that wait for them, and its usual answer."""

    expert: Expert
    replicas: tuple[Replica, ...]
    estimate: Estimate
    waiters: deque[Waiter] = field(default_factory=deque)
    warned: bool = False


def smoothed(mean: float | None, value: float) -> float:
    """Exponentially weighted mean after one more value."""
    return value if mean is None else mean + SMOOTHING * (value - mean)


def harmless(error: ExpertError) -> bool:
    """Whether the expert is well and only this request was wrong for it."""
    return isinstance(error, (ContextLengthError, ExpertRequestError))
