"""A real but tiny BERT, and an outcome table that it learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from torouter.outcomes.table import OutcomeTable
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.training.arguments import TrainingArguments

WORDS = {
    "code": ("python", "function", "loop", "compile", "bug"),
    "facts": ("river", "capital", "king", "planet", "war"),
    "math": ("sum", "product", "seven", "divide", "root"),
}
EXPERTS = tuple(WORDS)
QUERIES = tuple(f"please {words[0]} {words[1]} {words[2]} now" for words in WORDS.values())
"""One query of each expert's own domain, in the order of `EXPERTS`."""


def write_encoder(directory: Path) -> Path:
    """A BERT of two layers with random weights, and a tokenizer that knows the words above."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    special = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    words = (*special, "please", "now", *(word for group in WORDS.values() for word in group))
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(directory)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    ).save_pretrained(directory)
    return directory


def frame(count: int = 240, experts: tuple[str, ...] = EXPERTS) -> pd.DataFrame:
    """Outcomes of `count` queries: each expert is right in its own domain and mostly wrong elsewhere."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        domain = EXPERTS[number % 3]
        words = " ".join(rng.choice(WORDS[domain], size=int(rng.integers(3, 9))))
        rows += [
            {
                "query_id": f"{domain}/{number:04}",
                "dataset": domain,
                "query": f"please {words} now {number}",
                "expert": expert,
                "score": 0.9 if expert == domain else 0.2 if rng.random() < 0.8 else 0.6,
                "output_tokens": 10 * (1 + EXPERTS.index(domain)),
                "cost_usd": 0.001,
            }
            for expert in experts
        ]
    return pd.DataFrame(rows)


def table(count: int = 240) -> OutcomeTable:
    """The checked table of `frame`."""
    return OutcomeTable(frame(count))


def everything(outcomes: OutcomeMatrix) -> OutcomeMatrix:
    """The same queries with one more expert, `all`, that is middling everywhere."""
    column = np.full((len(outcomes), 1), 0.5, dtype=np.float32)
    return OutcomeMatrix(outcomes.queries, (*outcomes.experts, "all"), np.hstack([outcomes.scores, column]))


def training_arguments(encoder: Path, **options: object) -> TrainingArguments:
    """Arguments of a training that takes seconds."""
    defaults = {
        # Slow enough for a random BERT to converge from any seed and on any processor.
        "epochs": 12,
        "patience": 12,
        "learning_rate": 5e-4 if options.get("router", "bert") == "bert" else 3e-3,
        "head_learning_rate": 1e-3,
        "layer_decay": 1.0,
        "batch_size": 16,
        "max_length": 16,
        "neighbours": 20,
        "outcome_weight": 1.0,
    }
    return TrainingArguments(**{"encoder": str(encoder), "progress": False, **defaults, **options})  # type: ignore[arg-type]


def trained(arguments: TrainingArguments, directory: Path) -> Path:
    """Train on the table above into an empty directory."""
    from torouter.training.trainer import train

    train(table(), out=directory, arguments=arguments)
    return directory
