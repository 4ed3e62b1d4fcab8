"""MLPRouter: one hidden layer on the sentence embedding of a frozen encoder (the paper's MLP-Router)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torouter.routers import tensors
from torouter.routers.config import ExpertFacts, RouterConfig, Serving
from torouter.routers.encoded import EmbeddingRouter
from torouter.routers.encoders.onnx_encoder import Encoder
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.perceptron import Perceptron


class MLPRouter(EmbeddingRouter):
    """Scores experts with a perceptron on the sentence embedding; a new expert is one more output of it."""

    kind: ClassVar[str] = "mlp"

    def __init__(self, config: RouterConfig, encoder: Encoder, head: Perceptron, source: Path) -> None:
        head.check(config, encoder.width)
        self._head = head
        super().__init__(config, encoder, source)

    def scores_of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._head.scores(features, self.config)

    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:
        config = self.config.with_expert(ExpertFacts(name=name))
        head = self._head.with_expert(config, self.features(outcomes.queries), outcomes)
        return type(self)(config, self._encoder, head, self._source)

    def remove_expert(self, name: str) -> Self:
        config = self.config.without_expert(name)
        head = self._head.rows([self.config.position(expert) for expert in config.names])
        return type(self)(config, self._encoder, head, self._source)

    def _head_content(self) -> Iterator[bytes]:
        return self._head.content()

    def write_head(self, directory: Path) -> None:
        tensors.save(directory, **self._head.arrays())

    @classmethod
    def read_files(cls, directory: Path, config: RouterConfig, serving: Serving) -> Self:
        return cls(config, cls.load_encoder(directory, config, serving), Perceptron.load(directory), directory)
