"""`RouteDecision`: the experts for one query in the order in which they are asked, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torouter.chat import Attempt
from torouter.routing.display import decision_table
from torouter.routing.scores import Scores


@dataclass(frozen=True, slots=True)
class RouteDecision:
    """The experts of one query in the order in which they are asked.

    Attributes:
        ranking: Expert names, the chosen one first. If an expert can't answer, the next one is asked.
        scores: The router's score of each expert that it knows, before the policy is applied; a read-only mapping
            (`dict(scores)` can be written as JSON).
        reason: Why the first expert is first: "router", "pinned", or the policy's reason ("default", "edge", "filter",
            "session", "trade-off").
        milliseconds: Time that scoring and deciding took.
        prices: Expected price of each expert that has prices, in USD per 1,000 such queries; a read-only mapping too.
    """

    ranking: tuple[str, ...]
    scores: Mapping[str, float]
    reason: str = "router"
    milliseconds: float = 0.0
    prices: Mapping[str, float] = field(default_factory=dict)

    @property
    def expert(self) -> str:
        """The chosen expert."""
        return self.ranking[0]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON for metadata, logs and the command line."""
        return {
            "expert": self.expert,
            "ranking": list(self.ranking),
            "scores": Scores.of(self.scores, tuple(self.scores)).rounded(6),
            "reason": self.reason,
            "milliseconds": round(self.milliseconds, 3),
        }

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        return decision_table(
            self.ranking,
            self.scores,
            self.prices,
            caption=f"asks {self.expert} first ({self.reason}), {self.milliseconds:.1f} ms",
        )


def routing_block(decision: RouteDecision, expert: str, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """The routing block of an answer's metadata, in plain JSON: `expert` answered, `attempts` failed before it."""
    return {
        **decision.to_json(),
        "expert": expert,
        "failed_attempts": [attempt.to_json() for attempt in attempts],
    }
