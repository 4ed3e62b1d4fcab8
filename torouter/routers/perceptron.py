"""Perceptron: a hidden layer and an output layer in numpy, the head of MLPRouter and FastRouter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import tensors
from torouter.routers.config import RouterConfig
from torouter.routers.heads import Head, fit_expert, probabilities
from torouter.routers.outcome_matrix import OutcomeMatrix

_NAMES = ("hidden_weight", "hidden_bias", "output_weight", "output_bias")


@dataclass(frozen=True, slots=True)
class Perceptron:
    """Logits of the experts are `output(relu(hidden(features)))`; an expert is one row of `output`."""

    hidden: Head
    output: Head

    def check(self, config: RouterConfig, width: int) -> None:
        """Check that the layers fit the experts, features of `width` and each other.

        Raises:
            CheckpointError: They do not.
        """
        layers = (self.hidden.weight.shape, self.output.weight.shape)
        if layers != ((len(self.hidden.bias), width), (len(config.experts), len(self.hidden.bias))):
            msg = f"layers {layers[0]} and {layers[1]} do not fit {width} features and {len(config.experts)} experts"
            raise CheckpointError(msg)

    def scores(self, features: NDArray[np.float32], config: RouterConfig) -> NDArray[np.float32]:
        """Shape (n, k) for features of shape (n, d)."""
        return probabilities(self.output.logits(self._hidden_units(features)), config.objective)

    def with_expert(self, config: RouterConfig, features: NDArray[np.float32], outcomes: OutcomeMatrix) -> Self:
        """The same layers with an output for the last expert of `config`, fitted on its outcomes; see `fit_expert`."""
        return replace(self, output=fit_expert(self.output, config, self._hidden_units(features), outcomes))

    def rows(self, positions: list[int]) -> Self:
        """The same with these experts, in this order."""
        return replace(self, output=self.output.rows(positions))

    def _hidden_units(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.maximum(self.hidden.logits(features), 0)

    def content(self) -> Iterator[bytes]:
        """The bytes that the scores depend on."""
        for array in self.arrays().values():
            yield array.tobytes()

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays that a checkpoint stores, by name."""
        layers = (self.hidden, self.output)
        return dict(zip(_NAMES, (part for layer in layers for part in (layer.weight, layer.bias)), strict=True))

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The layers that a checkpoint stores.

        Raises:
            CheckpointError: The file or an array is missing or damaged.
        """
        stored = tensors.load(directory, *_NAMES)
        weights = [stored[name].astype(np.float32) for name in _NAMES]
        return cls(Head(*weights[:2]), Head(*weights[2:]))
