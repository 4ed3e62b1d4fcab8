"""LlamaIndex instrumentation events of routing: names, scores and times, never a prompt or an answer."""

from __future__ import annotations

from typing import Any

from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]  # a re-export


class RouteDecisionEvent(BaseEvent):
    """The experts are ranked for one query; none has been called yet."""

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
    """An expert has answered or, where the answer is streamed, begun to answer."""

    expert: str
    failed_attempts: list[dict[str, Any]]
    """The experts that failed before, and how."""

    @classmethod
    def class_name(cls) -> str:
        return "RouteServedEvent"
