"""Replays routers on recorded outcomes: the metrics of their choices, beside those of every baseline and expert."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from torouter.evaluation import metrics
from torouter.evaluation.curves import Curve
from torouter.evaluation.metrics import Choices, Floats, Reliability
from torouter.evaluation.outcome_arrays import OutcomeArrays, complete_rows
from torouter.evaluation.pricing import CostPart

Role = Literal["router", "baseline", "expert"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterScores:
    """The scores of one router, and how long scoring took.

    Attributes:
        test: Scores on the test part, shape (n, k).
        validation: Scores on the train part's queries on which the weight of cost is picked, shape (m, k).
        validation_rows: Mask of these queries in the train part.
        are_qualities: Whether a score estimates the expert's quality, so that its calibration can be measured.
        milliseconds: Median and 95th percentile of the time per query, scored one by one.
        queries_per_second: When scored in batches.
    """

    name: str
    test: Floats
    validation: Floats
    validation_rows: NDArray[np.bool_]
    are_qualities: bool
    milliseconds: tuple[float, float]
    queries_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A router, a baseline or a single expert on one test part.

    Attributes:
        metrics: By the keys of `metric_specs`; NaN if a metric is not defined, absent if the table lacks its data.
        shares: Share of each data set's queries (rows) that each expert (columns) gets.
        curve: Cost in USD per 1,000 queries against quality.
    """

    name: str
    role: Role
    metrics: Mapping[str, float]
    shares: NDArray[np.float64] | None = None
    curve: Curve | None = None
    reliability: Reliability | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """All contenders on one split.

    Attributes:
        split: Such as "standard:0"; None if the whole table is the test part, without a train part.
        single: The expert that is best on the train part.
        pair: Weak and strong expert of APGR and CPT; None without a cost part.
        priced_queries: Number of queries of the cost part, 0 without one.
    """

    split: str | None
    train_queries: int
    test_queries: int
    priced_queries: int
    priced_experts: tuple[str, ...]
    datasets: tuple[str, ...]
    single: str
    pair: tuple[str, str] | None
    contenders: tuple[Contender, ...]


def replay(
    train: OutcomeArrays,
    test: OutcomeArrays,
    routers: Sequence[RouterScores],
    *,
    split: str | None = None,
    pair: tuple[str, str] | None = None,
) -> Replay:
    """Evaluate routers on `test`; best single expert, expected costs and weights are picked on `train`.

    Args:
        train: Outcomes to pick on; `test` itself if there are no others.
        test: Outcomes to evaluate on.
        routers: The routers' scores on both.
        split: Name of the split, for the report.
        pair: Weak and strong expert of APGR and CPT; by default the cheapest and the best of the train part.

    Raises:
        ConfigurationError: The pair names an expert without a known cost.
    """
    single = metrics.best_single(train.scores)
    cost = CostPart.of(train, test, pair=pair)
    part = _TestPart.of(test, single)
    contenders = [_router(router, part, cost) for router in routers]
    contenders += [
        Contender(name="random", role="baseline", metrics=part.random_metrics() | (cost.of_random() if cost else {})),
        part.contender("best single", "baseline", part.always(single), cost.of_expert(cost.single) if cost else {}),
        part.contender("oracle", "baseline", part.oracle, cost.of_oracle() if cost else {}),
    ]
    if cost:
        contenders.append(Contender(name="zero router", role="baseline", metrics=cost.of_zero_router()))
    for column, name in enumerate(test.experts):
        priced = cost.of_expert(cost.test.experts.index(name)) if cost and name in cost.test.experts else {}
        contenders.append(part.contender(name, "expert", part.always(column), priced))
    return Replay(
        split=split,
        train_queries=len(train) if split else 0,
        test_queries=len(test),
        priced_queries=len(cost.test) if cost else 0,
        priced_experts=cost.test.experts if cost else (),
        datasets=part.datasets,
        single=test.experts[single],
        pair=(cost.test.experts[cost.pair[0]], cost.test.experts[cost.pair[1]]) if cost else None,
        contenders=tuple(contenders),
    )


