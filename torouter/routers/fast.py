"""FastRouter: a perceptron on the mean of static token vectors, computed by numpy alone, for high throughput."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import checkpoint, tensors
from torouter.routers.config import ExpertFacts, Precision, RouterConfig, Serving
from torouter.routers.encoded import EncodedRouter
from torouter.routers.encoders.static_encoder import StaticEncoder
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.perceptron import Perceptron


class FastRouter(EncodedRouter):
    """Scores experts without a transformer: a tenth of a millisecond for a question on one CPU thread.

    `settings` of its config: `hidden` units and `pairs`, the number of vectors for pairs of tokens.
    """

    kind: ClassVar[str] = "fast"
    scores_inline = True
    precisions: ClassVar[tuple[Precision, ...]] = ("int8",)

    def __init__(self, config: RouterConfig, encoder: StaticEncoder, head: Perceptron) -> None:
        head.check(config, encoder.width)
        self._static, self._head = encoder, head
        super().__init__(config, encoder)

    def scores_of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._head.scores(features, self.config)

    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:
        config = self.config.with_expert(ExpertFacts(name=name))
        return type(self)(
            config, self._static, self._head.with_expert(config, self.features(outcomes.queries), outcomes)
        )

    def remove_expert(self, name: str) -> Self:
        config = self.config.without_expert(name)
        kept = [self.config.position(expert) for expert in config.names]
        return type(self)(config, self._static, self._head.rows(kept))

    def _head_content(self) -> Iterator[bytes]:
        return self._head.content()

    def write_files(self, directory: Path) -> None:
        (directory / checkpoint.TOKENIZER).write_text(self._static.tokenizer_json, encoding="utf-8")
        tensors.save(directory, **self._static.arrays(), **self._head.arrays())

    @classmethod
    def read_files(cls, directory: Path, config: RouterConfig, _serving: Serving) -> Self:
        pairs = config.settings.get("pairs")
        if not isinstance(pairs, int) or pairs < 0:
            raise CheckpointError(f"{directory}: settings of router.json have pairs={pairs!r}, which is no count")
        encoder = StaticEncoder.load(directory, config.max_length, pairs=pairs)
        return cls(config, encoder, Perceptron.load(directory))
