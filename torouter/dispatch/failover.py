"""Decides which replica one call tries next: the failure table as rules on plain state, without waiting or locks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torouter.chat import Attempt
from torouter.dispatch.limits import RetryBudget
from torouter.dispatch.replica import Replica
from torouter.dispatch.settings import DispatchSettings
from torouter.errors import (
    ContextLengthError,
    DeadlineExceededError,
    ExpertAccessError,
    ExpertError,
    ExpertGenerationError,
    NoExpertLeftError,
)


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait in this expert's queue for at most `seconds`, then ask for the next step again."""

    expert: str
    seconds: float


@dataclass(slots=True, eq=False)
class FailoverState:
    """The state of one call: its attempts so far, the replicas that it may still try, and its deadline."""

    ranking: Sequence[str]
    """The experts' names, the best first."""
    replicas: Mapping[str, Sequence[Replica]]
    """The replicas of all experts, ranked or not, by the expert's name."""
    settings: DispatchSettings
    began: float
    deadline: float
    """Clock time, inf for none."""
    attempts: list[Attempt] = field(default_factory=list)
    error: ExpertError | None = None
    """The last attempt's error."""
    tried: set[Replica] = field(default_factory=set)
    """Replicas that are not tried again in this round."""
    denied: set[Replica] = field(default_factory=set)
    """Replicas that denied access (401, 403, 404). No round tries them again: their configuration must be fixed."""
    too_small: set[str] = field(default_factory=set)
    """Experts whose context window is too small for the input."""
    repeatable: Replica | None = None
    """The first replica that failed to generate. It may be tried once more: another request of its batch may have been
    the cause."""
    repeated: bool = False
    """Whether `repeatable` was tried once more."""
    rounds: int = 1
    round_began: float = field(init=False)
    queue_until: float | None = None
    """Clock time until which the call waits for the first busy expert; None before it waits."""

    def __post_init__(self) -> None:
        self.round_began = self.began

    def next_step(self, now: float, budget: RetryBudget) -> Replica | Wait | None:
        """The replica to try now, or the queue to wait in, or None if no replica is left."""
        busy = None
        for name in self.ranking:
            best = None
            full = False
            for replica in self._untried(name):
                if not replica.ready(now):
                    continue
                if replica.full:
                    full = True
                elif best is None or replica.in_flight < best.in_flight:
                    best = replica
            if best is not None:
                return best
            if full and busy is None:
                busy = name
                if self.queue_until is None:
                    self.queue_until = now + min(self.settings.queue_seconds, (self.deadline - now) / 2)
                if now < self.queue_until:
                    return Wait(name, self.queue_until - now)
        if busy is not None:
            return Wait(busy, self.deadline - now)
        return self._last_resort(now, budget)

    def _last_resort(self, now: float, budget: RetryBudget) -> Replica | Wait | None:
        """The next step where every untried replica cools down or is being probed.

        A call's first attempt goes to one of them at once, whatever the retry budget holds, so that every call makes an
        attempt. A later one takes a retry from the budget, else waits for the end of a cool-down. It does not wait for
        a replica on which an attempt has failed that began after this round did.
        """
        cooling = [replica for name in self.ranking for replica in self._untried(name)]
        cooling.sort(key=lambda replica: max(replica.cooling_until, now))
        free = next((replica for replica in cooling if not replica.full), None)
        if free is not None and (not self.attempts or (self.rounds == 1 and budget.take())):
            return free
        for replica in cooling:
            # Its state changes when its cool-down ends, or when the probe under way does.
            until = replica.cooling_until if replica.cooling_until > now else self.deadline
            may_recover = replica.last_failure_began <= self.round_began and until <= self.deadline
            if may_recover or not self.attempts:
                return Wait(replica.expert.name, until - now)
        repeatable = self.repeatable
        if repeatable is not None and not self.repeated and not repeatable.full and budget.take():
            self.repeated = True
            return repeatable
        large_enough = [name for name in self.ranking if name not in self.too_small]
        next_round = {replica for name in large_enough for replica in self.replicas[name]} - self.denied
        in_time = any(replica.cooling_until <= self.deadline for replica in next_round)
        if self.rounds < self.settings.rounds and in_time:
            self.rounds += 1
            self.round_began = now
            self.tried.intersection_update(self.denied)
            return self.next_step(now, budget)
        return None

    def hedge(self, slow: Replica, now: float, budget: RetryBudget) -> Replica | None:
        """The replica for a second attempt beside a slow one: the next that is ready and has a free slot, else None."""
        self.tried.add(slow)
        for name in self.ranking:
            free = [replica for replica in self._untried(name) if replica.ready(now) and not replica.full]
            if free:
                allowed = now < self.deadline and budget.take()
                return min(free, key=lambda replica: replica.in_flight) if allowed else None
        return None

    def _untried(self, name: str) -> Sequence[Replica]:
        if name in self.too_small:
            return ()
        replicas = self.replicas[name]
        return [replica for replica in replicas if replica not in self.tried] if self.tried else replicas

    def alternatives(self, replica: Replica) -> Iterator[Replica]:
        """The replicas that may be tried in place of `replica`."""
        return (untried for name in self.ranking for untried in self._untried(name) if untried is not replica)

    def record_failure(self, replica: Replica, error: ExpertError, milliseconds: float) -> None:
        """Record a failure after which another replica may be tried."""
        expert = replica.expert
        self.attempts.append(Attempt(expert.name, type(error).__name__, str(error), milliseconds, replica.url or None))
        self.error = error
        self.tried.add(replica)
        if isinstance(error, ContextLengthError):
            self.too_small.add(expert.name)
            if (exceeded := expert.context_window) is not None:
                windows = {name: self.replicas[name][0].expert.context_window for name in self.ranking}
                self.too_small.update(name for name, size in windows.items() if size is not None and size <= exceeded)
        elif isinstance(error, ExpertAccessError):
            self.denied.add(replica)
        elif isinstance(error, ExpertGenerationError) and self.repeatable is None:
            self.repeatable = replica

    def no_expert_left(self) -> ContextLengthError | NoExpertLeftError:
        """The error of a call that no expert could answer."""
        last = self.error
        if isinstance(last, ContextLengthError) and all(a.error == type(last).__name__ for a in self.attempts):
            return ContextLengthError(
                f"the input fits into no expert's context window: {self._summary()}",
                expert=last.expert,
                status=last.status,
                error_type=last.error_type,
                body=last.body,
            )
        return NoExpertLeftError(f"no expert could answer: {self._summary()}", self.attempts)

    def deadline_exceeded(self) -> DeadlineExceededError:
        """The error of a call whose deadline is spent."""
        seconds = self.deadline - self.began
        return DeadlineExceededError(f"the deadline of {seconds:.3g} s is spent: {self._summary()}", self.attempts)

    def _summary(self) -> str:
        """How each attempt failed, and why the other experts were not asked."""
        parts = [f"{a.expert!r}: {a.error} after {a.milliseconds:.0f} ms: {a.message}" for a in self.attempts]
        asked = {attempt.expert for attempt in self.attempts}
        parts += [f"{name!r}: not asked, {self._why_not_asked(name)}" for name in self.ranking if name not in asked]
        return "; ".join(parts)

    def _why_not_asked(self, name: str) -> str:
        if name in self.too_small:
            return "its window is no larger"
        replicas = self.replicas[name]
        if all(replica.failures for replica in replicas):
            return f"it failed other calls ({replicas[-1].last_error})"
        return "no slot was free" if all(replica.full for replica in replicas) else "the time was spent before"
