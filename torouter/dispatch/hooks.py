"""Events that report each call and its attempts to observers; none holds a prompt or an answer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torouter.chat import AnswerFacts, Attempt
from torouter.dispatch.failover import FailoverState
from torouter.dispatch.replica import Lease
from torouter.routing.decision import RouteDecision

logger = logging.getLogger(__name__)

_call_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A decision is about to be carried out. `call` is a number that is unique in this process."""

    call: int
    decision: RouteDecision
    streamed: bool


@dataclass(frozen=True, slots=True)
class AttemptBegan:
    """A request is sent to an expert. `number` counts the call's attempts from 1; `model` is what it should serve.

    A hedged call's second attempt begins before the first has ended.
    """

    call: int
    number: int
    expert: str
    url: str
    model: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The attempt is over.

    Attributes:
        error: Class name of what ended it, None for an answer. "CancelledError" where the call was cancelled or the
            other attempt of a hedged call answered first, "GeneratorExit" for a stream that was closed early.
        facts: What is known of the answer by then.
    """

    call: int
    number: int
    expert: str
    url: str
    milliseconds: float
    error: str | None
    facts: AnswerFacts = AnswerFacts()


@dataclass(frozen=True, slots=True)
class CallEnded:
    """The call is over; for a streamed answer, once its stream has ended.

    Attributes:
        expert: The expert that answered, None if none did.
        attempts: The attempts that failed.
        error: Class name of what ended it, None for an answer.
    """

    call: int
    expert: str | None
    attempts: tuple[Attempt, ...]
    milliseconds: float
    error: str | None


DispatchEvent = CallBegan | AttemptBegan | AttemptEnded | CallEnded


@runtime_checkable  # for pydantic, which both adapters' fields are checked by
class DispatchHook(Protocol):
    """Called with each event, in the task of the call or, where hedging is on, of the attempt.

    An exception that it raises is logged and otherwise ignored.
    """

    def __call__(self, event: DispatchEvent, /) -> None: ...


class CallEvents:
    """Reports one call to the hooks, at no cost where there are none.

    Args:
        hooks: The observers.
        decision: The decision that is carried out.
        failover: The state of the call.
        clock: The dispatcher's clock.
        streamed: Whether the answer is streamed.
        answered: Called with the expert's name once its answer is complete, whether or not there are hooks.
    """

    def __init__(
        self,
        hooks: Sequence[DispatchHook],
        decision: RouteDecision,
        failover: FailoverState,
        clock: Callable[[], float],
        *,
        streamed: bool,
        answered: Callable[[str], None] | None = None,
    ) -> None:
        self.decision = decision
        self.failover = failover
        self._hooks = hooks
        self._clock = clock
        self._answered = answered
        if hooks:
            self._call = next(_call_numbers)
            self._numbers: dict[Lease, int] = {}
            self._emit(CallBegan(self._call, decision, streamed))

    def attempt_began(self, lease: Lease) -> None:
        if self._hooks:
            number = self._numbers[lease] = len(self._numbers) + 1
            expert = lease.replica.expert
            self._emit(AttemptBegan(self._call, number, expert.name, lease.replica.url, expert.served_model))

    def attempt_ended(self, lease: Lease, error: BaseException | None) -> None:
        if self._hooks:
            name, url = lease.replica.expert.name, lease.replica.url
            milliseconds = (self._clock() - lease.began) * 1000
            number = self._numbers[lease]
            self._emit(AttemptEnded(self._call, number, name, url, milliseconds, _class_name(error), lease.facts))

    def ended(self, expert: str | None, error: BaseException | None) -> None:
        if self._answered is not None and expert is not None and error is None:
            self._answered(expert)
        if self._hooks:
            milliseconds = (self._clock() - self.failover.began) * 1000
            self._emit(CallEnded(self._call, expert, tuple(self.failover.attempts), milliseconds, _class_name(error)))

    def _emit(self, event: DispatchEvent) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:  # an observer's fault must not cost a call its answer
                logger.exception("the dispatch hook %r failed", hook)


def _class_name(error: BaseException | None) -> str | None:
    return None if error is None else type(error).__name__
