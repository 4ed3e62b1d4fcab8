"""The values that pass between the dispatcher and its caller: a target, and a whole or a streamed answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

from torouter.chat import AnswerFacts, Attempt
from torouter.experts import Expert
from torouter.routing.decision import RouteDecision, routing_block

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@dataclass(frozen=True, slots=True)
class Target:
    """One replica to call, and the time left for it.

    Attributes:
        expert: The expert.
        url: The replica's address, "" where a framework's object is the expert.
        seconds: Time left of the call's deadline, None for no limit.
        tell: Records facts of the answer for hooks and estimates. The dispatcher calls it with what its reader finds.
    """

    expert: Expert
    url: str
    seconds: float | None
    tell: Callable[[AnswerFacts], None]


def _no_facts(_answer: object, known: AnswerFacts) -> AnswerFacts:
    return known


def _no_text(_item: object) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class AnswerReader(Generic[T_contra]):
    """Reads the answers of one framework, whose classes the dispatcher does not know.

    Attributes:
        facts: What is known after a whole answer, or one item of a stream, given what was known before.
        text: The text that one item adds to its stream.
    """

    facts: Callable[[T_contra, AnswerFacts], AnswerFacts] = _no_facts
    text: Callable[[T_contra], str] = _no_text


@dataclass(frozen=True, slots=True)
class Served(Generic[T]):
    """A whole answer, the replica that gave it, the attempts that failed before, and the time of the whole call."""

    value: T
    decision: RouteDecision
    expert: str
    url: str
    attempts: tuple[Attempt, ...]
    milliseconds: float

    @property
    def routing(self) -> dict[str, Any]:
        """Decision, expert and failed attempts as plain JSON, for the answer's metadata."""
        return routing_block(self.decision, self.expert, self.attempts)


class StartedStream(Generic[T]):
    """A stream whose first item has arrived. Its end, or `aclose`, releases its connection."""

    def __init__(self, first: T, rest: AsyncGenerator[T, None]) -> None:
        self._first: list[T] = [first]
        self._rest = rest

    @classmethod
    async def of(cls, stream: AsyncGenerator[T, None]) -> StartedStream[T]:
        """Wait for the first item; a stream that fails before its first item is closed.

        Raises:
            StopAsyncIteration: The stream is empty.
        """
        try:
            return StartedStream(await anext(stream), stream)
        except BaseException:
            await stream.aclose()
            raise

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Awaitable[T]:
        # Not a coroutine of its own, which every token would have to pass.
        return _ready(self._first.pop()) if self._first else self._rest.__anext__()

    async def aclose(self) -> None:
        """Close the stream early."""
        self._first.clear()
        await self._rest.aclose()


async def _ready(item: T) -> T:
    return item


class ServedStream(StartedStream[T]):
    """A stream that one expert has begun: no other expert is called, and its errors are raised unchanged."""

    def __init__(
        self,
        first: T,
        rest: AsyncGenerator[T, None],
        decision: RouteDecision,
        target: Target,
        attempts: tuple[Attempt, ...],
    ) -> None:
        super().__init__(first, rest)
        self.decision = decision
        self.expert = target.expert.name
        self.url = target.url
        self.attempts = attempts

    @property
    def routing(self) -> dict[str, Any]:
        """Decision, expert and failed attempts as plain JSON, for the answer's metadata."""
        return routing_block(self.decision, self.expert, self.attempts)
