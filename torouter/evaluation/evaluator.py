"""Evaluates routers on an outcome table: matches each with its split, scores the queries and replays the scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from torouter.errors import ConfigurationError, OutcomeTableError
from torouter.evaluation import metrics
from torouter.evaluation.metrics import Floats
from torouter.evaluation.outcome_arrays import OutcomeArrays
from torouter.evaluation.replay import Replay, RouterScores, replay
from torouter.outcomes.table import OutcomeTable
from torouter.routers.config import RouterConfig
from torouter.routers.judging import folds, routed_quality
from torouter.routers.router import Router
from torouter.training.data import validation_cut

BATCH = 256
TIMED = 100
"""Number of queries that are scored one by one to time a decision."""
HINDSIGHT = "Without a train part, the best single expert and the weight of cost are picked in hindsight."


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Mean qualities on one data set, for a router that was trained on all other data sets."""

    router: str
    dataset: str
    queries: int
    quality: float
    single: float
    """Of the expert that is best on the other data sets."""
    random: float
    oracle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """The contents of a report."""

    data_hash: str
    queries: int
    experts: tuple[str, ...]
    replays: tuple[Replay, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Split:
    """Train and test part of one split, and the routers that are replayed on it with their masks of validation rows."""

    name: str | None
    train: OutcomeArrays
    test: OutcomeArrays
    table: OutcomeTable
    """The train part, for `refits`."""
    train_hash: str
    jobs: list[tuple[str, Router, NDArray[np.bool_]]]


def evaluate(
    table: OutcomeTable,
    routers: Sequence[tuple[str, Router]],
    *,
    splits: Sequence[str] = (),
    pair: tuple[str, str] | None = None,
    refits: Mapping[str, Callable[[OutcomeTable], Router]] = MappingProxyType({}),
    left_out: Sequence[LeftOut] = (),
    progress: bool = False,
) -> Evaluation:
    """Replay routers on the test parts of a table.

    Routers of one name are one line of the report, with mean and standard deviation: give those of several seeds or
    splits one name.

    Args:
        table: Outcomes of every expert that the routers may choose.
        routers: Names and routers.
        splits: Such as ("standard:0", "standard:1"). Of several, a trained router is replayed on the one whose train
            part it was trained on, known by the hash in its checkpoint, and an untrained router on all. Without a split
            the whole table is the test part, and everything that has to be picked is picked on it in hindsight.
        pair: Weak and strong expert of APGR and CPT; by default the cheapest and the best of the train part.
        refits: By router's name, a function that trains such a router on outcomes. Its weight of cost is then picked on
            the whole train part, scored by `FOLDS` routers that were each trained on the other folds, instead of on
            its small validation part. The weight varies less, at the cost of `FOLDS` trainings per split.
        left_out: Rows of `leave_one_dataset_out`, for the report.
        progress: Show a progress bar on standard error.

    Raises:
        ConfigurationError: `routers` is empty, a router does not know an expert of the table or was trained on none of
            several splits, or the pair names an expert without a known cost.
        OutcomeTableError: A split is unknown or empty.
    """
    if not routers:
        raise ConfigurationError("routers is empty: give at least one to evaluate")
    parts = [_split(table, name) for name in splits or (None,)]
    notes = [] if splits else [HINDSIGHT]
    for name, router in routers:
        for split in _splits_of(name, router.config, parts):
            validation, note = _validation_rows(name, router.config, split)
            split.jobs.append((name, router, validation))
            notes += [note] if note else []
    parts = [split for split in parts if split.jobs]
    total = sum(len(split.test) + int(validation.sum()) for split in parts for *_, validation in split.jobs)
    replays = []
    with tqdm(total=total, desc="scoring", unit="query", disable=not progress) as bar:
        for split in parts:
            scored = [_score(name, router, split, validation, bar) for name, router, validation in split.jobs]
            scored = [_cross_fit(one, split, refits[one.name]) if one.name in refits else one for one in scored]
            replays.append(replay(split.train, split.test, scored, split=split.name, pair=pair))
    return Evaluation(
        data_hash=table.data_hash,
        queries=len(table),
        experts=table.experts,
        replays=tuple(replays),
        left_out=tuple(left_out),
        notes=tuple(dict.fromkeys(notes)),
    )


def leave_one_dataset_out(
    table: OutcomeTable, name: str, fit: Callable[[OutcomeTable], Router], *, progress: bool = False
) -> tuple[LeftOut, ...]:
    """Train on all data sets but one and evaluate on that one, for each data set.

    Args:
        table: Outcomes of at least two data sets.
        name: The router's name in the report.
        fit: Trains a router on outcomes.
        progress: Show a progress bar on standard error.

    Raises:
        OutcomeTableError: The table has only one data set.
    """
    datasets = sorted(set(table.datasets))
    if len(datasets) < 2:
        raise OutcomeTableError(f"column dataset: the table has only {datasets[0]!r}; leaving one out needs two")
    rows = []
    for dataset in tqdm(datasets, desc=f"{name}, leave one out", unit="data set", disable=not progress):
        others = table.subset(datasets=[other for other in datasets if other != dataset])
        outcomes = table.subset(datasets=[dataset]).matrix()
        router = fit(others)
        predicted = _scores(router, outcomes.queries, outcomes.experts)
        single = metrics.best_single(others.matrix().scores)
        rows.append(
            LeftOut(
                router=name,
                dataset=dataset,
                queries=len(outcomes),
                quality=routed_quality(predicted, outcomes.scores.astype(np.float64)),
                single=float(outcomes.scores[:, single].mean(dtype=np.float64)),
                random=metrics.random_mean(outcomes.scores),
                oracle=metrics.mean_of(outcomes.scores, metrics.oracle_choices(outcomes.scores)),
            )
        )
    return tuple(rows)


def _split(table: OutcomeTable, name: str | None) -> _Split:
    train, test = table.split(name) if name else (table, table)
    part = OutcomeArrays.of(train)
    return _Split(name, part, OutcomeArrays.of(test) if name else part, train, train.data_hash, [])


def _splits_of(name: str, config: RouterConfig, splits: Sequence[_Split]) -> list[_Split]:
    if config.data_hash is None or len(splits) == 1:
        return list(splits)
    own = [split for split in splits if split.train_hash == config.data_hash]
    if not own:
        names = ", ".join(str(split.name) for split in splits)
        msg = f"router {name!r} was trained on the train part of none of {names}: give its own --split, or a single one"
        raise ConfigurationError(msg)
    return own


def _validation_rows(name: str, config: RouterConfig, split: _Split) -> tuple[NDArray[np.bool_], str | None]:
    """Mask of the train part's queries that the router was not trained on, and a note for the report if in doubt."""
    everything = np.ones(len(split.train), dtype=bool)
    if config.data_hash is None:
        return everything, None
    if config.data_hash != split.train_hash:
        note = "was trained on other data than this table's train part; whether that includes test queries is unknown."
        return everything, f"Router {name} {note}"
    if split.name is None:
        return everything, f"Router {name} was trained on this very table: its figures are in-sample."
    count, seed = config.training.get("validation_queries"), config.training.get("seed")
    if not count or seed is None:
        note = "has no record of its validation part: the weight of cost is picked on its training queries."
        return everything, f"Router {name} {note}"
    _, rows = validation_cut(len(split.train), count, seed=seed)
    validation = np.zeros(len(split.train), dtype=bool)
    validation[rows] = True
    return validation, None


def _score(name: str, router: Router, split: _Split, validation: NDArray[np.bool_], bar: tqdm[Any]) -> RouterScores:
    unknown = [expert for expert in split.test.experts if expert not in router.experts]
    if unknown:
        msg = f"router {name!r} does not know {', '.join(unknown)}: drop them from the table, or add them to the router"
        raise ConfigurationError(msg)
    experts, queries = split.test.experts, list(split.test.queries)
    _seconds(router, queries[:1])  # the first pass is slower
    singles = [_seconds(router, [query]) for query in queries[:TIMED]]
    began = time.perf_counter()
    test = _scores(router, queries, experts, bar)
    seconds = time.perf_counter() - began
    return RouterScores(
        name=name,
        test=test,
        validation=_scores(router, list(split.train.queries[validation]), experts, bar),
        validation_rows=validation,
        are_qualities=router.config.scores_are_qualities,
        milliseconds=(1000 * float(np.percentile(singles, 50)), 1000 * float(np.percentile(singles, 95))),
        queries_per_second=len(queries) / seconds,
    )


def _cross_fit(scored: RouterScores, split: _Split, fit: Callable[[OutcomeTable], Router]) -> RouterScores:
    """The same with scores of the whole train part, each query's by a router that was not trained on it."""
    train, experts = split.train, split.train.experts
    validation = np.empty((len(train), len(experts)), dtype=np.float32)
    for rows in folds(len(train)):
        router = fit(split.table.subset(query_ids=[str(i) for i in train.ids[~rows]]))
        validation[rows] = _scores(router, list(train.queries[rows]), experts)
    return replace(scored, validation=validation, validation_rows=np.ones(len(train), dtype=bool))


def _seconds(router: Router, queries: Sequence[str]) -> float:
    began = time.perf_counter()
    router.scores(queries)
    return time.perf_counter() - began


def _scores(router: Router, queries: Sequence[str], experts: Sequence[str], bar: tqdm[Any] | None = None) -> Floats:
    """The router's scores, shape (n, k), with the columns in the order of `experts`."""
    columns = [router.config.position(expert) for expert in experts]
    scores = np.empty((len(queries), len(experts)), dtype=np.float32)
    for start in range(0, len(queries), BATCH):
        batch = queries[start : start + BATCH]
        scores[start : start + len(batch)] = router.scores(batch)[:, columns]
        if bar is not None:
            bar.update(len(batch))
    return scores
