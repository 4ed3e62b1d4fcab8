"""Chooses a policy's one free number from recorded outcomes, so that nobody has to guess it."""

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
"""Price weights that are tried at most."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A policy and what it would have reached on the outcomes that it was calibrated on.

    Attributes:
        policy: The given policy with the chosen number.
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
    """Choose `edge_threshold` if the policy has an edge, else `price_weight`, for one wanted figure.

    Calibrate on queries that the router was not trained on: it looks too sure on those that it was. As at run time, the
    choice knows an expert's mean price only; what is reached is counted with each query's own.

    Args:
        policy: Its edge tag and, with an edge, its price weight are kept.
        experts: Says which experts have the edge tag.
        names: Expert of each column, k of them.
        scores: The router's scores, shape (n, k).
        quality: What each expert's answer was worth, shape (n, k).
        cost_usd: What each expert's answer cost in USD, shape (n, k).
        cloud_share: Share of the queries from 0 to 1 that may leave the edge; the best of them do.
        target_quality: Mean quality to reach, as cheaply as possible: with an edge, with the fewest queries leaving it.
        max_price: Mean price in USD per 1,000 queries to keep to, at the best quality.

    Raises:
        ConfigurationError: The arrays don't fit, not exactly one figure is given, or it can't be reached.
    """
    wanted = {"cloud_share": cloud_share, "target_quality": target_quality, "max_price": max_price}
    given = {name: value for name, value in wanted.items() if value is not None}
    if len(given) != 1:
        msg = f"calibrate: {', '.join(given) or 'nothing'} is wanted; give exactly one of {', '.join(wanted)}"
        raise ConfigurationError(msg)
    s, q = _matrix("scores", scores, names), _matrix("quality", quality, names)
    prices = np.zeros_like(s) if cost_usd is None else _matrix("cost_usd", cost_usd, names) * 1000
    if not len(s) == len(q) == len(prices):
        msg = (
            f"calibrate: scores, quality and cost_usd have {len(s)}, {len(q)}, {len(prices)} rows; let them be the same"
        )
        raise ConfigurationError(msg)
    if policy.edge is None:
        sweep = _price_weights(s, q, prices)
    else:
        on_edge = np.array([policy.edge in experts[name].tags for name in names])
        sweep = _edge_thresholds(s - policy.price_weight * prices.mean(axis=0), q, prices, on_edge, policy.edge)
    ((name, value),) = given.items()
    point = sweep.find(name, value)
    return Calibration(
        policy=policy.replace(**{sweep.field: float(sweep.numbers[point])}),
        quality=float(sweep.quality[point]),
        price=None if cost_usd is None else float(sweep.price[point]),
        cloud_share=None if sweep.cloud_share is None else float(sweep.cloud_share[point]),
    )


@dataclass(frozen=True, slots=True)
class _Sweep:
    """Values of one field of the policy and what each of them reaches."""

    field: str
    numbers: Floats
    quality: Floats
    price: Floats
    cloud_share: Floats | None

    def find(self, wanted: str, value: float) -> int:
        """The point that fits best among those that keep to `value`."""
        if wanted == "cloud_share":
            if self.cloud_share is None:
                msg = "calibrate: a cloud_share needs a policy with an edge, such as RoutingPolicy(edge='edge')"
                raise ConfigurationError(msg)
            fits, best = self.cloud_share <= value, self.cloud_share
        elif wanted == "target_quality":
            fits, best = self.quality >= value, -(self.price if self.cloud_share is None else self.cloud_share)
        else:
            fits, best = self.price <= value, self.quality
        if not fits.any():
            reached = f"qualities up to {self.quality.max():.4g} and prices from {self.price.min():.4g}"
            msg = f"calibrate: {wanted}={value!r} is out of reach; there are {reached} USD per 1,000 queries"
            raise ConfigurationError(msg)
        return int(np.flatnonzero(fits)[np.argmax(best[fits])])


def _edge_thresholds(values: Floats, quality: Floats, prices: Floats, on_edge: Bools, tag: str) -> _Sweep:
    """All thresholds that make a difference, from no query that leaves the edge to all of them."""
    if on_edge.all() or not on_edge.any():
        msg = f"calibrate: {on_edge.sum()} of {len(on_edge)} experts have the tag {tag!r}; it takes both kinds"
        raise ConfigurationError(msg)
    rows = np.arange(len(values))
    edge = np.flatnonzero(on_edge)[values[:, on_edge].argmax(axis=1)]
    cloud = np.flatnonzero(~on_edge)[values[:, ~on_edge].argmax(axis=1)]
    gain = values[rows, cloud] - values[rows, edge]
    order = np.argsort(-gain, kind="stable")
    gain, edge, cloud = gain[order], edge[order], cloud[order]
    # Point m sends the m queries with the largest gains away: its threshold lies between the gains of m - 1 and m.
    thresholds = np.concatenate(([gain[0] + 1e-9], (gain[:-1] + gain[1:]) / 2, [gain[-1] - 1e-9]))
    distinct = np.concatenate(([True], gain[:-1] > gain[1:], [True]))

    def means(figures: Floats) -> Floats:
        stay, leave = figures[order, edge], figures[order, cloud]
        sums: Floats = stay.sum() + np.concatenate(([0.0], np.cumsum(leave - stay)))
        return sums[distinct] / len(rows)

    shares = np.arange(len(rows) + 1)[distinct] / len(rows)
    return _Sweep("edge_threshold", thresholds[distinct], means(quality), means(prices), shares)


def _price_weights(scores: Floats, quality: Floats, prices: Floats) -> _Sweep:
    """Weights between which equally many queries change their expert, from 0 on."""
    mean_price = prices.mean(axis=0)
    dearer = mean_price[:, None] - mean_price[None, :]
    pairs = np.argwhere(dearer > 0)
    turns = [(scores[:, i] - scores[:, j]) / dearer[i, j] for i, j in pairs]
    turning = np.concatenate(turns) if turns else np.zeros(0)
    turning = turning[turning > 0]
    weights = np.zeros(1)
    if turning.size:
        # Beyond the last turn everything goes to the cheapest expert.
        spread = np.quantile(turning, np.linspace(0, 1, min(MAX_WEIGHTS, turning.size)))
        weights = np.unique(np.concatenate((weights, spread, [2 * turning.max()])))
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
