"""KNNRouter: scores are the mean outcomes of the nearest training queries, by cosine of sentence embeddings.

With k = 1 it is the paper's 1NN-Router: the outcomes of the nearest query rank the experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import tensors
from torouter.routers.config import ExpertFacts, RouterConfig, Serving
from torouter.routers.encoded import EmbeddingRouter
from torouter.routers.encoders.onnx_encoder import Encoder
from torouter.routers.neighbour_search import Search
from torouter.routers.outcome_matrix import OutcomeMatrix

_PRIOR = 1e-3
"""Share of an expert's overall mean in its score: it breaks ties, which are frequent with few neighbours."""
_WIDTH = 0.2
"""A neighbour whose cosine is this much lower than the nearest one's weighs 1/e of it (cross-validated, llmrouter9)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Outcomes of some experts on m queries: `scores` of shape (m, experts), `search` over the queries' embeddings."""

    experts: tuple[str, ...]
    search: Search
    scores: NDArray[np.float32]
    overall: NDArray[np.float32] = field(init=False)
    """Mean of each expert over all queries."""

    def __post_init__(self) -> None:
        if not len(self.scores) or self.scores.shape != (len(self.search.vectors), len(self.experts)):
            msg = (
                f"outcomes of shape {self.scores.shape} do not fit {len(self.search.vectors)} queries and "
                f"{len(self.experts)} experts"
            )
            raise CheckpointError(msg)
        # Computed once: over a million rows it would take too long in every decision.
        object.__setattr__(self, "overall", self.scores.mean(axis=0))

    def means(self, queries: NDArray[np.float32], neighbours: int, *, by_distance: bool) -> NDArray[np.float32]:
        """Mean outcome of each query's neighbours: shape (n, number of experts)."""
        nearest, near = self.search.nearest(queries, min(neighbours, len(self.scores)))
        weights = np.ones_like(near)
        if by_distance:
            weights = np.exp((near - near.max(axis=1, keepdims=True)) / np.float32(_WIDTH))
        weights /= weights.sum(axis=1, keepdims=True)
        means = np.einsum("nk,nke->ne", weights, self.scores[nearest])
        smoothed: NDArray[np.float32] = (1 - _PRIOR) * means + np.float32(_PRIOR) * self.overall
        return smoothed


class KNNRouter(EmbeddingRouter):
    """Scores experts by the outcomes of similar queries.

    `settings` of its config: `neighbours` (k) and `weights` ("uniform", or "distance" for weights that fall with the
    cosine distance). An expert that is added later has outcomes on other queries, which make a memory of their own.
    """

    kind: ClassVar[str] = "knn"

    def __init__(self, config: RouterConfig, encoder: Encoder, memories: tuple[Memory, ...], source: Path) -> None:
        known = [name for memory in memories for name in memory.experts]
        if sorted(known) != sorted(config.names):
            raise CheckpointError(f"the outcomes are of {', '.join(known)}, the experts are {', '.join(config.names)}")
        self._memories = memories
        self._order = [known.index(name) for name in config.names]
        super().__init__(config, encoder, source)

    @classmethod
    def fit(
        cls,
        config: RouterConfig,
        encoder: Encoder,
        features: NDArray[np.float32],
        scores: NDArray[np.float32],
        *,
        source: Path,
        progress: bool = False,
    ) -> Self:
        """A router on the outcomes `scores` (m, k) of m queries with the encoder's `features` (m, d)."""
        return cls(config, encoder, (Memory(config.names, Search.over(features, progress=progress), scores),), source)

    def scores_of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        settings: Mapping[str, object] = self.config.settings
        k, by_distance = int(str(settings["neighbours"])), settings["weights"] == "distance"
        means = [memory.means(features, k, by_distance=by_distance) for memory in self._memories]
        return np.concatenate(means, axis=1)[:, self._order]

    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:
        config = self.config.with_expert(ExpertFacts(name=name))
        memory = Memory((name,), Search.over(self.features(outcomes.queries)), outcomes.of((name,)).scores)
        return type(self)(config, self._encoder, (*self._memories, memory), self._source)

    def remove_expert(self, name: str) -> Self:
        config = self.config.without_expert(name)
        memories = []
        for memory in self._memories:
            kept = [position for position, expert in enumerate(memory.experts) if expert != name]
            if kept:
                names = tuple(memory.experts[position] for position in kept)
                memories.append(replace(memory, experts=names, scores=memory.scores[:, kept]))
        return type(self)(config, self._encoder, tuple(memories), self._source)

    def _head_content(self) -> Iterator[bytes | memoryview]:
        for memory in self._memories:
            yield "\0".join(memory.experts).encode()
            for array in (memory.search.vectors, memory.scores):
                yield np.ascontiguousarray(array).reshape(-1).data  # no copy: it may be gigabytes

    def write_head(self, directory: Path) -> None:
        named = {}
        for number, memory in enumerate(self._memories):
            named[f"embeddings_{number}"] = memory.search.vectors
            memory.search.save(directory, number)
            named[f"scores_{number}"] = memory.scores
            columns = [self.config.position(name) for name in memory.experts]
            named[f"columns_{number}"] = np.array(columns, dtype=np.int64)
        tensors.save(directory, **named)

    @classmethod
    def read_files(cls, directory: Path, config: RouterConfig, serving: Serving) -> Self:
        stored = tensors.load(directory, "embeddings_0")
        memories = []
        for number in range(sum(name.startswith("embeddings_") for name in stored)):
            try:
                names = tuple(config.names[column] for column in stored[f"columns_{number}"])
                search = Search.load(directory, number, stored[f"embeddings_{number}"])
                memories.append(Memory(names, search, stored[f"scores_{number}"]))
            except (KeyError, IndexError):
                raise CheckpointError(f"{directory}: the stored outcomes do not fit router.json") from None
        return cls(config, cls.load_encoder(directory, config, serving), tuple(memories), directory)
