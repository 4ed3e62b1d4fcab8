"""Contender of `benchmarks.decision`: LlamaIndex's EmbeddingSingleSelector over eight tools.

python -m benchmarks.decision.llamaindex_selector ENCODER
"""

from __future__ import annotations

import sys

import torch
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.tools import ToolMetadata
from llama_index.embeddings.huggingface import HuggingFaceEmbedding  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.decision.timed_worker import TOPICS, timed


def main() -> None:
    """Serve the selector, which embeds every tool's description for every query."""
    torch.set_num_threads(1)
    selector = EmbeddingSingleSelector.from_defaults(HuggingFaceEmbedding(sys.argv[1], max_length=512, device="cpu"))
    tools = [ToolMetadata(name=name, description=" ".join(sentences)) for name, sentences in TOPICS.items()]
    timed(lambda texts: selector.select(tools, texts[0]), batches=False)


if __name__ == "__main__":
    main()
