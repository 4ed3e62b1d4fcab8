"""One call's way along its ranking: the failure table as rules on plain state, which neither wait nor lock."""

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
    """Wait in this expert's queue, at most so many seconds, and look again."""

    expert: str
    seconds: float


@dataclass(slots=True, eq=False)
class FailoverState:
    """Where one call stands: who was asked, who is out, what is left of the deadline."""

    ranking: Sequence[str]
    """The experts' names, the best first."""
    replicas: Mapping[str, Sequence[Replica]]
    """By expert; of all experts, ranked or not."""
    settings: DispatchSettings
    began: float
    deadline: float
    """Clock time, inf for none."""
    attempts: list[Attempt] = field(default_factory=list)
    error: ExpertError | None = None
    """The last attempt's."""
    asked: set[Replica] = field(default_factory=set)
    """Replicas that are not asked again in this round."""
    refused: set[Replica] = field(default_factory=set)
    """Replicas that refuse us, which no round asks again: somebody has to mend their configuration."""
    too_small: set[str] = field(default_factory=set)
    """Experts whose window does not hold the input."""
    repeatable: Replica | None = None
    """The first replica that failed to generate: once more is fair, as another request of its batch may be to blame."""
    repeated: bool = False
    rounds: int = 1
    round_began: float = field(init=False)
    patient_until: float | None = None
    """Clock time until which the call waits for a busy expert; None before it waits at all."""

    def __post_init__(self) -> None:
        self.round_began = self.began

    def next_step(self, now: float, budget: RetryBudget) -> Replica | Wait | None:
        """The replica to ask now, or whom to wait for, or None if nobody is left."""
        busy = None
        for name in self.ranking:
            best = None
            full = False
            for replica in self._left_of(name):
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
                if self.patient_until is None:
                    self.patient_until = now + min(self.settings.queue_seconds, (self.deadline - now) / 2)
                if now < self.patient_until:
                    return Wait(name, self.patient_until - now)
        if busy is not None:
            return Wait(busy, self.deadline - now)
        return self._last_resort(now, budget)

    def _last_resort(self, now: float, budget: RetryBudget) -> Replica | Wait | None:
        """All that are left are known to be bad: ask one before its time if the budget allows it, else wait for it.

        Each call may ask one of them at once, whatever the budget says: nobody is turned away unheard. A replica that
        has failed in an attempt that another call began after this one needs no more proof.
        """
        bad = [replica for name in self.ranking for replica in self._left_of(name)]
        bad.sort(key=lambda replica: max(replica.cooling_until, now))
        free = next((replica for replica in bad if not replica.full), None)
        if free is not None and (not self.attempts or (self.rounds == 1 and budget.take())):
            return free
        for replica in bad:
            # There is news when its cool-down ends, or the probe that is under way.
            until = replica.cooling_until if replica.cooling_until > now else self.deadline
            worth_it = replica.disproved <= self.round_began and until <= self.deadline
            if worth_it or not self.attempts:
                return Wait(replica.expert.name, until - now)
        again = self.repeatable
        if again is not None and not self.repeated and not again.full and budget.take():
            self.repeated = True
            return again
        open_names = [name for name in self.ranking if name not in self.too_small]
        again_open = {replica for name in open_names for replica in self.replicas[name]} - self.refused
        in_time = any(replica.cooling_until <= self.deadline for replica in again_open)
        if self.rounds < self.settings.rounds and in_time:
            self.rounds += 1
            self.round_began = now
            self.asked.intersection_update(self.refused)
            return self.next_step(now, budget)
        return None

    def hedge(self, slow: Replica, now: float, budget: RetryBudget) -> Replica | None:
        """The replica to ask beside one that is slow to answer: the next that is ready and has room, or nobody."""
        self.asked.add(slow)
        for name in self.ranking:
            free = [replica for replica in self._left_of(name) if replica.ready(now) and not replica.full]
            if free:
                allowed = now < self.deadline and budget.take()
                return min(free, key=lambda replica: replica.in_flight) if allowed else None
        return None

    def _left_of(self, name: str) -> Sequence[Replica]:
        if name in self.too_small:
            return ()
        replicas = self.replicas[name]
        return [replica for replica in replicas if replica not in self.asked] if self.asked else replicas

    def others(self, replica: Replica) -> Iterator[Replica]:
        """Those that may be asked in place of `replica`."""
        return (other for name in self.ranking for other in self._left_of(name) if other is not replica)

    def failed(self, replica: Replica, error: ExpertError, milliseconds: float) -> None:
        """Note a failure after which somebody else is to be asked."""
        expert = replica.expert
        self.attempts.append(Attempt(expert.name, type(error).__name__, str(error), milliseconds, replica.url or None))
        self.error = error
        self.asked.add(replica)
        if isinstance(error, ContextLengthError):
            self.too_small.add(expert.name)
            if (known := expert.context_window) is not None:
                windows = {name: self.replicas[name][0].expert.context_window for name in self.ranking}
                self.too_small.update(name for name, size in windows.items() if size is not None and size <= known)
        elif isinstance(error, ExpertAccessError):
            self.refused.add(replica)
        elif isinstance(error, ExpertGenerationError) and self.repeatable is None:
            self.repeatable = replica

    def nobody_left(self) -> ContextLengthError | NoExpertLeftError:
        """The error that ends a call which nobody could answer."""
        last = self.error
        if isinstance(last, ContextLengthError) and all(a.error == type(last).__name__ for a in self.attempts):
            return ContextLengthError(
                f"the input fits into no expert's context window: {self._story()}",
                expert=last.expert,
                status=last.status,
                error_type=last.error_type,
                body=last.body,
            )
        return NoExpertLeftError(f"no expert could answer: {self._story()}", self.attempts)

    def out_of_time(self) -> DeadlineExceededError:
        """The error that ends a call whose deadline is spent."""
        seconds = self.deadline - self.began
        return DeadlineExceededError(f"the deadline of {seconds:.3g} s is spent: {self._story()}", self.attempts)

    def _story(self) -> str:
        """Who was asked and how it ended, and why the others were not."""
        parts = [f"{a.expert!r}: {a.error} after {a.milliseconds:.0f} ms: {a.message}" for a in self.attempts]
        heard = {attempt.expert for attempt in self.attempts}
        parts += [f"{name!r}: not asked, {self._why_not(name)}" for name in self.ranking if name not in heard]
        return "; ".join(parts)

    def _why_not(self, name: str) -> str:
        if name in self.too_small:
            return "its window is no larger"
        replicas = self.replicas[name]
        if all(replica.failures for replica in replicas):
            return f"it failed other calls ({replicas[-1].last_error})"
        return "no slot was free" if all(replica.full for replica in replicas) else "the time was spent before"
