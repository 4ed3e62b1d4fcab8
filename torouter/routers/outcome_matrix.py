"""OutcomeMatrix: one score of every expert for every query, as plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torouter.errors import OutcomeTableError


@dataclass(frozen=True, slots=True)
class OutcomeMatrix:
    """Scores of k experts on n queries.

    Attributes:
        queries: n query texts.
        experts: k expert names, the columns of `scores`.
        scores: float32 of shape (n, k). Qualities lie in 0..1; a matrix of costs or seconds may hold NaN.

    Raises:
        OutcomeTableError: The shapes do not fit, or an expert is a duplicate.
    """

    queries: tuple[str, ...]
    experts: tuple[str, ...]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        set_field(self, "queries", tuple(self.queries))
        set_field(self, "experts", tuple(self.experts))
        set_field(self, "scores", np.asarray(self.scores, dtype=np.float32))
        if self.scores.shape != (len(self.queries), len(self.experts)):
            msg = (
                f"scores of shape {self.scores.shape} do not fit {len(self.queries)} queries and "
                f"{len(self.experts)} experts: give one row per query and one column per expert"
            )
            raise OutcomeTableError(msg)
        if len(set(self.experts)) != len(self.experts):
            msg = f"experts {', '.join(self.experts)}: a name is a duplicate; give each column its own"
            raise OutcomeTableError(msg)

    def __len__(self) -> int:
        return len(self.queries)

    def column(self, expert: str) -> NDArray[np.float32]:
        """The n scores of one expert.

        Raises:
            OutcomeTableError: The matrix does not know the expert.
        """
        return self.of((expert,)).scores[:, 0]

    def of(self, experts: Sequence[str]) -> OutcomeMatrix:
        """The same queries with these experts as columns, in this order.

        Raises:
            OutcomeTableError: The matrix does not know one of them.
        """
        missing = [name for name in experts if name not in self.experts]
        if missing:
            msg = f"no outcomes of {', '.join(missing)}: the matrix has those of {', '.join(self.experts)}"
            raise OutcomeTableError(msg)
        columns = [self.experts.index(name) for name in experts]
        return OutcomeMatrix(self.queries, tuple(experts), self.scores[:, columns])

    def rows(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> OutcomeMatrix:
        """The same experts on some of the queries; `rows` are positions or a mask."""
        positions = np.arange(len(self))[rows]
        return OutcomeMatrix(tuple(self.queries[i] for i in positions), self.experts, self.scores[positions])
