"""Instrumentation events of routing. They hold names, scores and times, never a prompt or an answer."""

from __future__ import annotations

from typing import Any

from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]  # a re-export


class RouteDecisionEvent(BaseEvent):
    """The experts are ranked for one query; nobody has been asked yet."""

    expert: str
    """The first of the ranking."""
    ranking: list[str]
    scores: dict[str, float]
    reason: str
    milliseconds: float

    @classmethod
    def class_name(cls) -> str:
        return "RouteDecisionEvent"


class RouteServedEvent(BaseEvent):
    """An expert has answered, or has begun to where the answer is streamed."""

    expert: str
    failed_attempts: list[dict[str, Any]]
    """Who was asked before it, and how each failed."""

    @classmethod
    def class_name(cls) -> str:
        return "RouteServedEvent"
