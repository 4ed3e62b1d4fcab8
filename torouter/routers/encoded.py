"""Routers made of an encoder, which turns texts into features, and a head, which scores the features."""

from __future__ import annotations

import abc
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from torouter.routers import checkpoint
from torouter.routers.config import RouterConfig, Serving
from torouter.routers.encoders.onnx_encoder import GRAPHS, Encoder, OnnxEncoder
from torouter.routers.router import Router, as_texts


class EncodedRouter(Router):
    """A router whose head scores the features of an encoder."""

    kind: ClassVar[str]

    def __init__(self, config: RouterConfig, encoder: Encoder) -> None:
        self._encoder = encoder
        super().__init__(config)

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        return self.scores_of(self.features(queries))

    def features(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """The encoder's features of each query, shape (n, d)."""
        return self._encoder.features(as_texts(queries))

    @abc.abstractmethod
    def scores_of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `scores`, from the encoder's features, shape (n, d)."""

    @abc.abstractmethod
    def _head_content(self) -> Iterator[bytes | memoryview]:
        """The head's bytes."""

    def _content(self) -> Iterator[bytes | memoryview]:
        yield from self._encoder.content()
        yield from self._head_content()


class EmbeddingRouter(EncodedRouter):
    """A router on the sentence embeddings of an encoder that is not fine-tuned; saving copies the encoder's files."""

    def __init__(self, config: RouterConfig, encoder: Encoder, source: Path) -> None:
        self._source = source
        super().__init__(config, encoder)

    @abc.abstractmethod
    def write_head(self, directory: Path) -> None:
        """Write the head's arrays."""

    def write_files(self, directory: Path) -> None:
        for name in (*GRAPHS.values(), checkpoint.TOKENIZER):
            shutil.copyfile(checkpoint.checked_path(self._source, name), directory / name)
        self.write_head(directory)

    @staticmethod
    def load_encoder(directory: Path, config: RouterConfig, serving: Serving) -> Encoder:
        """The encoder of a checkpoint."""
        return OnnxEncoder.load(directory, serving.precision or config.precision, config.max_length)
