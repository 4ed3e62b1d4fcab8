"""One call's way along its ranking: the failure table as rules on plain state, which neither wait nor lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from torouter.dispatch.health import ExpertState, Replica
from torouter.dispatch.limits import RetryBudget
from torouter.dispatch.settings import DispatchSettings
from torouter.errors import (
    ContextLengthError,
    DeadlineExceededError,
    ExpertError,
    ExpertGenerationError,
    NoExpertLeftError,
    TORouterError,
)
from torouter.routing.decision import Attempt


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait in this expert's queue, at most so many seconds."""

    expert: ExpertState
    seconds: float


@dataclass(slots=True, eq=False)
class Walk:
    """Where one call stands: who was asked, who is out, what is left of the deadline (clock time, inf for none)."""

    experts: Sequence[ExpertState]
    began: float
    deadline: float
    attempts: list[Attempt] = field(default_factory=list)
    error: ExpertError | None = None
    """The last attempt's."""
    asked: set[Replica] = field(default_factory=set)
    closed: set[str] = field(default_factory=set)
    """Experts whose window is too small."""
    repeatable: Replica | None = None
    """The first replica that failed while generating: a neighbour in its batch may be to blame."""
    repeated: bool = False
    patient_until: float | None = None
    """Clock time until which the call waits for a busy expert; None before it waits at all."""

    def next_step(self, now: float, budget: RetryBudget, settings: DispatchSettings) -> Replica | Wait | None:
        """The replica to ask now, or whom to wait for, or None if nobody is left."""
        busy: ExpertState | None = None
        for expert, replicas in self._open():
            ready = [replica for replica in replicas if replica.ready(now)]
            free = [replica for replica in ready if not replica.full]
            if free:
                return min(free, key=lambda replica: replica.in_flight)
            if ready and busy is None:
                if self.patient_until is None:
                    self.patient_until = now + min(settings.queue_seconds, (self.deadline - now) / 2)
                if now < self.patient_until:
                    return Wait(expert, self.patient_until - now)
                busy = expert
        if busy is not None:
            return Wait(busy, self.deadline - now)
        return self._last_resort(now, budget)

    def _last_resort(self, now: float, budget: RetryBudget) -> Replica | Wait | None:
        """All that are left are known to be bad: ask one before its time if the budget allows it, else wait for it.

        A replica that failed in an attempt which another call began after this one did needs no more proof.
        """
        bad = [(expert, replica) for expert, replicas in self._open() for replica in replicas]
        bad.sort(key=lambda pair: max(pair[1].cooling_until, now))
        free = [replica for _, replica in bad if not replica.full]
        if free and (not self.attempts or budget.take()):
            return free[0]
        for expert, replica in bad:
            if replica.disproved <= self.began:
                # At the end of its cool-down, or of the probe that is under way, there is news.
                return Wait(expert, replica.cooling_until - now if replica.cooling_until > now else self.deadline - now)
        if self.repeatable is not None and not self.repeated and not self.repeatable.full and budget.take():
            self.repeated = True
            return self.repeatable
        return None

    def _open(self) -> Iterator[tuple[ExpertState, list[Replica]]]:
        for expert in self.experts:
            if expert.expert.name not in self.closed:
                replicas = [replica for replica in expert.replicas if replica not in self.asked]
                if replicas:
                    yield expert, replicas

    def left(self, now: float) -> float:
        """Seconds left of the deadline, inf if there is none."""
        return self.deadline - now

    def alone(self, replica: Replica) -> bool:
        """Whether nobody else could be asked after `replica`."""
        return not any(other is not replica for _, replicas in self._open() for other in replicas)

    def failed(self, replica: Replica, error: ExpertError, milliseconds: float) -> None:
        """Note a failure that sends this call to the next expert."""
        expert = replica.expert
        kind = type(error).__name__
        self.attempts.append(Attempt(expert.name, kind, str(error), milliseconds, replica.url or None))
        self.error = error
        self.asked.add(replica)
        if isinstance(error, ContextLengthError):
            self.closed.add(expert.name)
            if expert.context_window is not None:
                windows = {state.expert.name: state.expert.context_window for state in self.experts}
                self.closed.update(name for name, size in windows.items() if size and size <= expert.context_window)
        elif isinstance(error, ExpertGenerationError) and self.repeatable is None:
            self.repeatable = replica

    def nobody_left(self) -> TORouterError:
        """The error that ends a call that nobody could answer."""
        last = self.error
        if isinstance(last, ContextLengthError) and all(a.error == type(last).__name__ for a in self.attempts):
            return ContextLengthError(
                f"the input fits no expert's context window: {self._story()}",
                expert=last.expert,
                status=last.status,
                error_type=last.error_type,
                body=last.body,
            )
        return NoExpertLeftError(f"no expert could answer: {self._story()}", self.attempts)

    def out_of_time(self) -> DeadlineExceededError:
        """The error that ends a call whose deadline is spent."""
        seconds = self.deadline - self.began
        story = self._story() or "no expert had a free slot in time"
        return DeadlineExceededError(f"the deadline of {seconds:.3g} s is spent: {story}", self.attempts)

    def _story(self) -> str:
        return "; ".join(
            f"{attempt.expert!r} after {attempt.milliseconds:.0f} ms: {attempt.error}: {attempt.message}"
            for attempt in self.attempts
        )
