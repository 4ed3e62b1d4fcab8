"""StaticEncoder: a vector for each token of the vocabulary, a text's features their mean; numpy and no network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routing import arrays
from torouter.routing.encode import QueryTokenizer

_VECTORS, _SCALES = "token_vectors", "token_scales"


class StaticEncoder:
    """Token vectors of int8 with a scale for each token: `scales[t] * vectors[t]` is what token t adds.

    Args:
        tokenizer: Gives the token ids.
        vectors: Shape (vocabulary, d), int8.
        scales: Shape (vocabulary,), float32.

    Raises:
        CheckpointError: The arrays fit neither each other nor the tokenizer.
    """

    def __init__(self, tokenizer: QueryTokenizer, vectors: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
        if vectors.ndim != 2 or vectors.dtype != np.int8 or scales.shape != vectors.shape[:1]:
            msg = f"token vectors {vectors.dtype}{vectors.shape} and scales {scales.shape} do not fit together"
            raise CheckpointError(msg)
        if tokenizer.vocabulary > len(vectors):
            raise CheckpointError(f"the tokenizer has {tokenizer.vocabulary} tokens, {len(vectors)} have a vector")
        self._tokenizer, self._vectors, self._scales = tokenizer, vectors, scales.astype(np.float32)
        self.width = vectors.shape[1]

    @classmethod
    def of(cls, tokenizer: QueryTokenizer, vectors: NDArray[np.float32]) -> Self:
        """An encoder of these vectors, shape (vocabulary, d), rounded to int8."""
        scales = np.maximum(np.abs(vectors).max(axis=1), np.float32(1e-12)) / np.float32(127)
        return cls(tokenizer, np.rint(vectors / scales[:, None]).astype(np.int8), scales)

    @classmethod
    def load(cls, directory: Path, max_length: int) -> Self:
        """The encoder of a checkpoint.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        found = arrays.load(directory, _VECTORS, _SCALES)
        return cls(QueryTokenizer.load(directory, max_length), found[_VECTORS], found[_SCALES])

    def arrays(self) -> dict[str, NDArray[np.int8] | NDArray[np.float32]]:
        """What a checkpoint keeps beside the tokenizer, by name."""
        return {_VECTORS: self._vectors, _SCALES: self._scales}

    @property
    def tokenizer_json(self) -> str:
        """The text of tokenizer.json."""
        return self._tokenizer.content

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.zeros((len(texts), self.width), dtype=np.float32)
        for row, ids in zip(found, self._tokenizer.ids(texts), strict=True):
            if ids:  # a tokenizer without special tokens has none for an empty text
                np.matmul(self._scales[ids] / len(ids), self._vectors[ids].astype(np.float32), out=row)
        return found

    def content(self) -> Iterator[bytes]:
        yield self._tokenizer.content.encode()
        yield str(self._tokenizer.max_length).encode()
        yield self._vectors.tobytes()
        yield self._scales.tobytes()
