"""StaticEncoder: a text's features are the mean of static vectors of its tokens and of its pairs of neighbours.

Pairs share a number of vectors by a hash, as fastText's word bigrams do (Joulin et al., EACL 2017, arXiv 1607.01759).
They carry the word order, which a mean of tokens loses. It needs nothing but numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import tensors
from torouter.routers.encoders.tokenizer import QueryTokenizer

_VECTORS, _SCALES = "static_vectors", "static_scales"


def rows_of(ids: Sequence[int], tokens: int, pairs: int) -> NDArray[np.int64]:
    """The table's rows for a text: one for each token, and one for each pair, which come after all `tokens` rows."""
    rows = np.asarray(ids, dtype=np.int64)
    if not pairs or len(rows) < 2:
        return rows
    return np.concatenate([rows, tokens + (1_000_003 * rows[:-1] + 7_919 * rows[1:]) % pairs])


class StaticEncoder:
    """Vectors of int8, each with a scale: row r contributes `scales[r] * vectors[r]`.

    Args:
        tokenizer: Gives the token ids.
        vectors: Shape (vocabulary + pairs, d), int8.
        scales: Shape (vocabulary + pairs,), float32.
        pairs: Number of vectors that pairs of tokens share.

    Raises:
        CheckpointError: The arrays do not fit each other or the tokenizer.
    """

    def __init__(
        self, tokenizer: QueryTokenizer, vectors: NDArray[np.int8], scales: NDArray[np.float32], *, pairs: int
    ) -> None:
        if vectors.ndim != 2 or vectors.dtype != np.int8 or scales.shape != vectors.shape[:1]:
            msg = f"static vectors {vectors.dtype}{vectors.shape} and scales {scales.shape} do not fit together"
            raise CheckpointError(msg)
        self._tokens, self._pairs = tokenizer.vocabulary, pairs
        if len(vectors) != self._tokens + pairs:
            msg = f"{len(vectors)} static vectors do not fit a tokenizer of {self._tokens} tokens and pairs={pairs}"
            raise CheckpointError(msg)
        self._tokenizer, self._vectors, self._scales = tokenizer, vectors, scales.astype(np.float32)
        self.width = vectors.shape[1]

    @classmethod
    def of(cls, tokenizer: QueryTokenizer, vectors: NDArray[np.float32], *, pairs: int) -> Self:
        """An encoder with these vectors, shape (vocabulary + pairs, d), rounded to int8."""
        scales = np.maximum(np.abs(vectors).max(axis=1), np.float32(1e-12)) / np.float32(127)
        return cls(tokenizer, np.rint(vectors / scales[:, None]).astype(np.int8), scales, pairs=pairs)

    @classmethod
    def load(cls, directory: Path, max_length: int, *, pairs: int) -> Self:
        """The encoder of a checkpoint.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        stored = tensors.load(directory, _VECTORS, _SCALES)
        return cls(QueryTokenizer.load(directory, max_length), stored[_VECTORS], stored[_SCALES], pairs=pairs)

    def arrays(self) -> dict[str, NDArray[np.int8] | NDArray[np.float32]]:
        """The arrays that a checkpoint stores beside the tokenizer, by name."""
        return {_VECTORS: self._vectors, _SCALES: self._scales}

    @property
    def tokenizer_json(self) -> str:
        """The text of tokenizer.json."""
        return self._tokenizer.content

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        features = np.zeros((len(texts), self.width), dtype=np.float32)
        for mean, ids in zip(features, self._tokenizer.ids(texts), strict=True):
            if ids:  # without special tokens an empty text has no ids
                rows = rows_of(ids, self._tokens, self._pairs)
                np.matmul(self._scales[rows] / len(rows), self._vectors[rows].astype(np.float32), out=mean)
        return features

    def content(self) -> Iterator[bytes]:
        yield self._tokenizer.content.encode()
        yield str(self._tokenizer.max_length).encode()
        yield self._vectors.tobytes()
        yield self._scales.tobytes()
