"""What the examples share: real experts on this machine, a router trained on their outcomes, and test questions.

The experts are three roles of SmolLM2-135M behind llama.cpp's own server (see data/experts.yaml). So small a model is
often wrong: the examples show how routing works, not what good experts are worth.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

from torouter import (
    AutoRouter,
    EncodedRouter,
    ExpertPool,
    OutcomeTable,
    TrainingArguments,
    get_scorer,
    read_queries,
    train,
)
from torouter.demo import smollm2_server

HERE = Path(__file__).resolve().parent
ROUTER = Path(os.environ.get("TOROUTER_EXAMPLES_ROUTER", HERE / "router"))
"""Directory of the examples' router; only the first run trains it."""
SPLIT = "standard:0"
"""The router is trained on the train part of this split; the examples ask questions of the test part."""


@contextmanager
def local_experts() -> Iterator[ExpertPool]:
    """The experts of data/experts.yaml, served on loopback until the block ends."""
    described = ExpertPool.from_yaml(HERE / "data" / "experts.yaml")
    with smollm2_server() as url:
        yield ExpertPool([replace(expert, url=url, urls=()) for expert in described.values()])


def local_router() -> EncodedRouter:
    """A KNNRouter on all-MiniLM-L6-v2, trained in some seconds when it is first asked for."""
    if not ROUTER.is_dir():
        learnt, _ = OutcomeTable.read(HERE / "data" / "outcomes.parquet").split(SPLIT)
        train(learnt, out=ROUTER, arguments=TrainingArguments(router="knn", neighbours=50, progress=False))
    router = AutoRouter.from_pretrained(ROUTER)
    assert isinstance(router, EncodedRouter)
    return router


@dataclass(frozen=True, slots=True)
class Question:
    """A question with a known answer."""

    text: str
    kind: str
    reference: str
    scorer: str

    def score(self, answer: str) -> float:
        """1 for a right answer, 0 for a wrong one. Code is run against its tests, in a separate, limited process."""
        return get_scorer(self.scorer, allow_code=True)([answer], [self.reference])[0]


def unseen_questions(count: int) -> list[Question]:
    """Questions that the router was not trained on, of each kind in turn."""
    _, held = OutcomeTable.read(HERE / "data" / "outcomes.parquet").split(SPLIT)
    unseen = set(held.query_ids)
    by_kind: dict[str, list[Question]] = {}
    for query in read_queries(HERE / "data" / "queries.jsonl"):
        if query.query_id in unseen and query.reference is not None and query.scorer is not None:
            question = Question(query.query, query.dataset, query.reference, query.scorer)
            by_kind.setdefault(query.dataset, []).append(question)
    in_turn = chain.from_iterable(zip_longest(*by_kind.values()))
    return [question for question in in_turn if question is not None][:count]
