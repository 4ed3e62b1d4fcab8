"""Chooses a policy's threshold or price weight from recorded outcomes, for a given quality, price or cloud share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torouter.errors import ConfigurationError
from torouter.experts import ExpertPool
from torouter.routing.policy import RoutingPolicy

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MAX_WEIGHTS = 500
"""Most price weights that are tried."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A calibrated policy, and its figures on the outcomes that it was calibrated on.

    Attributes:
        policy: The given policy with the chosen `edge_threshold` or `price_weight`.
        quality: Mean quality of the chosen experts' answers.
        price: Mean price in USD per 1,000 queries, None without costs.
        cloud_share: Share of the queries that leave the edge, None without an edge.
    """

    policy: RoutingPolicy
    quality: float
    price: float | None
    cloud_share: float | None


def calibrate(
    policy: RoutingPolicy,
    experts: ExpertPool,
    names: Sequence[str],
    *,
    scores: npt.ArrayLike,
    quality: npt.ArrayLike,
    cost_usd: npt.ArrayLike | None = None,
    cloud_share: float | None = None,
    target_quality: float | None = None,
    max_price: float | None = None,
) -> Calibration:
    """Choose `edge_threshold` if the policy has an edge, else `price_weight`, for one target.

    Calibrate on queries that the router was not trained on: on its training queries it looks too certain. As at run
    time, the choice uses an expert's mean price; the reported price is that of each query.

    Args:
        policy: Its edge tag and, with an edge, its price weight are kept.
        experts: Their tags say which of them are on the edge.
        names: Expert of each column, k of them.
        scores: The router's scores, shape (n, k).
        quality: Quality of each expert's answer, shape (n, k).
        cost_usd: Cost of each expert's answer in USD, shape (n, k).
        cloud_share: Share of the queries from 0 to 1 that may leave the edge; those with the largest gain do.
        target_quality: Mean quality to reach at the lowest price or, with an edge, with the fewest queries leaving it.
        max_price: Most that 1,000 queries may cost on average, in USD; the best quality within it is chosen.

    Raises:
        ConfigurationError: The arrays don't fit, not exactly one target is given, or it can't be reached.
    """
    targets = {"cloud_share": cloud_share, "target_quality": target_quality, "max_price": max_price}
    given = {name: value for name, value in targets.items() if value is not None}
    if len(given) != 1:
        msg = f"calibrate: the targets are {', '.join(given) or 'empty'}; give exactly one of {', '.join(targets)}"
        raise ConfigurationError(msg)
    score_matrix, quality_matrix = _matrix("scores", scores, names), _matrix("quality", quality, names)
    prices = np.zeros_like(score_matrix) if cost_usd is None else _matrix("cost_usd", cost_usd, names) * 1000
    counts = (len(score_matrix), len(quality_matrix), len(prices))
    if len(set(counts)) > 1:
        msg = f"calibrate: scores, quality and cost_usd have {', '.join(map(str, counts))} rows; give equally many"
        raise ConfigurationError(msg)
    if policy.edge is None:
        sweep = _price_weights(score_matrix, quality_matrix, prices)
    else:
        on_edge = np.array([policy.edge in experts[name].tags for name in names])
        values = score_matrix - policy.price_weight * prices.mean(axis=0)
        sweep = _edge_thresholds(values, quality_matrix, prices, on_edge, policy.edge)
    ((target, value),) = given.items()
    point = sweep.best_point(target, value)
    return Calibration(
        policy=policy.replace(**{sweep.field: float(sweep.values[point])}),
        quality=float(sweep.quality[point]),
        price=None if cost_usd is None else float(sweep.price[point]),
        cloud_share=None if sweep.cloud_share is None else float(sweep.cloud_share[point]),
    )


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Candidate values of one field of the policy, and the figures that each of them reaches."""

    field: str
    values: Floats
    quality: Floats
    price: Floats
    cloud_share: Floats | None

    def best_point(self, target: str, value: float) -> int:
        """Position of the best candidate among those that meet the target."""
        if target == "cloud_share":
            if self.cloud_share is None:
                msg = "calibrate: a cloud_share needs a policy with an edge, such as RoutingPolicy(edge='edge')"
                raise ConfigurationError(msg)
            fits, best = self.cloud_share <= value, self.cloud_share
        elif target == "target_quality":
            fits, best = self.quality >= value, -(self.price if self.cloud_share is None else self.cloud_share)
        else:
            fits, best = self.price <= value, self.quality
        if not fits.any():
            reach = f"quality reaches {self.quality.max():.4g}, prices start at {self.price.min():.4g}"
            msg = f"calibrate: {target}={value!r} is out of reach: {reach} USD per 1,000 queries"
            raise ConfigurationError(msg)
        return int(np.flatnonzero(fits)[np.argmax(best[fits])])