@dataclass(frozen=True, slots=True)
class _TestPart:
    """The test part with all that every contender's metrics need of it.

    Attributes:
        groups: Each query's position in `datasets`.
        oracle: The oracle's choices.
        single_quality: Quality of the best single expert.
        timed: Mask of the queries with known seconds of every expert.
        counted: Mask of those with known seconds and output tokens.
        with_nll: Mask of those with known negative log-likelihoods.
    """

    test: OutcomeArrays
    datasets: tuple[str, ...]
    groups: NDArray[np.intp]
    oracle: NDArray[np.intp]
    single_quality: float
    timed: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    with_nll: NDArray[np.bool_]

    @classmethod
    def of(cls, test: OutcomeArrays, single: int) -> _TestPart:
        datasets, groups = np.unique(test.datasets, return_inverse=True)
        return cls(
            test=test,
            datasets=tuple(map(str, datasets)),
            groups=groups,
            oracle=metrics.oracle_choices(test.scores, test.costs),
            single_quality=float(test.scores[:, single].mean(dtype=np.float64)),
            timed=complete_rows(test.seconds),
            counted=complete_rows(test.seconds, test.output_tokens),
            with_nll=complete_rows(test.nll),
        )

    def always(self, column: int) -> NDArray[np.intp]:
        return np.full(len(self.test), column)

    def contender(self, name: str, role: Role, choices: Choices, more: Mapping[str, float]) -> Contender:
        test = self.test
        values = self._of_quality(metrics.mean_of(test.scores, choices))
        if self.timed.any():
            values["seconds"] = metrics.mean_of(test.seconds[self.timed], choices[self.timed])
        if (rows := self.counted).any():
            values["tokens_per_second"] = metrics.tokens_per_second(
                test.output_tokens[rows], test.seconds[rows], choices[rows]
            )
        if self.with_nll.any():
            values["nll"] = metrics.mean_of(test.nll[self.with_nll], choices[self.with_nll])
        shares = metrics.routing_shares(choices, self.groups, len(test.experts))
        return Contender(name=name, role=role, metrics={**values, **more}, shares=shares)

    def random_metrics(self) -> dict[str, float]:
        test = self.test
        values = self._of_quality(metrics.random_mean(test.scores))
        if self.timed.any():
            values["seconds"] = metrics.random_mean(test.seconds[self.timed])
        if (rows := self.counted).any():
            tokens, seconds = metrics.random_mean(test.output_tokens[rows]), metrics.random_mean(test.seconds[rows])
            values["tokens_per_second"] = tokens / seconds if seconds > 0 else float("nan")
        if self.with_nll.any():
            values["nll"] = metrics.random_mean(test.nll[self.with_nll])
        return values

    def _of_quality(self, quality: float) -> dict[str, float]:
        oracle = metrics.mean_of(self.test.scores, self.oracle)
        return {
            "quality": quality,
            "gain": quality - self.single_quality,
            "gap_closed": metrics.gap_closed(quality, self.single_quality, oracle),
        }


def _router(router: RouterScores, part: _TestPart, cost: CostPart | None) -> Contender:
    values = {
        "milliseconds": router.milliseconds[0],
        "milliseconds_95": router.milliseconds[1],
        "queries_per_second": router.queries_per_second,
    }
    curve = reliability = None
    if cost:
        priced, curve = cost.of_router(router.test, router.validation, router.validation_rows)
        values |= priced
    if router.are_qualities:
        reliability = metrics.reliability(router.test, part.test.scores)
        values |= {"ece": reliability.ece, "brier": metrics.brier(router.test, part.test.scores)}
    contender = part.contender(router.name, "router", router.test.argmax(axis=1), values)
    return replace(contender, curve=curve, reliability=reliability)
