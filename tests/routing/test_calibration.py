"""Which numbers of a policy keep to a price, a quality or a share of the cloud."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.priced_experts import PRICED
from torouter.errors import ConfigurationError
from torouter.routing.calibration import calibrate
from torouter.routing.policy import RoutingPolicy

NAMES = ("small", "code", "large")


def outcomes(n: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores that tell something of the quality, and costs that differ by query."""
    rng = np.random.default_rng(0)
    scores = np.clip(rng.normal([0.45, 0.5, 0.65], 0.2, (n, 3)), 0, 1)
    quality = (rng.random((n, 3)) < scores).astype(float)
    cost = rng.gamma(4.0, [0.0, 0.0005, 0.004], (n, 3))
    return scores, quality, cost


def test_the_edge_threshold_keeps_to_a_cloud_share_and_sends_the_best_queries() -> None:
    scores, quality, cost = outcomes()
    calibration = calibrate(
        RoutingPolicy(edge="edge"), PRICED, NAMES, scores=scores, quality=quality, cost_usd=cost, cloud_share=0.3
    )
    chosen = [
        NAMES.index(calibration.policy.decide(dict(zip(NAMES, row, strict=True)), PRICED).expert)
        for row in scores.tolist()
    ]
    rows = np.arange(len(scores))
    assert np.mean(np.array(chosen) != 0) == calibration.cloud_share == 0.3
    assert calibration.quality == pytest.approx(quality[rows, chosen].mean())
    assert calibration.price == pytest.approx(1000 * cost[rows, chosen].mean())
    at_random = 0.7 * quality[:, 0].mean() + 0.3 * quality[rows, 1 + scores[:, 1:].argmax(axis=1)].mean()
    assert calibration.quality > at_random


def test_the_edge_threshold_reaches_a_quality_with_the_fewest_cloud_queries() -> None:
    scores, quality, _ = outcomes()

    def share(target: float) -> float | None:
        calibration = calibrate(
            RoutingPolicy(edge="edge"), PRICED, NAMES, scores=scores, quality=quality, target_quality=target
        )
        assert calibration.quality >= target
        return calibration.cloud_share

    low, high = share(0.5), share(0.6)
    assert low is not None
    assert high is not None
    assert 0 < low < high < 1


def test_the_price_weight_keeps_to_a_price_or_a_quality() -> None:
    scores, quality, cost = outcomes()

    def calibrated(**target: float) -> Any:
        return calibrate(RoutingPolicy(), PRICED, NAMES, scores=scores, quality=quality, cost_usd=cost, **target)

    free = calibrated(max_price=1000)
    capped = calibrated(max_price=5.0)
    assert capped.price <= 5.0
    assert capped.policy.price_weight > 0
    assert capped.quality < free.quality
    cheap = calibrated(target_quality=0.99 * free.quality)
    assert cheap.quality >= 0.99 * free.quality
    assert cheap.price < free.price
    assert calibrated(max_price=0.0).price == 0  # everything to the expert that costs nothing


def test_equal_gains_are_never_split_by_a_threshold() -> None:
    scores = np.array([[0.5, 0.0, 0.7]] * 4 + [[0.5, 0.0, 0.6]] * 6)
    calibration = calibrate(RoutingPolicy(edge="edge"), PRICED, NAMES, scores=scores, quality=scores, cloud_share=0.5)
    assert calibration.cloud_share == 0.4
    assert 0.1 < calibration.policy.edge_threshold < 0.2
    everything = calibrate(RoutingPolicy(edge="edge"), PRICED, NAMES, scores=scores, quality=scores, cloud_share=1.0)
    assert everything.cloud_share == 1.0
    assert everything.policy.decide({"small": 0.5, "code": 0.0, "large": 0.6}, PRICED).expert == "large"


@pytest.mark.parametrize(
    ("policy", "options", "part"),
    [
        (RoutingPolicy(), {"cloud_share": 0.5}, "edge"),
        (RoutingPolicy(), {}, "exactly one"),
        (RoutingPolicy(), {"target_quality": 0.5, "max_price": 1.0}, "exactly one"),
        (RoutingPolicy(), {"target_quality": 1.1}, "out of reach"),
        (RoutingPolicy(edge="nowhere"), {"cloud_share": 0.5}, "'nowhere'"),
    ],
)
def test_what_cannot_be_calibrated_is_one_clear_error(
    policy: RoutingPolicy, options: dict[str, float], part: str
) -> None:
    scores, quality, cost = outcomes(20)
    with pytest.raises(ConfigurationError, match=part):
        calibrate(policy, PRICED, NAMES, scores=scores, quality=quality, cost_usd=cost, **options)


def test_calibration_checks_its_arrays() -> None:
    scores, quality, _ = outcomes(20)
    with pytest.raises(ConfigurationError, match=r"quality has shape \(20, 2\)"):
        calibrate(RoutingPolicy(), PRICED, NAMES, scores=scores, quality=quality[:, :2], max_price=1)
    with pytest.raises(ConfigurationError, match="rows"):
        calibrate(RoutingPolicy(), PRICED, NAMES, scores=scores, quality=quality[:10], max_price=1)
