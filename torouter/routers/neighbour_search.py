"""Search: the nearest of many unit vectors, by comparing all where they are few and by a usearch graph where not."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import checkpoint

logger = logging.getLogger(__name__)

LARGE = 20_000
"""Number of vectors from which on a graph is used; comparing so many takes about 5 ms."""
_BLOCK_BYTES = 2**26
_ADDED = 5_000  # vectors per step of the progress bar
_EXPANSION = 256  # candidates that usearch keeps: recall of 100 neighbours above 0.99 on 30,000 clustered vectors

Neighbours = tuple[NDArray[np.int64], NDArray[np.float32]]


class Search:
    """Nearest neighbours by cosine among `vectors` (m, d) of unit length.

    With `LARGE` vectors or more and the `search` extra the neighbours come from a graph and are approximate; their
    cosines are exact.
    """

    def __init__(self, vectors: NDArray[np.float32], graph: Any = None) -> None:
        self.vectors = vectors
        self._graph = graph

    @classmethod
    def over(cls, vectors: NDArray[np.float32], *, progress: bool = False) -> Search:
        """A search over these vectors, with a graph from `LARGE` on; a million vectors take a quarter of an hour."""
        if len(vectors) < LARGE:
            return cls(vectors)
        if find_spec("usearch") is None:
            logger.info(
                "%d vectors are compared one by one; to use a graph: pip install 'torouter[search]'", len(vectors)
            )
            return cls(vectors)
        from tqdm import tqdm

        graph = _index()(ndim=vectors.shape[1], metric="ip", dtype="f16", expansion_search=_EXPANSION)
        with tqdm(total=len(vectors), desc="index", unit="query", disable=None if progress else True) as bar:
            for start in range(0, len(vectors), _ADDED):
                block = vectors[start : start + _ADDED]
                graph.add(np.arange(start, start + len(block)), block, threads=1)
                bar.update(len(block))
        return cls(vectors, graph)

    def nearest(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        """Positions and cosines, both of shape (n, k), of each query's k nearest, unordered; k is at most m."""
        if self._graph is None:
            step = max(1, _BLOCK_BYTES // (4 * len(self.vectors)))
            parts = [self._compare_all(queries[i : i + step], k) for i in range(0, max(len(queries), 1), step)]
            return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        rows = [self._graph.search(query, k, threads=1).keys.astype(np.int64) for query in queries]
        positions = np.stack(rows) if rows else np.empty((0, k), dtype=np.int64)
        return positions, np.einsum("nd,nkd->nk", queries, self.vectors[positions])

    def _compare_all(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        similarity = queries @ self.vectors.T
        positions = np.argpartition(similarity, -k, axis=1)[:, -k:]
        return positions, np.take_along_axis(similarity, positions, axis=1)

    def save(self, directory: Path, number: int) -> None:
        """Write the graph, if the search has one."""
        if self._graph is not None:
            self._graph.save(str(directory / checkpoint.INDEX.format(number)))

    @classmethod
    def load(cls, directory: Path, number: int, vectors: NDArray[np.float32]) -> Search:
        """The search that `save` wrote, without its graph where the `search` extra is not installed.

        Raises:
            CheckpointError: The graph is damaged or does not fit the vectors.
        """
        path = directory / checkpoint.INDEX.format(number)
        if not path.is_file() or find_spec("usearch") is None:
            return cls(vectors)
        checkpoint.checked_path(directory, path.name)
        try:
            graph = _index().restore(str(path), view=True, expansion_search=_EXPANSION)  # mapped into memory, not read
        except Exception as error:  # usearch raises RuntimeErrors of several kinds
            raise CheckpointError(f"{path} is damaged: {error}") from error
        if graph is None or (len(graph), graph.ndim) != vectors.shape:
            raise CheckpointError(f"{path} does not fit the {len(vectors)} stored queries")
        return cls(vectors, graph)


def _index() -> Any:
    """The class of usearch's graphs."""
    # Importing ONNX Runtime after usearch ends in a segmentation fault (1.32.0 and 2.26.6, Linux).
    import onnxruntime  # noqa: F401
    from usearch.index import Index

    return Index
