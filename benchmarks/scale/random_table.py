"""Makes random outcome tables of any size: texts that look like questions, experts that are good at some tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

TASKS = {
    "algebra": ("solve", "equation", "root", "factor", "matrix", "vector", "sum", "integer", "prime", "proof"),
    "code": ("python", "function", "loop", "list", "bug", "compile", "class", "index", "string", "recursion"),
    "history": ("king", "empire", "war", "treaty", "century", "revolution", "battle", "dynasty", "colony", "senate"),
    "law": ("contract", "court", "appeal", "statute", "liability", "plaintiff", "clause", "evidence", "tort", "trust"),
    "medicine": ("patient", "dose", "symptom", "artery", "infection", "therapy", "tumour", "blood", "nerve", "fever"),
    "physics": ("force", "energy", "charge", "field", "mass", "wave", "photon", "spin", "entropy", "orbit"),
    "translation": ("german", "french", "sentence", "verb", "idiom", "noun", "phrase", "tense", "word", "dialect"),
    "writing": ("poem", "letter", "story", "tone", "summary", "headline", "essay", "email", "speech", "review"),
}
"""By data set, the words that distinguish its queries from others."""
OPENINGS = ("What is", "Explain", "Please describe", "How can I find", "Write about", "Give an example of", "Why does")
FILLERS = ("the", "a", "of", "with", "and", "for", "in", "that", "given", "where", "between", "each", "most", "usual")
_CHUNK = 10_000  # queries
_ANSWERS = 2_000


def texts(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """`count` queries, no two alike, of 5 to 60 words, and the data set of each."""
    rng = np.random.default_rng(seed)
    names = tuple(TASKS)
    queries, datasets = [], []
    for number in range(count):
        dataset = names[number % len(names)]
        own = TASKS[dataset]
        length = int(np.clip(rng.lognormal(2.6, 0.6), 5, 60))
        draws = rng.integers(0, 10_000, length).tolist()
        words = [own[draw % 10] if draw % 3 else FILLERS[draw % len(FILLERS)] for draw in draws]
        queries.append(f"{OPENINGS[draws[0] % len(OPENINGS)]} {' '.join(words)} {number + seed * 1_000_000}?")
        datasets.append(dataset)
    return queries, datasets


def chunks(queries: int, experts: int, *, seed: int = 0) -> Iterator[pa.Table]:
    """The rows of an outcome table, all experts of some queries at a time.

    An expert's chance to be right depends on the expert and on the data set, the length of its answers on the expert.
    """
    rng = np.random.default_rng(seed)
    names = np.array([f"expert-{number:03}" for number in range(experts)])
    skill = np.clip(rng.normal(0.55, 0.1, experts) + rng.normal(0, 0.2, (len(TASKS), experts)), 0.02, 0.98)
    length, price = rng.uniform(50, 400, experts), np.geomspace(0.1, 10, experts)
    words = np.array([word for own in TASKS.values() for word in own])
    answers = np.array([" ".join(rng.choice(words, 150)) for _ in range(_ANSWERS)], dtype=object)
    every, datasets = texts(queries, seed)
    for start in range(0, queries, _CHUNK):
        part = slice(start, min(start + _CHUNK, queries))
        count = part.stop - part.start
        tasks = (np.arange(count) + start) % len(TASKS)
        output_tokens = 1 + rng.poisson(length, (count, experts)).ravel()
        input_tokens = np.array([len(text) // 4 for text in every[part]])
        prices = np.tile(price, count)
        ids = np.array([f"{dataset}/{start + n:07}" for n, dataset in enumerate(datasets[part])], dtype=object)
        yield pa.table(
            {
                "query_id": np.repeat(ids, experts),
                "dataset": np.repeat(np.array(datasets[part], dtype=object), experts),
                "query": np.repeat(np.array(every[part], dtype=object), experts),
                "expert": np.tile(names.astype(object), count),
                "response": rng.choice(answers, count * experts),
                "score": (rng.random((count, experts)) < skill[tasks]).ravel().astype(np.float64),
                "input_tokens": np.repeat(input_tokens, experts),
                "output_tokens": output_tokens,
                "cost_usd": prices * (np.repeat(input_tokens, experts) + 4 * output_tokens) / 1e6,
                "seconds": output_tokens / 50.0,
            }
        )


def write(path: Path, queries: int, experts: int, *, seed: int = 0) -> Path:
    """Write such a table chunk by chunk, so that any size fits into memory; an existing file is kept."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    writer = None
    for chunk in chunks(queries, experts, seed=seed):
        writer = writer or parquet.ParquetWriter(partial, chunk.schema, compression="zstd")
        writer.write_table(chunk)
    if writer is not None:
        writer.close()
    return partial.rename(path)
