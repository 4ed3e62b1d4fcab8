"""Folds and the worth of a router's choices."""

from __future__ import annotations

import numpy as np
import pytest

from torouter.routers.judging import folds, routed_quality


@pytest.mark.parametrize("count", [5, 20, 33])
def test_every_row_is_left_out_once_and_the_parts_are_equally_large(count: int) -> None:
    masks = list(folds(count))

    assert np.sum(masks, axis=0).tolist() == [1] * count
    assert {mask.sum() for mask in masks} <= {count // 5, -(-count // 5)}


def test_the_parts_are_those_of_every_earlier_version() -> None:
    masks = list(folds(10))

    assert [np.flatnonzero(mask).tolist() for mask in masks] == [[5, 7], [1, 9], [2, 3], [4, 8], [0, 6]]


def test_a_router_is_worth_the_outcomes_of_its_highest_scored_experts() -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    outcomes = np.array([[1.0, 0.5], [0.25, 0.0], [0.75, 0.0]])

    assert routed_quality(scores, outcomes) == 0.5  # 0.5, 0.25 and, of equals, the first expert's 0.75
