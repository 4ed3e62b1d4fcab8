"""What the router and the policy decided for one query."""

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
        ranking: Expert names, the chosen one first. The dispatcher walks it when an expert can't answer.
        scores: The router's score of each expert it knows, before the policy changed anything; a read-only mapping, of
            which `dict()` makes one that JSON takes.
        reason: Why the first is first: "router", "pinned", or the policy's own word.
        milliseconds: Time that scoring and deciding took.
        prices: What each expert is expected to take for this query, USD per 1,000 such queries, where it has prices;
            a mapping likewise.
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
        """How a notebook shows it."""
        return decision_table(
            self.ranking,
            self.scores,
            self.prices,
            caption=f"asks {self.expert} first ({self.reason}), {self.milliseconds:.1f} ms",
        )


def routing_block(decision: RouteDecision, expert: str, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """What an answer's metadata says of its way, in plain JSON: `expert` served it, `attempts` failed before."""
    return {
        **decision.to_json(),
        "expert": expert,
        "failed_attempts": [attempt.to_json() for attempt in attempts],
    }
