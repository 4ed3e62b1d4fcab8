"""Judges routers by recorded outcomes: parts that are left out in turn, and what a router's choices are worth."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FOLDS = 5


def folds(count: int) -> Iterator[NDArray[np.bool_]]:
    """Cut `count` rows into `FOLDS` random parts, the same ones every time.

    Yields:
        The mask of each part, shape (count,): every row is in exactly one.
    """
    part_of = np.random.default_rng(0).permutation(count) % FOLDS
    for part in range(FOLDS):
        yield part_of == part


def routed_quality(scores: NDArray[np.floating], outcomes: NDArray[np.floating]) -> float:
    """Mean outcome of each query's highest-scored expert, averaged in the precision of `outcomes`.

    Args:
        scores: What a router scores each expert for each query, shape (n, k).
        outcomes: What each expert's answer was worth, shape (n, k).
    """
    return float(outcomes[np.arange(len(outcomes)), scores.argmax(axis=1)].mean())
