"""Tells observers what is decided, tried and reached in each call. No event holds a prompt or an answer."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, runtime_checkable

from torouter.chat import Attempt
from torouter.dispatch.failover import FailoverState
from torouter.dispatch.replica import Lease
from torouter.routing.decision import RouteDecision

logger = logging.getLogger(__name__)

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What an answer says of itself: its model and its tokens, None where it does not say."""

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A decision is about to be carried out. `call` is a number of its own in this process."""

    call: int
    decision: RouteDecision
    streamed: bool


@dataclass(frozen=True, slots=True)
class AttemptBegan:
    """An expert is asked. `number` counts the call's attempts from 1, `model` is what the expert is to serve.

    A hedged call's second attempt begins before the first has ended.
    """

    call: int
    number: int
    expert: str
    url: str
    model: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The attempt is over. `error` is the class name of what ended it, None for an answer.

    Where the caller gave up, or the other attempt of a hedged call answered first, it is "CancelledError", or
    "GeneratorExit" for a stream that was closed early. `facts` is what was told of the answer by then.
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
    """The call is over; a streamed one when its stream is.

    Attributes:
        expert: Who served it, None if nobody did.
        attempts: Those that failed before.
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
    """Called with each event, in the task that makes the call or, where it may be hedged, the attempt.

    What it raises is logged and goes no further.
    """

    def __call__(self, event: DispatchEvent, /) -> None: ...


class CallEvents:
    """What one call has to tell. Costs nothing where nobody listens."""

    def __init__(
        self,
        hooks: Sequence[DispatchHook],
        decision: RouteDecision,
        failover: FailoverState,
        clock: Callable[[], float],
        *,
        streamed: bool,
    ) -> None:
        self.failover = failover
        self._hooks = hooks
        self._clock = clock
        if hooks:
            self._call = next(_numbers)
            self._numbers: dict[Lease, int] = {}
            self._facts: dict[Lease, AnswerFacts] = {}
            self._tell(CallBegan(self._call, decision, streamed))

    def attempt_began(self, lease: Lease) -> None:
        if self._hooks:
            number = self._numbers[lease] = len(self._numbers) + 1
            self._facts[lease] = AnswerFacts()
            expert = lease.replica.expert
            self._tell(AttemptBegan(self._call, number, expert.name, lease.replica.url, expert.served_model))

    def answer_says(self, lease: Lease, facts: AnswerFacts) -> None:
        """Take note of what an answer, or a part of it, says of itself."""
        if self._hooks:
            news = {fact.name: value for fact in fields(facts) if (value := getattr(facts, fact.name)) is not None}
            if news:
                self._facts[lease] = replace(self._facts[lease], **news)

    def attempt_ended(self, lease: Lease, error: BaseException | None) -> None:
        if self._hooks:
            name, url = lease.replica.expert.name, lease.replica.url
            took = (self._clock() - lease.began) * 1000
            number, facts = self._numbers[lease], self._facts[lease]
            self._tell(AttemptEnded(self._call, number, name, url, took, _name(error), facts))

    def ended(self, expert: str | None, error: BaseException | None) -> None:
        if self._hooks:
            took = (self._clock() - self.failover.began) * 1000
            self._tell(CallEnded(self._call, expert, tuple(self.failover.attempts), took, _name(error)))

    def _tell(self, event: DispatchEvent) -> None:
        for hook in self._hooks:
            try:
                hook(event)
            except Exception:  # an observer's fault must not cost a call its answer
                logger.exception("the dispatch hook %r failed", hook)


def _name(error: BaseException | None) -> str | None:
    return None if error is None else type(error).__name__
