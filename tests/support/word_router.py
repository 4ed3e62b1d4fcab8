"""A router that a test steers by a word of the query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from torouter.routers.baselines import BestSingleRouter


class WordRouter(BestSingleRouter):
    """Scores an expert one point higher if the query contains its name.

    Attributes:
        passes: The number of queries of each forward pass.
    """

    passes: list[int]

    @classmethod
    def named(cls, means: Mapping[str, float]) -> Self:
        """A router with these scores for queries that contain no expert's name."""
        router = cls.of(means)
        router.passes = []
        return router

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        self.passes.append(len(queries))
        means = np.asarray([self.means] * len(queries), dtype=np.float32)
        for row, query in enumerate(queries):
            for column, name in enumerate(self.experts):
                means[row, column] += name in query.split()
        return means
