"""Contender of `benchmarks.decision`: the same checkpoint as transformers serves it, in torch, tokenizer included.

python -m benchmarks.decision.torch_peer ROUTER ENCODER
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.decision.timed_worker import timed


def main() -> None:
    """Serve the checkpoint as its users do: eager torch, transformers' own choice of attention."""
    directory, _ = sys.argv[1:]
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(directory).eval()

    @torch.inference_mode()
    def decide(texts: list[str]) -> list[int]:
        encoded = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        chosen: list[int] = model(**encoded).logits.argmax(dim=1).tolist()
        return chosen

    timed(decide)


if __name__ == "__main__":
    main()
