"""From queries to outcomes, a trained router and its report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_type

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from torouter import (
    EncodedRouter,
    Evaluation,
    ExpertPool,
    OracleRouter,
    OutcomeMatrix,
    OutcomeTable,
    Pace,
    Query,
    RandomRouter,
    Router,
    Scorer,
    TrainingArguments,
    collect,
    evaluate,
    get_scorer,
    label,
    leave_one_dataset_out,
    read_queries,
    soft_labels,
    train,
    write_report,
)


async def collecting(experts: ExpertPool) -> OutcomeTable:
    queries = read_queries("queries.jsonl", columns={"query": "question"})
    assert_type(queries, tuple[Query, ...])
    table = await collect(experts, queries, "outcomes.parquet", nll=True, pace=Pace(concurrency=8))
    assert_type(table, OutcomeTable)
    return label(table, "exact", by_dataset={"gsm8k": lambda response, reference: float(response == reference)})


def scoring() -> None:
    scorer = get_scorer("bertsim", encoder="some/encoder")
    assert_type(scorer, Scorer)
    assert_type(scorer(["an answer"], ["its reference"]), Sequence[float])


def training(table: OutcomeTable, out: Path) -> Router:
    assert_type(table.matrix(), OutcomeMatrix)
    assert_type(table.frame, pd.DataFrame)
    assert_type(soft_labels(table.matrix().scores, form="divide", temperature=10), NDArray[np.float32])
    router = train(table, out=out, arguments=TrainingArguments(router="mlp", objective="soft"))
    assert_type(router, EncodedRouter)
    assert_type(router.features(["a query"]), NDArray[np.float32])
    TrainingArguments(router="svm")  # type: ignore[arg-type]
    train(table, out=out, epochs=3)  # type: ignore[call-arg]
    return router


def evaluating(table: OutcomeTable, router: Router) -> None:
    train_part, _ = table.split("standard:0")

    def fit(part: OutcomeTable) -> Router:
        return train(part, out="router")

    evaluation = evaluate(
        table,
        [("router", router), ("random", RandomRouter.of(table.experts)), ("oracle", OracleRouter.fit(table.matrix()))],
        splits=["standard:0"],
        left_out=leave_one_dataset_out(train_part, "router", fit),
    )
    assert_type(evaluation, Evaluation)
    assert_type(write_report(evaluation, "reports"), Path)
