"""The state of one replica, its load, cool-down and usual time to answer, as plain data without locks or a clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torouter.chat import AnswerFacts
from torouter.dispatch.settings import DispatchSettings
from torouter.errors import ExpertAccessError, ExpertError, ExpertGenerationError
from torouter.experts import Expert

ReplicaState = Literal["ready", "cooling", "half_open"]

SMOOTHING = 0.1
"""Weight of a new observation in the exponentially weighted means."""


@dataclass(frozen=True, slots=True)
class ReplicaSnapshot:
    """One replica at one moment.

    Attributes:
        expert: The expert's name.
        url: The replica's address, "" where a framework's object is the expert.
        state: "ready"; "cooling": not called after a failure; "half_open": one call at a time tries it again.
        in_flight: Requests that it is answering now.
        limit: Most requests at the same time, None for no limit.
        seconds: Exponentially weighted mean time to a whole answer, None before the first.
        cooling_seconds: Seconds left of the cool-down.
        answered: Whole answers since the start.
        failed: Attempts that failed since the start.
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
    failures: int = 0
    """Failures in a row."""
    cooling_until: float = -math.inf
    probing: bool = False
    """A call is trying whether the replica works again."""
    episode: int = 0
    """Counts failures and recoveries. A request that began in an earlier episode does not change the present state."""
    last_failure_began: float = -math.inf
    """The latest beginning of an attempt that failed; clock time."""
    seconds: float | None = None
    answered: int = 0
    failed: int = 0
    last_error: str | None = None

    @property
    def full(self) -> bool:
        return self.limit is not None and self.in_flight >= self.limit

    def ready(self, now: float) -> bool:
        """Whether a call may use it: it is healthy, or its cool-down is over and no other call is probing it."""
        return not self.failures or (now >= self.cooling_until and not self.probing)

    def acquire(self, now: float) -> Lease:
        """Give a request a place."""
        probe = bool(self.failures) and not self.probing
        self.probing = self.probing or probe
        self.in_flight += 1
        return Lease(self, now, self.episode, probe)

    def release(self, lease: Lease) -> None:
        """Free the place of a request that has ended."""
        self.in_flight -= 1
        if lease.probe:
            self.probing = False

    def mark_alive(self, lease: Lease) -> None:
        """Record that it has begun to answer, or has answered."""
        if lease.probe:
            self.probing = lease.probe = False
        if self.failures and lease.episode == self.episode:
            self.failures = 0
            self.episode += 1
            lease.episode = self.episode

    def record_failure(self, lease: Lease, error: ExpertError, until: float) -> None:
        """Record a failure that the next call would meet too: it cools down until the clock time `until`."""
        self.failed += 1
        self.last_error = type(error).__name__
        if not isinstance(error, ExpertGenerationError):  # which this one input may have caused
            self.last_failure_began = max(self.last_failure_began, lease.began)
        # One crash may break sixty calls; it counts as one failure.
        if lease.episode == self.episode:
            self.failures += 1
            self.episode += 1
            self.cooling_until = until

    def cooldown(self, error: ExpertError, settings: DispatchSettings) -> float:
        """Seconds of the cool-down after one more failure, before jitter."""
        if isinstance(error, ExpertAccessError):
            return settings.access_cooldown
        return min(settings.max_cooldown, settings.cooldown * 2.0 ** min(self.failures, 60))

    def snapshot(self, now: float) -> ReplicaSnapshot:
        cooling = max(0.0, self.cooling_until - now) if self.failures else 0.0
        return ReplicaSnapshot(
            expert=self.expert.name,
            url=self.url,
            state="cooling" if cooling else "half_open" if self.failures else "ready",
            in_flight=self.in_flight,
            limit=self.limit,
            seconds=self.seconds,
            cooling_seconds=cooling,
            answered=self.answered,
            failed=self.failed,
            last_error=self.last_error,
        )


@dataclass(slots=True, eq=False)
class Lease:
    """One request's place on a replica."""

    replica: Replica
    began: float
    episode: int
    probe: bool
    answering: bool = False
    """The request is a stream whose first item has arrived, so no other expert is called."""
    facts: AnswerFacts = AnswerFacts()
    """What is known of the answer so far."""

    def note(self, facts: AnswerFacts) -> None:
        """Record the facts that an answer, or a part of it, states."""
        self.facts = self.facts.updated(facts)


def smoothed(mean: float | None, value: float) -> float:
    """Exponentially weighted mean after one more value."""
    return value if mean is None else mean + SMOOTHING * (value - mean)
