"""What is known of each replica: its load, its cool-down and how long it takes to answer.

Nothing here waits, locks or reads a clock: the board calls with the time, and holds its lock.
"""

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
        state: "ready"; "cooling": left alone after a failure; "half_open": one call at a time tries whether it is back.
        in_flight: Requests that it is answering.
        limit: The most it is sent at the same time, None for no limit.
        seconds: Exponentially weighted mean time to a whole answer, None before the first.
        cooling_seconds: What is left of the cool-down.
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
    """A call is trying whether the replica is back."""
    episode: int = 0
    """Grows with each failure and each recovery, so that what was begun before tells nothing about what is now."""
    disproved: float = -math.inf
    """When the latest attempt that failed was begun."""
    seconds: float | None = None
    answered: int = 0
    failed: int = 0
    last_error: str | None = None

    @property
    def full(self) -> bool:
        return self.limit is not None and self.in_flight >= self.limit

    def ready(self, now: float) -> bool:
        """Whether a call may be sent here without a second thought: healthy, or half open with no probe under way."""
        return not self.failures or (now >= self.cooling_until and not self.probing)

    def acquire(self, now: float) -> Lease:
        """Give a request its place."""
        probe = bool(self.failures) and not self.probing
        self.probing = self.probing or probe
        self.in_flight += 1
        return Lease(self, now, self.episode, probe)

    def release(self, lease: Lease) -> None:
        """The request has ended."""
        self.in_flight -= 1
        if lease.probe:
            self.probing = False

    def mark_alive(self, lease: Lease) -> None:
        """It has given a sign of life."""
        if lease.probe:
            self.probing = lease.probe = False
        if self.failures and lease.episode == self.episode:
            self.failures = 0
            self.episode += 1
            lease.episode = self.episode

    def record_failure(self, lease: Lease, error: ExpertError, until: float) -> None:
        """It failed in a way that would hit the next call too: it cools down until the clock says `until`."""
        self.failed += 1
        self.last_error = type(error).__name__
        if not isinstance(error, ExpertGenerationError):  # which the one input may be to blame for
            self.disproved = max(self.disproved, lease.began)
        # Sixty calls that one crash breaks are one failure.
        if lease.episode == self.episode:
            self.failures += 1
            self.episode += 1
            self.cooling_until = until

    def cooldown(self, error: ExpertError, settings: DispatchSettings) -> float:
        """Seconds to leave it alone after one more failure, before jitter."""
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
    """A stream whose first item has arrived: no other expert is called any more."""
    facts: AnswerFacts = AnswerFacts()
    """What is known of the answer so far."""

    def note(self, facts: AnswerFacts) -> None:
        """Record what an answer, or a part of it, states about itself."""
        self.facts = self.facts.updated(facts)


def smoothed(mean: float | None, value: float) -> float:
    """Exponentially weighted mean after one more value."""
    return value if mean is None else mean + SMOOTHING * (value - mean)
