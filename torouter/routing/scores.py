"""`Scores`: a router's scores for one query, an array that reads as a mapping from expert to score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class Scores(Mapping[str, float]):
    """One score per expert. The dict is built when first read: with hundreds of experts most decisions do without.

    Attributes:
        names: The experts.
        row: Their scores in this order, shape (number of experts,).
    """

    def __init__(self, names: tuple[str, ...], row: NDArray[np.float64]) -> None:
        self.names, self.row = names, row

    @classmethod
    def of(cls, scores: Mapping[str, float], names: tuple[str, ...]) -> Scores:
        """The scores of these experts in this order, -inf for one without; `scores` itself if it is that already."""
        if isinstance(scores, cls) and scores.names == names:
            return scores
        return cls(names, np.array([scores.get(name, -np.inf) for name in names], dtype=float))

    @cached_property
    def _by_name(self) -> dict[str, float]:
        return dict(zip(self.names, self.row.tolist(), strict=True))

    def rounded(self, places: int) -> dict[str, float]:
        """The scores by name, rounded as one array: rounding them one by one takes longer than deciding."""
        return dict(zip(self.names, self.row.round(places).tolist(), strict=True))

    def __getitem__(self, name: str) -> float:
        return self._by_name[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return repr(self._by_name)
