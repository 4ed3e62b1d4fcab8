"""Makes queries of an exact length, and trains routers to time where the user gives none."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import pandas as pd
from tokenizers import Tokenizer
from transformers import AutoConfig

from benchmarks.decision.timed_worker import TOPICS
from benchmarks.harness.contenders import ROOT
from torouter import cli
from torouter.outcomes.table import OutcomeTable


def add_arguments(parser: argparse.ArgumentParser, kinds: str) -> None:
    """Add the options for the encoder, the routers of these kinds, and the reports."""
    parser.add_argument("--encoder", metavar="DIR", help="default: all-MiniLM-L6-v2 of its package")
    parser.add_argument(
        "--routers",
        type=Path,
        default=ROOT / "build" / "routers",
        metavar="DIR",
        help=f"checkpoints in folders named {kinds}; missing ones are trained",
    )
    parser.add_argument("--out", type=Path, default=ROOT / "reports", metavar="DIR", help="where the figures go")


class Texts:
    """Queries of words that are one token each.

    Raises:
        SystemExit: The encoder's vocabulary has no such words.
    """

    def __init__(self, encoder: Path, seed: int = 0) -> None:
        tokenizer = Tokenizer.from_file(str(encoder / "tokenizer.json"))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._random = tokenizer, random.Random(seed)
        words = sorted(word for word in tokenizer.get_vocab() if word.isascii() and word.isalpha() and word.islower())
        self._words = [word for word in words if len(word) > 1 and len(self._ids(word)) == 3]
        if not self._words:
            raise SystemExit(f"{encoder}: its vocabulary has no lower-case words to make queries of")

    def text(self, tokens: int) -> str:
        """A query of exactly this many tokens, [CLS] and [SEP] included.

        Raises:
            SystemExit: The tokenizer counts differently.
        """
        text = " ".join(self._random.choices(self._words, k=tokens - 2))
        if len(self._ids(text)) != tokens:
            raise SystemExit(f"--tokens {tokens}: the tokenizer makes {len(self._ids(text))} of {text!r}")
        return text

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


def prepare(kind: str, routers: Path, encoder: Path, *, queries: int = 1000, max_length: int = 512) -> Path:
    """The directory of a router of a kind for the experts of `TOPICS`; it is trained if it is missing.

    Each expert is good at queries with a few words of its own, which is learnt quickly: the time of a decision does not
    depend on what a router has learnt.

    Args:
        kind: "bert", "mlp", "knn" or "fast".
        routers: Directory whose folders are named after kinds.
        encoder: Directory of the encoder.
        queries: How many to train on; a KNNRouter searches its neighbours among them.
        max_length: Tokens of a query that the router reads.

    Raises:
        SystemExit: Training has failed.
    """
    directory = routers / kind
    if (directory / "router.json").exists():
        return directory
    routers.mkdir(parents=True, exist_ok=True)
    file = routers / "outcomes.parquet"
    _outcomes(Texts(encoder, seed=1), queries).write(file)
    arguments = ["train", str(file), "--router", kind, "--out", str(directory), "--no-progress"]
    arguments += ["--encoder", str(encoder), "--max-length", str(max_length)]
    if kind == "fast":
        teacher = prepare("bert", routers, encoder, queries=queries, max_length=max_length)
        arguments += ["--teacher", str(teacher)]
    if kind == "bert":
        layers = AutoConfig.from_pretrained(encoder).num_hidden_layers
        arguments += ["--epochs", "1", "--frozen-layers", str(layers)]
    if cli.main(arguments):
        raise SystemExit(f"torouter {' '.join(arguments)} has failed")
    return directory


def _outcomes(texts: Texts, queries: int) -> OutcomeTable:
    draw, rows = random.Random(0), []
    words = {expert: [texts.text(3) for _ in range(20)] for expert in TOPICS}
    for number in range(queries):
        good = draw.choice(list(TOPICS))
        query = " ".join(draw.choices(words[good], k=draw.randint(6, 40)))
        rows += [
            {"query_id": f"{number:05}", "dataset": good, "query": query, "expert": name, "score": float(name == good)}
            for name in TOPICS
        ]
    return OutcomeTable(pd.DataFrame(rows))
