"""Contender of `benchmarks.decision`: semantic-router over eight routes, encoded by transformers on this machine.

python -m benchmarks.decision.semantic_router_peer ENCODER
"""

from __future__ import annotations

import sys

import torch
from semantic_router import IndexedRouter, Route  # type: ignore[import-not-found]  # in an environment of its own
from semantic_router.encoders import HuggingFaceEncoder  # type: ignore[import-not-found]

from benchmarks.decision.timed_worker import TOPICS, timed


def main() -> None:
    """Serve the router over its own index in memory."""
    torch.set_num_threads(1)
    routes = [Route(name=name, utterances=list(sentences)) for name, sentences in TOPICS.items()]
    router = IndexedRouter(HuggingFaceEncoder(name=sys.argv[1]), routes)
    timed(lambda texts: router(texts[0]), batches=False)


if __name__ == "__main__":
    main()
