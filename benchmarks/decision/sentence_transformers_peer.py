"""Contender of `benchmarks.decision`: sentence-transformers, each query to the topic whose centroid is nearest.

python -m benchmarks.decision.sentence_transformers_peer ENCODER
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.decision.timed_worker import TOPICS, timed


def main() -> None:
    """Serve centroids of the topics' sentences."""
    torch.set_num_threads(1)
    model = SentenceTransformer(sys.argv[1], device="cpu")
    model.max_seq_length = 512  # its own 256 would cut the longest queries
    centroids = np.stack([model.encode(list(sentences)).mean(axis=0) for sentences in TOPICS.values()])

    def decide(texts: list[str]) -> list[int]:
        chosen: list[int] = (model.encode(texts) @ centroids.T).argmax(axis=1).tolist()
        return chosen

    timed(decide)


if __name__ == "__main__":
    main()