def _edge_thresholds(values: Floats, quality: Floats, prices: Floats, on_edge: Bools, tag: str) -> _Sweep:
    """All thresholds that make a difference, from none of the queries leaving the edge to all of them."""
    if on_edge.all() or not on_edge.any():
        msg = f"calibrate: {on_edge.sum()} of {len(on_edge)} experts have the tag {tag!r}; give it to some, not to all"
        raise ConfigurationError(msg)
    rows = np.arange(len(values))
    edge = np.flatnonzero(on_edge)[values[:, on_edge].argmax(axis=1)]
    cloud = np.flatnonzero(~on_edge)[values[:, ~on_edge].argmax(axis=1)]
    gain = values[rows, cloud] - values[rows, edge]
    order = np.argsort(-gain, kind="stable")
    gain, edge, cloud = gain[order], edge[order], cloud[order]
    # Point m sends the m queries with the largest gains to the cloud; its threshold is between gains m - 1 and m.
    thresholds = np.concatenate(([gain[0] + 1e-9], (gain[:-1] + gain[1:]) / 2, [gain[-1] - 1e-9]))
    distinct = np.concatenate(([True], gain[:-1] > gain[1:], [True]))

    def means(per_expert: Floats) -> Floats:
        stay, leave = per_expert[order, edge], per_expert[order, cloud]
        sums: Floats = stay.sum() + np.concatenate(([0.0], np.cumsum(leave - stay)))
        return sums[distinct] / len(rows)

    shares = np.arange(len(rows) + 1)[distinct] / len(rows)
    return _Sweep("edge_threshold", thresholds[distinct], means(quality), means(prices), shares)


def _price_weights(scores: Floats, quality: Floats, prices: Floats) -> _Sweep:
    """Weights from 0 on; between any two neighbours about equally many queries change their expert."""
    mean_price = prices.mean(axis=0)
    price_gap = mean_price[:, None] - mean_price[None, :]
    pairs = np.argwhere(price_gap > 0)
    # The weight at which a query changes from the expert i to the cheaper j.
    switch_points = [(scores[:, i] - scores[:, j]) / price_gap[i, j] for i, j in pairs]
    switches = np.concatenate(switch_points) if switch_points else np.zeros(0)
    switches = switches[switches > 0]
    weights = np.zeros(1)
    if switches.size:
        # Beyond the last switch everything goes to the cheapest expert.
        spread = np.quantile(switches, np.linspace(0, 1, min(MAX_WEIGHTS, switches.size)))
        weights = np.unique(np.concatenate((weights, spread, [2 * switches.max()])))
    rows = np.arange(len(scores))
    chosen = [(scores - weight * mean_price).argmax(axis=1) for weight in weights]
    return _Sweep(
        "price_weight",
        weights,
        np.array([quality[rows, choice].mean() for choice in chosen]),
        np.array([prices[rows, choice].mean() for choice in chosen]),
        None,
    )


def _matrix(name: str, values: npt.ArrayLike, names: Sequence[str]) -> Floats:
    matrix = np.asarray(values, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(names) or not len(matrix) or not np.isfinite(matrix).all():
        msg = (
            f"calibrate: {name} has shape {matrix.shape}; give finite numbers of shape (queries, {len(names)} experts)"
        )
        raise ConfigurationError(msg)
    return matrix
