"""Measures a KNNRouter's search among a given number of remembered queries, in a process of its own.

Its last line is JSON: seconds to build, save, load and search, recall, bytes on disk, and the peak of its memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.timing import median_seconds
from torouter.routers.neighbour_search import LARGE, Search

WIDTH, TOPICS = 384, 300
_BLOCK = 50_000


def vectors(count: int, *, seed: int) -> NDArray[np.float32]:
    """Unit vectors of shape (count, `WIDTH`), in clusters whose spread is mostly in a few directions.

    Sentence embeddings are like that; uniformly random vectors have no near neighbours.
    """
    topics = np.random.default_rng(0).normal(size=(TOPICS, WIDTH)).astype(np.float32)
    spread = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    rng, unit_vectors = np.random.default_rng(seed), np.empty((count, WIDTH), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        part = unit_vectors[start : start + _BLOCK]
        part[:] = topics[rng.integers(0, TOPICS, len(part))]
        part += spread * rng.standard_normal((len(part), WIDTH), dtype=np.float32) * np.float32(0.5)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return unit_vectors


def measure(count: int, neighbours: int, queries: int) -> dict[str, float]:
    """Figures of a search among `count` vectors."""
    remembered, searched = vectors(count, seed=1), vectors(queries, seed=2)
    neighbours = min(neighbours, count)
    figures: dict[str, float] = {"vectors": count, "megabytes_of_vectors": remembered.nbytes / 1e6}
    began = time.perf_counter()
    search = Search.over(remembered)
    figures["build_seconds"] = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        began = time.perf_counter()
        search.save(directory, 0)
        figures["save_seconds"] = time.perf_counter() - began
        figures["index_megabytes"] = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
        began = time.perf_counter()
        loaded = Search.load(directory, 0, remembered)
        figures["load_seconds"] = time.perf_counter() - began
        for name, one in (("built", search), ("loaded", loaded)):
            remaining = iter(searched)
            taken = median_seconds(
                lambda one=one, remaining=remaining: one.nearest(next(remaining)[None], neighbours), queries
            )
            figures[f"{name}_milliseconds"] = 1000 * taken
        near, _ = loaded.nearest(searched, neighbours)
    exact, _ = Search(remembered).nearest(searched, neighbours)
    figures["recall"] = float(np.mean([len(set(a) & set(b)) for a, b in zip(near, exact, strict=True)]) / neighbours)
    remaining = iter(searched[:10])
    figures["exact_milliseconds"] = 1000 * median_seconds(
        lambda: Search(remembered).nearest(next(remaining)[None], neighbours), 10
    )
    figures["graph"] = float(count >= LARGE and figures["index_megabytes"] > 0)
    figures["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return figures


def main() -> None:
    """Measure one number of vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.count, arguments.neighbours, arguments.queries)))


if __name__ == "__main__":
    main()
