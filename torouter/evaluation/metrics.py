"""Metrics of a choice of experts on recorded outcomes; each is a pure function of arrays.

Throughout, n queries meet k experts: `scores` and `costs` have shape (n, k), `choices` holds n column numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Choices = NDArray[np.integer]


def chosen(values: Floats, choices: Choices) -> NDArray[np.float64]:
    """The value of the chosen expert for each query, shape (n,)."""
    return values[np.arange(len(choices)), choices].astype(np.float64)


def mean_of(values: Floats, choices: Choices) -> float:
    """Mean over the queries of the chosen expert's value: quality of scores, USD per query of costs, and so on."""
    return float(chosen(values, choices).mean())


def total_of(values: Floats, choices: Choices) -> float:
    """Sum over the queries of the chosen expert's value, such as the total cost in USD."""
    return float(chosen(values, choices).sum())


def random_mean(values: Floats) -> float:
    """Expected mean of choosing uniformly at random: the mean of all cells."""
    return float(values.mean(dtype=np.float64))


def best_single(scores: Floats) -> int:
    """The expert of the highest mean score, the first of equals; to be picked on a train part, not on the test part."""
    return int(scores.mean(axis=0, dtype=np.float64).argmax())


def oracle_choices(scores: Floats, costs: Floats | None = None) -> NDArray[np.intp]:
    """The cheapest expert among those with the query's best score; without costs the first of them.

    This is RouterBench's oracle (arXiv 2403.12031): where no expert is right, it takes the cheapest of all. An unknown
    cost (NaN) counts as the dearest.
    """
    is_best = scores == scores.max(axis=1, keepdims=True)
    if costs is None:
        ranked = np.where(is_best, 0.0, np.inf)
    else:
        ranked = np.where(is_best, np.where(np.isnan(costs), np.finfo(np.float64).max, costs), np.inf)
    cheapest: NDArray[np.intp] = ranked.argmin(axis=1)
    return cheapest


def gap_closed(quality: float, single: float, oracle: float) -> float:
    """(router - best single) / (oracle - best single); NaN where the oracle is no better than the best single."""
    return (quality - single) / (oracle - single) if oracle > single else float("nan")


def cost_saved(cost: float, single_cost: float) -> float:
    """1 - cost / cost of the best single expert; negative where the router costs more, NaN where that one is free."""
    return 1 - cost / single_cost if single_cost > 0 else float("nan")


def tokens_per_second(output_tokens: Floats, seconds: Floats, choices: Choices) -> float:
    """Output tokens of the chosen answers over the seconds they took, one after the other.

    The paper reports throughput without a formula; this one uses what it records per answer. NaN if the time is 0.
    """
    time = total_of(seconds, choices)
    return total_of(output_tokens, choices) / time if time > 0 else float("nan")


def routing_shares(choices: Choices, groups: NDArray[np.integer], experts: int) -> NDArray[np.float64]:
    """Share of each group's queries that each expert gets, shape (number of groups, experts); rows sum to 1.

    Args:
        choices: n chosen columns.
        groups: n group numbers, 0 and up, each with at least one query.
        experts: Number of experts.
    """
    count = int(groups.max()) + 1
    cells = np.bincount(groups * experts + choices, minlength=count * experts).reshape(count, experts)
    shares: NDArray[np.float64] = cells / cells.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True, slots=True)
class Reliability:
    """Predictions in equal-width bins over 0..1; tables of the same bins add up. All arrays have one value per bin.

    Attributes:
        counts: Cells in the bin.
        predicted_sums: Sum of their predictions.
        observed_sums: Sum of their outcomes.
    """

    counts: NDArray[np.int64]
    predicted_sums: NDArray[np.float64]
    observed_sums: NDArray[np.float64]

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            self.counts + other.counts,
            self.predicted_sums + other.predicted_sums,
            self.observed_sums + other.observed_sums,
        )

    def filled(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Counts, mean prediction and mean outcome of the bins that are not empty."""
        used = self.counts > 0
        counts = self.counts[used]
        return counts, self.predicted_sums[used] / counts, self.observed_sums[used] / counts

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |outcome - prediction| over the bins, weighted by their counts.

        Source: Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599), with 15 bins.
        """
        counts, predicted, observed = self.filled()
        return float(np.average(np.abs(observed - predicted), weights=counts))


def reliability(predicted: Floats, outcomes: Floats, *, bins: int = 15) -> Reliability:
    """Compare predicted qualities with outcomes, cell by cell; both have any one shape and values in 0..1."""
    flat, real = predicted.ravel().astype(np.float64), outcomes.ravel().astype(np.float64)
    bin_of = np.clip((flat * bins).astype(np.int64), 0, bins - 1)
    return Reliability(
        np.bincount(bin_of, minlength=bins),
        np.bincount(bin_of, flat, minlength=bins).astype(np.float64),
        np.bincount(bin_of, real, minlength=bins).astype(np.float64),
    )


def brier(predicted: Floats, outcomes: Floats) -> float:
    """Mean of (predicted - outcome)^2 over all cells (Brier 1950); outcomes may lie between 0 and 1."""
    return float(np.square(predicted.astype(np.float64) - outcomes).mean())
