"""The cost part of a replay: the experts with known costs, on the queries for which all of them have one.

All contenders are thus compared on the same queries. A table without costs has no cost part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import ConfigurationError
from torouter.evaluation import metrics
from torouter.evaluation.curves import NAN, Curve, PairCurve, sweep, sweep_weights
from torouter.evaluation.metrics import Choices, Floats
from torouter.evaluation.outcome_arrays import OutcomeArrays, complete_rows, expected_costs

KEPT = 0.99
"""Share of the best single expert's quality that must be kept when saved cost is measured."""
PRICED = 0.9
"""Least share of the queries with any known cost on which an expert's cost must be known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPart:
    """The priced experts' outcomes on the priced queries of train and test part.

    Attributes:
        columns: Mask of the priced ones among all experts.
        train_rows: Mask of the priced ones among the train part's queries.
        test_rows: The same for the test part.
        train: The outcomes of `train_rows` and `columns`.
        test: The outcomes of `test_rows` and `columns`.
        single: Column of the expert that is best on `train`.
        pair: Columns of the weak and the strong expert of APGR and CPT.
        weights: Weights of cost that a curve sweeps, in quality per USD per 1,000 queries.
    """

    columns: NDArray[np.bool_]
    train_rows: NDArray[np.bool_]
    test_rows: NDArray[np.bool_]
    train: OutcomeArrays
    test: OutcomeArrays
    single: int
    pair: tuple[int, int]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, train: OutcomeArrays, test: OutcomeArrays, *, pair: tuple[str, str] | None = None) -> Self | None:
        """The cost part, None if costs are unknown; `pair` is by default the cheapest and the best expert.

        Raises:
            ConfigurationError: The pair names an expert without a known cost.
        """
        known = ~np.isnan(train.costs)
        columns = np.asarray(known.sum(axis=0) >= max(1.0, PRICED * known.any(axis=1).sum()))
        train_rows, test_rows = complete_rows(train.costs[:, columns]), complete_rows(test.costs[:, columns])
        if columns.sum() < 2 or not train_rows.any() or not test_rows.any():
            return None
        train, test = train.columns(columns).rows(train_rows), test.columns(columns).rows(test_rows)
        single = metrics.best_single(train.scores)
        cheapest = int(train.costs.mean(axis=0, dtype=np.float64).argmin())
        for name in pair or ():
            if name not in test.experts:
                raise ConfigurationError(f"pair: {name!r} has no known cost; take two of {', '.join(test.experts)}")
        return cls(
            columns=columns,
            train_rows=train_rows,
            test_rows=test_rows,
            train=train,
            test=test,
            single=single,
            pair=(test.experts.index(pair[0]), test.experts.index(pair[1])) if pair else (cheapest, single),
            weights=sweep_weights(expected_costs(train, train)),
        )

    def of_choices(self, choices: Choices) -> dict[str, float]:
        """Cost and quality of the chosen experts, one column of this part per priced query."""
        return self._at(metrics.mean_of(self.test.costs, choices), metrics.mean_of(self.test.scores, choices))

    def of_expert(self, column: int) -> dict[str, float]:
        """Cost and quality of one expert that answers all queries."""
        return self.of_choices(np.full(len(self.test), column))

    def of_oracle(self) -> dict[str, float]:
        """Cost and quality of the cheapest among each query's best experts."""
        return self.of_choices(metrics.oracle_choices(self.test.scores, self.test.costs))

    def of_random(self) -> dict[str, float]:
        """Expected cost and quality of random choices."""
        return self._at(metrics.random_mean(self.test.costs), metrics.random_mean(self.test.scores))

    def of_zero_router(self) -> dict[str, float]:
        """Random mixes of single experts: their hull on the test part, and the mix that is picked on the train part."""
        singles, train = self._singles(self.test), self._singles(self.train)
        mix = train.mix_for(KEPT * float(train.qualities[self.single]))
        assert mix is not None  # the best expert alone reaches it
        hindsight = singles.mix_for(KEPT * self._single_quality)
        assert hindsight is not None
        return {
            **self._of_curve(singles.hull()),
            **self._saved(float(mix @ singles.costs), float(mix @ singles.qualities)),
            "saved_hindsight": metrics.cost_saved(float(hindsight @ singles.costs), self._single_cost),
        }

    def of_router(
        self, scores: Floats, validation_scores: Floats, validation_rows: NDArray[np.bool_]
    ) -> tuple[dict[str, float], Curve]:
        """A router's metrics, by key, and its curve.

        Args:
            scores: Its scores of all experts on the whole test part.
            validation_scores: Its scores of all experts on the queries on which the weight of cost is picked.
            validation_rows: Mask of these queries in the whole train part.
        """
        scores = scores[self.test_rows][:, self.columns]
        curve = sweep(scores, expected_costs(self.train, self.test), self.test.scores, self.test.costs, self.weights)
        weak, strong = self.pair
        pair = PairCurve.of(scores[:, strong] - scores[:, weak], self.test.scores[:, weak], self.test.scores[:, strong])
        values = {
            **self.of_choices(scores.argmax(axis=1)),
            **self._of_curve(curve),
            "apgr": pair.apgr(),
            "cpt_50": pair.cpt(0.5),
            "cpt_80": pair.cpt(0.8),
        }
        validation = self.train.rows(validation_rows[self.train_rows])
        if len(validation):
            validation_curve = sweep(
                validation_scores[self.train_rows[validation_rows]][:, self.columns],
                expected_costs(self.train, validation),
                validation.scores,
                validation.costs,
                self.weights,
            )
            point = validation_curve.safe_point_for(
                KEPT * float(validation.scores[:, self.single].mean(dtype=np.float64))
            )
            values |= self._saved(float(curve.costs[point]), float(curve.qualities[point]))
            values["price_weight"] = float(self.weights[point])
        return values, curve

    def _singles(self, part: OutcomeArrays) -> Curve:
        return Curve.of_singles(part.scores, part.costs)

    @property
    def _single_cost(self) -> float:
        return float(self.test.costs[:, self.single].mean(dtype=np.float64))

    @property
    def _single_quality(self) -> float:
        return float(self.test.scores[:, self.single].mean(dtype=np.float64))

    def _at(self, cost: float, quality: float) -> dict[str, float]:
        return {"cost": cost, "total_cost": cost * len(self.test) / 1000, "priced_quality": quality}

    def _saved(self, cost: float, quality: float) -> dict[str, float]:
        single = self._single_quality
        return {
            "saved": metrics.cost_saved(cost, self._single_cost),
            "kept": quality / single if single > 0 else NAN,
        }

    def _of_curve(self, curve: Curve) -> dict[str, float]:
        singles = self._singles(self.test)
        low, high = float(singles.costs.min()), float(singles.costs.max())
        point = curve.point_for(KEPT * self._single_quality)
        reached = curve.qualities[point] >= KEPT * self._single_quality
        return {
            "aiq": curve.aiq(low, high),
            "aiq_released": curve.aiq_released(high),
            "qnc": curve.qnc(self._single_cost, self._single_quality),
            "saved_hindsight": metrics.cost_saved(float(curve.costs[point]), self._single_cost) if reached else NAN,
        }
