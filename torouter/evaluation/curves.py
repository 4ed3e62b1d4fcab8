"""Curves of quality against cost, and the metrics that summarise a router over a whole range of prices.

A curve is two arrays of one length, the mean cost and the mean quality of each operating point.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from torouter.evaluation.metrics import Floats, mean_of

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Curve:
    """The operating points of one router on one set of queries, one per weight of cost.

    Attributes:
        weights: The weight of cost at each point, in quality per unit of cost; NaN for single experts.
        costs: Mean cost per query, in any one unit.
        qualities: Mean quality.
    """

    weights: NDArray[np.float64]
    costs: NDArray[np.float64]
    qualities: NDArray[np.float64]

    @classmethod
    def of_singles(cls, scores: Floats, costs: Floats) -> Self:
        """One point per expert, from its means on the queries."""
        k = scores.shape[1]
        return cls(np.full(k, NAN), costs.mean(axis=0, dtype=np.float64), scores.mean(axis=0, dtype=np.float64))

    def hull(self) -> Curve:
        """The non-decreasing upper convex hull, cheapest point first: the best that mixing points at random can reach.

        Over the single experts' points this is RouterBench's zero router (arXiv 2403.12031, section 3).
        """
        kept = self._on_hull()
        return Curve(self.weights[kept], self.costs[kept], self.qualities[kept])

    def mix_for(self, quality: float) -> NDArray[np.float64] | None:
        """The cheapest random mix that reaches `quality`, as a probability per point; None if no mix reaches it."""
        kept = self._on_hull()
        heights = self.qualities[kept]
        if quality > heights[-1]:
            return None
        mix = np.zeros(len(self.costs))
        # The share of each point: its unit vector, interpolated over the hull.
        mix[kept] = [np.interp(quality, heights, unit) for unit in np.eye(len(kept))]
        return mix

    def point_for(self, quality: float) -> int:
        """Position of the cheapest point that reaches `quality`, or of the best point if none does."""
        reach = self.qualities >= quality
        return int(np.where(reach, self.costs, np.inf).argmin() if reach.any() else self.qualities.argmax())

    def safe_point_for(self, quality: float) -> int:
        """Position of the last point before quality falls below `quality`, from the best point to higher weights.

        The cheapest point that reaches `quality` on few queries is often a lucky one, whose quality is not reproduced
        on others. Stopping at the first point below is fixed sequence testing (arXiv 2110.01052) without its margin. If
        the best point does not reach `quality`, it is chosen. The points must be in the order of their weights.
        """
        best = int(self.qualities.argmax())
        lost = np.flatnonzero(self.qualities[best:] < quality)
        return best + max(0, int(lost[0]) - 1) if len(lost) else len(self.qualities) - 1

    def _on_hull(self) -> list[int]:
        kept: list[int] = []
        # Of points of equal cost the best comes first, so that the others are skipped.
        for i in np.lexsort((-self.qualities, self.costs)):
            if kept and self.qualities[i] <= self.qualities[kept[-1]]:
                continue
            while len(kept) > 1 and self._slope(kept[-2], kept[-1]) <= self._slope(kept[-1], i):
                kept.pop()
            kept.append(int(i))
        return kept

    def _slope(self, left: int, right: int) -> float:
        return float((self.qualities[right] - self.qualities[left]) / (self.costs[right] - self.costs[left]))

    def aiq(self, low: float, high: float) -> float:
        """Average Improvement in Quality as the RouterBench paper defines it.

        (1 / (high - low)) times the integral of the non-decreasing hull over cost; flat beyond its dearest point, 0
        below its cheapest. `low` and `high` are the costs of the cheapest and the dearest single expert, so that all
        routers of a pool are compared over one range.
        """
        return self._area(low, high) / (high - low) if high > low else NAN

    def aiq_released(self, high: float) -> float:
        """AIQ as RouterBench's released code has it (`evaluation/AIQ.py`): the area divided by the dearest cost.

        The cost axis starts at 0, and the part below the hull's cheapest point counts as 0. `high` is the dearest
        point of all curves that are compared.
        """
        return self._area(0.0, high) / high if high > 0 else NAN

    def _area(self, low: float, high: float) -> float:
        hull = self.hull()
        start = max(low, float(hull.costs[0]))
        inside = hull.costs[(hull.costs > start) & (hull.costs < high)]
        at = np.concatenate([[start], inside, [high]])
        return float(np.trapezoid(np.interp(at, hull.costs, hull.qualities), at)) if high > start else 0.0

    def qnc(self, single_cost: float, single_quality: float) -> float:
        """Quality-neutral cost (UniRoute, arXiv 2502.08773): the least cost of a point at least as good as the best
        single expert, relative to that expert's cost; NaN where no point is.
        """
        as_good = self.qualities >= single_quality
        return float(self.costs[as_good].min() / single_cost) if as_good.any() and single_cost > 0 else NAN


def choices_at(scores: Floats, expected_costs: Floats, weight: float) -> NDArray[np.intp]:
    """argmax over the experts of score - weight * expected cost; an infinite weight takes the cheapest.

    This is the rule that RouterBench, CARROT and UniRoute share; UniRoute proves it optimal for true qualities.
    """
    values = -expected_costs if np.isinf(weight) else scores - weight * expected_costs
    choices: NDArray[np.intp] = values.argmax(axis=1)
    return choices


def sweep_weights(expected_costs: Floats, *, per_decade: int = 20) -> NDArray[np.float64]:
    """Cost weights from 0 (quality alone) to infinity (cost alone), evenly spaced on a log scale between.

    At the smallest the dearest expert's mean cost weighs 0.001 of a full score, at the largest 10,000 full scores,
    which still distinguishes experts whose costs lie four powers of ten below the dearest one's.
    """
    dearest = float(expected_costs.mean(axis=0).max()) or 1.0
    return np.concatenate([[0.0], np.logspace(-3, 4, 7 * per_decade + 1) / dearest, [np.inf]])


def sweep(
    predicted: Floats, expected_costs: Floats, scores: Floats, costs: Floats, weights: NDArray[np.float64]
) -> Curve:
    """The curve of a router whose scores are `predicted`, on recorded scores and costs; arrays are (n, k)."""
    points = []
    for weight in weights:
        choices = choices_at(predicted, expected_costs, float(weight))
        points.append((mean_of(costs, choices), mean_of(scores, choices)))
    costs_at, qualities_at = np.array(points).T
    return Curve(np.asarray(weights, dtype=np.float64), costs_at, qualities_at)


@dataclass(frozen=True, slots=True)
class PairCurve:
    """A weak and a strong expert: quality against the share of queries that go to the strong one.

    Attributes:
        shares: Share of strong calls, from 0 to 1.
        qualities: Mean quality at that share.
    """

    shares: NDArray[np.float64]
    qualities: NDArray[np.float64]

    @classmethod
    def of(cls, preference: Floats, weak: Floats, strong: Floats) -> Self:
        """The curve of sending the queries of the highest `preference` to the strong expert.

        Args:
            preference: How much the router prefers the strong expert, one value per query.
            weak: The weak expert's scores, one per query.
            strong: The strong expert's scores.
        """
        order = np.argsort(-preference, kind="stable")
        gains = np.cumsum((strong.astype(np.float64) - weak)[order])
        # Among queries of equal preference the curve is straight, which is its mean over random orders.
        ends = np.flatnonzero(np.append(np.diff(preference[order]) != 0, [True])) + 1
        qualities = weak.mean(dtype=np.float64) + np.concatenate([[0.0], gains[ends - 1]]) / len(order)
        return cls(np.concatenate([[0], ends]) / len(order), qualities)

    def pgr(self) -> NDArray[np.float64]:
        """Performance gap recovered at each share: (router - weak) / (strong - weak), RouteLLM (arXiv 2406.18665).

        NaN throughout where the strong expert is not the better one.
        """
        weak, strong = self.qualities[0], self.qualities[-1]
        return (self.qualities - weak) / (strong - weak) if strong > weak else np.full(len(self.shares), NAN)

    def apgr(self) -> float:
        """Mean of the gap recovered over all shares of strong calls; a random router has 0.5.

        RouteLLM's `evals/evaluate.py`: (area of the router - area of weak) / (area of strong - area of weak). It takes
        ten thresholds, this takes every one.
        """
        return float(np.trapezoid(self.pgr(), self.shares))

    def cpt(self, recovered: float) -> float:
        """Call-performance threshold, RouteLLM: the least share of strong calls that recovers this part of the gap.

        Linear between points. NaN where the strong expert is not the better one.
        """
        pgr = self.pgr()
        if np.isnan(pgr[0]):
            return NAN
        right = int((pgr >= recovered - 1e-12).argmax())
        if right == 0:
            return 0.0
        return float(np.interp(recovered, pgr[right - 1 : right + 1], self.shares[right - 1 : right + 1]))
