"""Baselines: routers that learn nothing from a query, which a trained router has to beat."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError, OutcomeTableError
from torouter.experts import Expert
from torouter.routers import tensors
from torouter.routers.config import ExpertFacts, RouterConfig, Serving, facts_of
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.router import Router, as_texts


class RandomRouter(Router):
    """Scores drawn uniformly from 0..1, seeded by a seed and the query's text: a text always gets the same scores."""

    kind: ClassVar[str] = "random"
    scores_inline = True

    @classmethod
    def of(cls, experts: Sequence[str | Expert | ExpertFacts], *, seed: int = 0) -> Self:
        """A router over these experts."""
        return cls(RouterConfig(kind=cls.kind, experts=facts_of(experts), objective="soft", settings={"seed": seed}))

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        rows = [self._draw(text) for text in as_texts(queries)]
        return np.array(rows, dtype=np.float32).reshape(len(rows), len(self.experts))

    def _draw(self, text: str) -> NDArray[np.float64]:
        digest = hashlib.sha256(f"{self.config.settings['seed']}\n{text}".encode()).digest()
        return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32)).random(len(self.experts))

    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:  # noqa: ARG002 - random scores need no outcomes
        return type(self)(self.config.with_expert(ExpertFacts(name=name)))

    def remove_expert(self, name: str) -> Self:
        return type(self)(self.config.without_expert(name))

    def _content(self) -> Iterator[bytes | memoryview]:
        yield from ()

    def write_files(self, directory: Path) -> None:
        """Write nothing: the config holds everything."""

    @classmethod
    def read_files(cls, _directory: Path, config: RouterConfig, _serving: Serving) -> Self:
        return cls(config)


class BestSingleRouter(Router):
    """The experts' mean scores, whatever the query: the best single expert always comes first."""

    kind: ClassVar[str] = "best-single"
    scores_inline = True

    @classmethod
    def of(cls, means: dict[str, float]) -> Self:
        """A router from the experts' mean scores."""
        return cls(RouterConfig(kind=cls.kind, experts=facts_of(list(means)), settings={"means": list(means.values())}))

    @classmethod
    def fit(cls, outcomes: OutcomeMatrix) -> Self:
        """A router from the mean of each column."""
        return cls.of({name: float(outcomes.column(name).mean()) for name in outcomes.experts})

    @property
    def means(self) -> list[float]:
        return list(self.config.settings["means"])

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(np.array(self.means, dtype=np.float32), (len(as_texts(queries)), 1))

    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:
        means = [*self.means, float(outcomes.column(name).mean())]
        return type(self)(replace(self.config.with_expert(ExpertFacts(name=name)), settings={"means": means}))

    def remove_expert(self, name: str) -> Self:
        config, means = self.config.without_expert(name), self.means
        del means[self.config.position(name)]
        return type(self)(replace(config, settings={"means": means}))

    def _content(self) -> Iterator[bytes | memoryview]:
        yield from ()

    def write_files(self, directory: Path) -> None:
        """Write nothing: the config holds everything."""

    @classmethod
    def read_files(cls, directory: Path, config: RouterConfig, _serving: Serving) -> Self:
        if len(config.settings.get("means", ())) != len(config.experts):
            raise CheckpointError(f"{directory}: router.json does not have one mean per expert")
        return cls(config)


class OracleRouter(Router):
    """Scores by the recorded outcomes, looked up by the query's text: the upper bound of a comparison."""

    kind: ClassVar[str] = "oracle"
    scores_inline = True

    def __init__(self, config: RouterConfig, outcomes: OutcomeMatrix) -> None:
        self._outcomes = outcomes
        self._rows = {text: row for row, text in enumerate(outcomes.queries)}
        super().__init__(config)

    @classmethod
    def fit(cls, outcomes: OutcomeMatrix) -> Self:
        """A router that knows these outcomes."""
        return cls(RouterConfig(kind=cls.kind, experts=facts_of(outcomes.experts)), outcomes)

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """As `Router.scores`.

        Raises:
            OutcomeTableError: The oracle has no outcomes for a query.
        """
        texts = as_texts(queries)
        unknown = next((position for position, text in enumerate(texts) if text not in self._rows), None)
        if unknown is not None:
            raise OutcomeTableError(f"queries[{unknown}] is not one of the oracle's {len(self._rows)} queries")
        return self._outcomes.scores[[self._rows[text] for text in texts]]

    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:
        config = self.config.with_expert(ExpertFacts(name=name))
        scores = dict(zip(outcomes.queries, outcomes.column(name), strict=True))
        missing = sum(text not in scores for text in self._outcomes.queries)
        if missing:
            raise OutcomeTableError(f"{missing} of the oracle's queries have no outcome of {name!r}: give one for each")
        column = np.array([scores[text] for text in self._outcomes.queries], dtype=np.float32)
        grown = OutcomeMatrix(self._outcomes.queries, config.names, np.column_stack([self._outcomes.scores, column]))
        return type(self)(config, grown)

    def remove_expert(self, name: str) -> Self:
        config = self.config.without_expert(name)
        return type(self)(config, self._outcomes.of(config.names))

    def _content(self) -> Iterator[bytes | memoryview]:
        yield "\0".join(self._outcomes.queries).encode("utf-8", "replace")
        yield self._outcomes.scores.tobytes()

    def write_files(self, directory: Path) -> None:
        texts = [text.encode("utf-8", "replace") for text in self._outcomes.queries]
        tensors.save(
            directory,
            scores=self._outcomes.scores,
            texts=np.frombuffer(b"".join(texts), dtype=np.uint8),
            lengths=np.array([len(text) for text in texts], dtype=np.int64),
        )

    @classmethod
    def read_files(cls, directory: Path, config: RouterConfig, _serving: Serving) -> Self:
        stored = tensors.load(directory, "scores", "texts", "lengths")
        ends = np.cumsum(stored["lengths"])
        raw = stored["texts"].tobytes()
        texts = [raw[end - length : end].decode() for end, length in zip(ends, stored["lengths"], strict=True)]
        return cls(config, OutcomeMatrix(tuple(texts), config.names, stored["scores"]))
