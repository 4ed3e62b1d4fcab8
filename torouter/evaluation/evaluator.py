"""Evaluates routers on an outcome table: which split each belongs to, its scores, and the replay of them."""

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
from torouter.evaluation.replay import Replay, Scored, replay
from torouter.outcomes.table import OutcomeTable
from torouter.routers.config import RouterConfig
from torouter.routers.judging import folds, routed_quality
from torouter.routers.router import Router
from torouter.training.data import validation_cut

BATCH = 256
TIMED = 100
"""Queries that are scored one by one to measure a decision's milliseconds."""
HINDSIGHT = "There is no train part: the best single expert and the weight of cost are picked in hindsight."


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """Mean qualities on one data set, for a router that was trained on all the others."""

    router: str
    dataset: str
    queries: int
    quality: float
    single: float
    """Of the expert that is best on the others."""
    random: float
    oracle: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All that a report says."""

    data_hash: str
    queries: int
    experts: tuple[str, ...]
    replays: tuple[Replay, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Split:
    """Train and test part of one split, and the routers that are replayed on it."""

    name: str | None
    train: OutcomeArrays
    test: OutcomeArrays
    table: OutcomeTable
    """The train part once more, to learn from."""
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
            part it was trained on, told by the hash in its checkpoint, and one that learnt nothing on all of them.
            Without a split the whole table is the test part, and what has to be picked is picked on it, in hindsight.
        pair: Weak and strong expert of APGR and CPT; by default the cheapest and the best of the train part.
        refits: By router's name, what makes such a router from outcomes. Its weight of cost is then picked on the whole
            train part, scored by `FOLDS` routers that each learnt the other folds, instead of on its validation part,
            which is small: the pick is steadier, at the price of `FOLDS` trainings for each split.
        left_out: Rows of `leave_one_dataset_out`, for the report.
        progress: Show a progress bar on standard error.

    Raises:
        ConfigurationError: There is no router, one does not know an expert of the table, one was trained on none of
            several splits, or the pair names an expert without a known cost.
        OutcomeTableError: A split is unknown or empty.
    """
    if not routers:
        raise ConfigurationError("routers: there is none to evaluate; give at least one")
    found = [_split(table, name) for name in splits or (None,)]
    notes = [] if splits else [HINDSIGHT]
    for name, router in routers:
        for split in _splits_of(name, router.config, found):
            validation, note = _validation_rows(name, router.config, split)
            split.jobs.append((name, router, validation))
            notes += [note] if note else []
    found = [split for split in found if split.jobs]
    total = sum(len(split.test) + int(validation.sum()) for split in found for *_, validation in split.jobs)
    replays = []
    with tqdm(total=total, desc="scoring", unit="query", disable=not progress) as bar:
        for split in found:
            scored = [_scored(name, router, split, validation, bar) for name, router, validation in split.jobs]
            scored = [_cross_fitted(one, split, refits[one.name]) if one.name in refits else one for one in scored]
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
    """Train on all data sets but one and judge on that one, for each of them.

    Args:
        table: Outcomes of at least two data sets.
        name: The router's name in the report.
        fit: Makes a router from outcomes.
        progress: Show a progress bar on standard error.

    Raises:
        OutcomeTableError: The table has a single data set.
    """
    datasets = sorted(set(table.datasets))
    if len(datasets) < 2:
        raise OutcomeTableError(f"column dataset: there is only {datasets[0]!r}; leaving one out needs two")
    rows = []
    for dataset in tqdm(datasets, desc=f"{name}, leaving out", unit="data set", disable=not progress):
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
        given = ", ".join(str(split.name) for split in splits)
        msg = f"router {name!r} was trained on the train part of none of {given}: give its own --split, or a single one"
        raise ConfigurationError(msg)
    return own


def _validation_rows(name: str, config: RouterConfig, split: _Split) -> tuple[NDArray[np.bool_], str | None]:
    """The train part's queries that the router did not learn from, and what the report must say about it."""
    everything = np.ones(len(split.train), dtype=bool)
    if config.data_hash is None:
        return everything, None
    if config.data_hash != split.train_hash:
        note = (
            "was trained on other data than this table's train part; whether that validation test queries is not known."
        )
        return everything, f"Router {name} {note}"
    if split.name is None:
        return everything, f"Router {name} was trained on this very table: its figures are in-sample."
    count, seed = config.training.get("validation_queries"), config.training.get("seed")
    if not count or seed is None:
        note = "keeps no record of its validation part: the weight of cost is picked on queries it learnt from."
        return everything, f"Router {name} {note}"
    _, rows = validation_cut(len(split.train), count, seed=seed)
    validation = np.zeros(len(split.train), dtype=bool)
    validation[rows] = True
    return validation, None


def _scored(name: str, router: Router, split: _Split, validation: NDArray[np.bool_], bar: tqdm[Any]) -> Scored:
    unknown = [expert for expert in split.test.experts if expert not in router.experts]
    if unknown:
        msg = f"router {name!r} does not know {', '.join(unknown)}: leave these out of the table, or add them to it"
        raise ConfigurationError(msg)
    experts, queries = split.test.experts, list(split.test.queries)
    _seconds(router, queries[:1])  # the first pass warms up
    singles = [_seconds(router, [query]) for query in queries[:TIMED]]
    began = time.perf_counter()
    test = _scores(router, queries, experts, bar)
    seconds = time.perf_counter() - began
    return Scored(
        name=name,
        test=test,
        validation=_scores(router, list(split.train.queries[validation]), experts, bar),
        validation_rows=validation,
        are_qualities=router.config.scores_are_qualities,
        milliseconds=(1000 * float(np.percentile(singles, 50)), 1000 * float(np.percentile(singles, 95))),
        queries_per_second=len(queries) / seconds,
    )


def _cross_fitted(scored: Scored, split: _Split, fit: Callable[[OutcomeTable], Router]) -> Scored:
    """The same with scores of the whole train part, each query's by a router that did not learn it."""
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
    """Shape (n, k), the columns in the order of `experts`."""
    columns = [router.config.position(expert) for expert in experts]
    found = np.empty((len(queries), len(experts)), dtype=np.float32)
    for start in range(0, len(queries), BATCH):
        batch = queries[start : start + BATCH]
        found[start : start + len(batch)] = router.scores(batch)[:, columns]
        if bar is not None:
            bar.update(len(batch))
    return found
