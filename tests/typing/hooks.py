"""Observers of calls: a function and a class are hooks, and `isinstance` tells the events apart."""

from __future__ import annotations

from typing import assert_never, assert_type

from torouter import (
    AnswerFacts,
    Attempt,
    AttemptBegan,
    AttemptEnded,
    CallBegan,
    CallEnded,
    DispatchEvent,
    DispatchHook,
    OpenTelemetryHook,
    RouteDecision,
)


def watch(event: DispatchEvent) -> None:
    if isinstance(event, CallBegan):
        assert_type(event.decision, RouteDecision)
    elif isinstance(event, AttemptBegan):
        assert_type(event.number, int)
    elif isinstance(event, AttemptEnded):
        assert_type(event.facts, AnswerFacts)
        assert_type(event.error, str | None)
    elif isinstance(event, CallEnded):
        assert_type(event.attempts, tuple[Attempt, ...])
    else:
        assert_never(event)


def deaf() -> None: ...


hooks: list[DispatchHook] = [watch, OpenTelemetryHook()]
wrong: DispatchHook = deaf  # type: ignore[assignment]
