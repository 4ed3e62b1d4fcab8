"""What a KNNRouter's search costs among a given number of remembered queries: a process of its own for each number.

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
    """Unit vectors of shape (count, `WIDTH`) in clusters, most of whose spread lies in few directions, as is the way
    of sentence embeddings: uniform ones have no neighbours worth the name.
    """
    topics = np.random.default_rng(0).normal(size=(TOPICS, WIDTH)).astype(np.float32)
    spread = (np.arange(1, WIDTH + 1) ** -0.5).astype(np.float32)
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    rng, found = np.random.default_rng(seed), np.empty((count, WIDTH), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        part = found[start : start + _BLOCK]
        part[:] = topics[rng.integers(0, TOPICS, len(part))]
        part += spread * rng.standard_normal((len(part), WIDTH), dtype=np.float32) * np.float32(0.5)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found


def measured(count: int, neighbours: int, queries: int) -> dict[str, float]:
    """Figures of a search among `count` vectors."""
    remembered, asked = vectors(count, seed=1), vectors(queries, seed=2)
    neighbours = min(neighbours, count)
    found: dict[str, float] = {"vectors": count, "megabytes_of_vectors": remembered.nbytes / 1e6}
    began = time.perf_counter()
    search = Search.over(remembered)
    found["build_seconds"] = time.perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        began = time.perf_counter()
        search.save(directory, 0)
        found["save_seconds"] = time.perf_counter() - began
        found["index_megabytes"] = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
        began = time.perf_counter()
        loaded = Search.load(directory, 0, remembered)
        found["load_seconds"] = time.perf_counter() - began
        for name, one in (("built", search), ("loaded", loaded)):
            left = iter(asked)
            taken = median_seconds(lambda one=one, left=left: one.nearest(next(left)[None], neighbours), queries)
            found[f"{name}_milliseconds"] = 1000 * taken
        near, _ = loaded.nearest(asked, neighbours)
    exact, _ = Search(remembered).nearest(asked, neighbours)
    found["recall"] = float(np.mean([len(set(a) & set(b)) for a, b in zip(near, exact, strict=True)]) / neighbours)
    left = iter(asked[:10])
    found["exact_milliseconds"] = 1000 * median_seconds(
        lambda: Search(remembered).nearest(next(left)[None], neighbours), 10
    )
    found["graph"] = float(count >= LARGE and found["index_megabytes"] > 0)
    found["peak_gigabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return found


def main() -> None:
    """Measure one number of vectors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--neighbours", type=int, default=100)
    parser.add_argument("--queries", type=int, default=200)
    arguments = parser.parse_args()
    print(json.dumps(measured(arguments.count, arguments.neighbours, arguments.queries)))


if __name__ == "__main__":
    main()
