"""MLPRouter: one hidden layer on the sentence embedding of a frozen encoder (the paper's MLP-Router)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routing import arrays
from torouter.routing.config import ExpertFacts, RouterConfig, Serving
from torouter.routing.encode import Encoder
from torouter.routing.encoded import EmbeddingRouter
from torouter.routing.heads import Head, fit_expert, probabilities
from torouter.routing.matrix import OutcomeMatrix


class MLPRouter(EmbeddingRouter):
    """Scores experts with `output(relu(hidden(embedding)))`; a new expert is one more output on the hidden layer."""

    kind: ClassVar[str] = "mlp"

    def __init__(self, config: RouterConfig, encoder: Encoder, hidden: Head, output: Head, source: Path) -> None:
        if len(output.bias) != len(config.experts) or output.weight.shape[1] != len(hidden.bias):
            raise CheckpointError(f"layers {hidden.weight.shape} and {output.weight.shape} do not fit together")
        self._hidden, self._output = hidden, output
        super().__init__(config, encoder, source)

    def scores_of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return probabilities(self._output.logits(self._seen(features)), self.config.objective)

    def _seen(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.maximum(self._hidden.logits(features), 0)

    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:
        config = self.config.with_expert(ExpertFacts(name=name))
        output = fit_expert(self._output, config, self._seen(self.features(outcomes.queries)), outcomes)
        return type(self)(config, self._encoder, self._hidden, output, self._source)

    def remove_expert(self, name: str) -> Self:
        config = self.config.without_expert(name)
        output = self._output.rows([self.config.position(expert) for expert in config.names])
        return type(self)(config, self._encoder, self._hidden, output, self._source)

    def _head_content(self) -> Iterator[bytes]:
        for layer in (self._hidden, self._output):
            yield layer.weight.tobytes()
            yield layer.bias.tobytes()

    def write_head(self, directory: Path) -> None:
        arrays.save(
            directory,
            hidden_weight=self._hidden.weight,
            hidden_bias=self._hidden.bias,
            output_weight=self._output.weight,
            output_bias=self._output.bias,
        )

    @classmethod
    def read_files(cls, directory: Path, config: RouterConfig, serving: Serving) -> Self:
        names = ("hidden_weight", "hidden_bias", "output_weight", "output_bias")
        found = arrays.load(directory, *names)
        weights = [found[name].astype(np.float32) for name in names]
        encoder = cls.encoder_of(directory, config, serving)
        return cls(config, encoder, Head(*weights[:2]), Head(*weights[2:]), directory)
