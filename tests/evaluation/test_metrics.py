"""Every metric against a case worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from torouter.evaluation import metrics
from torouter.evaluation.curves import Curve, PairCurve, choices_at, sweep, sweep_weights

# Four queries, three experts: cheap, middle, dear.
SCORES = np.array([[1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]], dtype=np.float32)
COSTS = np.array([[1, 2, 4], [1, 2, 4], [1, 2, 4], [1, 2, 4]], dtype=np.float32)


def test_quality_and_cost_are_those_of_the_chosen_experts() -> None:
    choices = np.array([0, 2, 1, 0])
    assert metrics.mean_of(SCORES, choices) == 0.5  # 1, 1, 0, 0
    assert metrics.total_of(COSTS, choices) == 8  # 1 + 4 + 2 + 1
    assert metrics.chosen(COSTS, choices).tolist() == [1, 4, 2, 1]


def test_random_is_the_mean_of_all_cells() -> None:
    assert metrics.random_mean(SCORES) == 0.5  # six of twelve


def test_the_best_single_expert_is_picked_on_the_train_part() -> None:
    train = np.array([[1, 0, 0], [1, 0, 1]], dtype=np.float32)
    single = metrics.best_single(train)
    assert single == 0
    assert SCORES[:, single].mean() == 0.25  # not the best of the test part


def test_the_oracle_takes_the_cheapest_of_the_best() -> None:
    # All right: the cheapest. Middle and dear right: the middle one. Only dear. None right: the cheapest of all.
    assert metrics.oracle_choices(SCORES, COSTS).tolist() == [0, 1, 2, 0]
    assert metrics.oracle_choices(SCORES, COSTS[:, ::-1]).tolist() == [2, 2, 2, 2]
    assert metrics.oracle_choices(SCORES).tolist() == [0, 1, 2, 0]


def test_an_expert_of_unknown_cost_is_the_oracles_last_resort() -> None:
    costs = np.array([[np.nan, 1, 2]] * 4)
    assert metrics.oracle_choices(SCORES, costs).tolist() == [1, 1, 2, 1]
    assert metrics.oracle_choices(np.array([[0.0, 1.0]]), np.array([[1.0, np.nan]])).tolist() == [1]


def test_gap_closed_is_the_share_between_best_single_and_oracle() -> None:
    assert metrics.gap_closed(0.7, single=0.6, oracle=0.8) == pytest.approx(0.5)
    assert metrics.gap_closed(0.5, single=0.6, oracle=0.8) == pytest.approx(-0.5)
    assert np.isnan(metrics.gap_closed(0.6, single=0.6, oracle=0.6))


def test_cost_saved_is_relative_to_the_best_single_expert() -> None:
    assert metrics.cost_saved(3.0, 4.0) == 0.25
    assert metrics.cost_saved(5.0, 4.0) == -0.25
    assert np.isnan(metrics.cost_saved(0.0, 0.0))


def test_throughput_is_all_tokens_over_all_seconds() -> None:
    tokens, seconds = np.array([[10.0, 90.0], [30.0, 50.0]]), np.array([[1.0, 4.0], [1.0, 2.0]])
    # 90 tokens in 4 s and 30 in 1 s: 120 / 5, not the mean of 22.5 and 30.
    assert metrics.tokens_per_second(tokens, seconds, np.array([1, 0])) == 24.0


def test_routing_shares_are_counted_by_group() -> None:
    shares = metrics.routing_shares(np.array([0, 2, 1, 1]), np.array([0, 0, 1, 1]), experts=3)
    assert shares.tolist() == [[0.5, 0, 0.5], [0, 1, 0]]


def test_calibration_error_weighs_bins_by_their_cells() -> None:
    predicted, outcomes = np.array([[0.1, 0.2], [0.9, 1.0]]), np.array([[0, 0], [1, 0]])
    table = metrics.reliability(predicted, outcomes, bins=2)
    counts, mean_predicted, mean_observed = table.filled()
    assert counts.tolist() == [2, 2]
    assert mean_predicted.tolist() == pytest.approx([0.15, 0.95])
    assert mean_observed.tolist() == [0, 0.5]
    assert table.ece == pytest.approx(0.5 * 0.15 + 0.5 * 0.45)


def test_empty_bins_do_not_count() -> None:
    table = metrics.reliability(np.array([0.05, 0.95]), np.array([0.0, 1.0]), bins=10)
    assert table.filled()[0].tolist() == [1, 1]
    assert table.ece == pytest.approx(0.05)


def test_reliability_of_two_splits_adds_up() -> None:
    first, second = (np.array([0.1, 0.6]), np.array([0.0, 1.0])), (np.array([0.2]), np.array([1.0]))
    both = [np.concatenate(arrays) for arrays in zip(first, second, strict=True)]
    joined = metrics.reliability(*first, bins=2) + metrics.reliability(*second, bins=2)
    assert joined.ece == pytest.approx(metrics.reliability(*both, bins=2).ece)


def test_brier_is_the_mean_squared_difference() -> None:
    assert metrics.brier(np.array([0.5, 1.0]), np.array([1, 0])) == pytest.approx((0.25 + 1) / 2)


def curve(*points: tuple[float, float]) -> Curve:
    costs, qualities = np.array(points, dtype=np.float64).T
    return Curve(np.arange(len(points), dtype=np.float64), costs, qualities)


def points(of: Curve) -> list[tuple[float, float]]:
    return list(zip(of.costs.tolist(), of.qualities.tolist(), strict=True))


def test_the_zero_router_is_the_non_decreasing_hull_of_the_single_experts() -> None:
    # (2, 0.3) lies under the line from (1, 0.25) to (4, 0.75); (5, 0.6) is dearer and worse than (4, 0.75).
    singles = curve((4, 0.75), (1, 0.25), (2, 0.3), (5, 0.6), (1, 0.1))
    assert points(singles.hull()) == [(1, 0.25), (4, 0.75)]


def test_a_point_above_the_line_is_part_of_the_hull() -> None:
    assert points(curve((1, 0.25), (2, 0.5), (4, 0.75)).hull()) == [(1, 0.25), (2, 0.5), (4, 0.75)]


def test_single_experts_stand_at_their_means() -> None:
    assert points(Curve.of_singles(SCORES, COSTS)) == [(1, 0.25), (2, 0.5), (4, 0.75)]


def test_a_quality_between_two_points_is_reached_by_mixing_them() -> None:
    singles = curve((3, 0.6), (2, 0.1), (1, 0.2))
    assert mix(singles, 0.3) == pytest.approx([0.25, 0, 0.75])
    assert mix(singles, 0.1) == [0, 0, 1]
    assert singles.mix_for(0.7) is None


def mix(of: Curve, quality: float) -> list[float]:
    found = of.mix_for(quality)
    assert found is not None
    return list(found)


def test_aiq_is_the_mean_height_of_the_hull() -> None:
    # From cost 1 to 3 the height rises from 0.2 to 0.6, from 3 to 5 it stays: (0.4 * 2 + 0.6 * 2) / 4.
    assert curve((1, 0.2), (3, 0.6)).aiq(1, 5) == pytest.approx(0.5)


def test_aiq_counts_nothing_below_the_cheapest_point() -> None:
    assert curve((2, 0.5)).aiq(1, 3) == pytest.approx(0.25)


def test_aiq_stops_at_the_dearest_single_expert() -> None:
    # From 1 to 2 the height rises from 0.2 to 0.4.
    assert curve((1, 0.2), (3, 0.6)).aiq(1, 2) == pytest.approx(0.3)


def test_released_aiq_divides_by_the_dearest_cost() -> None:
    assert curve((1, 0.2), (3, 0.6)).aiq_released(5) == pytest.approx((0.4 * 2 + 0.6 * 2) / 5)


def test_qnc_is_the_relative_cost_of_equalling_the_best_single() -> None:
    router = curve((1, 0.5), (2, 0.7), (3, 0.75), (4, 0.72))
    assert router.qnc(single_cost=4, single_quality=0.7) == 0.5
    assert np.isnan(router.qnc(single_cost=4, single_quality=0.8))


def test_the_operating_point_is_the_cheapest_good_enough() -> None:
    router = curve((3, 0.75), (1, 0.5), (2, 0.7))
    assert router.point_for(0.6) == 2
    assert router.point_for(0.9) == 0  # none reaches it: the best


def test_the_safe_point_is_the_last_before_quality_is_lost() -> None:
    lucky = curve((5, 0.7), (4, 0.8), (3, 0.7), (2, 0.5), (1, 0.7))
    assert lucky.point_for(0.7) == 4
    assert lucky.safe_point_for(0.7) == 2
    assert lucky.safe_point_for(0.9) == 1  # none reaches it: the best
    assert lucky.safe_point_for(0.1) == 4


def test_a_weight_on_cost_changes_the_choice() -> None:
    predicted, expected = np.array([[0.5, 0.6, 0.9]]), np.array([[1.0, 2.0, 4.0]])
    assert choices_at(predicted, expected, 0.0).tolist() == [2]
    assert choices_at(predicted, expected, 0.12).tolist() == [2]  # 0.38, 0.36, 0.42
    assert choices_at(predicted, expected, 0.2).tolist() == [0]  # 0.3, 0.2, 0.1
    assert choices_at(predicted, expected, float("inf")).tolist() == [0]


def test_a_sweep_of_true_scores_is_the_oracles_curve() -> None:
    swept = sweep(SCORES, COSTS, SCORES, COSTS, np.array([0.0, 0.01, 0.6, np.inf]))
    # Weight 0 takes the first of the best, 0.01 likewise the cheapest of the best (costs 1, 2, 4, 1). At 0.6 one more
    # right answer is not worth 2 more USD: dear (1 - 2.4) falls behind cheap (-0.6), middle (-0.2) does not.
    assert points(swept) == [(2, 0.75), (2, 0.75), (1.25, 0.5), (1, 0.25)]


def test_the_sweep_goes_from_quality_alone_to_cost_alone() -> None:
    weights = sweep_weights(COSTS, per_decade=1)
    assert weights[0] == 0
    assert weights[1:-1].tolist() == pytest.approx([w / 4 for w in (1e-3, 1e-2, 1e-1, 1, 1e1, 1e2, 1e3, 1e4)])
    assert np.isinf(weights[-1])


WEAK, STRONG = np.array([1, 0, 0, 1]), np.array([1, 1, 1, 0])  # means 0.5 and 0.75


def test_apgr_of_a_pair_is_the_area_under_the_recovered_gap() -> None:
    # Order 1, 0, 2, 3: qualities .5, .75, .75, 1, .75; gap recovered 0, 1, 1, 2, 1.
    pair = PairCurve.of(np.array([0.5, 0.9, 0.4, 0.1]), WEAK, STRONG)
    assert pair.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert pair.pgr().tolist() == [0, 1, 1, 2, 1]
    assert pair.apgr() == pytest.approx(0.25 * (0.5 + 1 + 1.5 + 1.5))


def test_cpt_is_the_least_share_that_recovers_the_gap() -> None:
    pair = PairCurve.of(np.array([0.9, 0.5, 0.4, 0.1]), WEAK, STRONG)  # gap recovered 0, 0, 1, 2, 1
    assert pair.cpt(0.5) == pytest.approx(0.375)
    assert pair.cpt(0.8) == pytest.approx(0.45)
    assert pair.cpt(1.0) == pytest.approx(0.5)
    assert pair.cpt(0.0) == 0.0


def test_a_pair_that_the_router_cannot_tell_apart_is_random() -> None:
    pair = PairCurve.of(np.zeros(4), WEAK, STRONG)
    assert pair.shares.tolist() == [0, 1]
    assert (pair.apgr(), pair.cpt(0.5), pair.cpt(0.8)) == (0.5, 0.5, 0.8)


def test_a_pair_whose_strong_expert_is_no_better_has_no_gap() -> None:
    pair = PairCurve.of(np.arange(4), STRONG, WEAK)
    assert np.isnan(pair.apgr())
    assert np.isnan(pair.cpt(0.5))
