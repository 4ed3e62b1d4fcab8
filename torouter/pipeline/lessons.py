"""What a router learns: queries with targets made from their outcomes, and a part of them kept back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torouter.errors import OutcomeTableError
from torouter.pipeline.outcomes import OutcomeTable
from torouter.pipeline.recipe import Recipe
from torouter.routing.labels import soft_labels
from torouter.routing.matrix import OutcomeMatrix


@dataclass(frozen=True, slots=True)
class Lesson:
    """Queries with their outcomes, and the `targets` (n, k) that a router shall give for them."""

    outcomes: OutcomeMatrix
    targets: NDArray[np.float32]

    @property
    def queries(self) -> tuple[str, ...]:
        return self.outcomes.queries


def lessons(table: OutcomeTable, recipe: Recipe) -> tuple[Lesson, Lesson]:
    """What is learnt from and what is kept back: a random cut by query, the same for the same seed.

    Only what is learnt from is smoothed by the means of its data sets; what is kept back judges by the outcomes.

    Raises:
        OutcomeTableError: A part would be empty.
    """
    outcomes = table.matrix()
    order = np.random.default_rng(recipe.seed).permutation(len(outcomes))
    count = round(recipe.validation * len(outcomes))
    if not 0 < count < len(outcomes):
        msg = (
            f"validation={recipe.validation} of {len(outcomes)} queries leaves an empty part: "
            "give more queries or another share"
        )
        raise OutcomeTableError(msg)
    learnt, held = outcomes.rows(order[count:]), outcomes.rows(order[:count])
    datasets = np.array(table.datasets)[order[count:]]
    smooth = smoothed(targets(learnt.scores, recipe), datasets, recipe.own_share)
    return Lesson(learnt, smooth), Lesson(held, targets(held.scores, recipe))


def smoothed(own: NDArray[np.float32], datasets: NDArray[np.str_], own_share: float) -> NDArray[np.float32]:
    """Targets (n, k) mixed with the mean of each query's data set, where there are several data sets.

    Soft labels are smoothed as labels: a softmax of smoothed scores would let each query's own noise back in.
    """
    names, numbers = np.unique(datasets, return_inverse=True)
    if len(names) < 2:
        return own
    sums = np.zeros((len(names), own.shape[1]))
    np.add.at(sums, numbers, own)
    means = sums / np.bincount(numbers)[:, None]
    return (own_share * own + (1 - own_share) * means[numbers]).astype(np.float32)


def targets(scores: NDArray[np.float32], recipe: Recipe) -> NDArray[np.float32]:
    """Soft labels for the objective "soft", the scores themselves for "bce"."""
    if recipe.objective == "soft":
        return soft_labels(scores, form=recipe.label_form, temperature=recipe.temperature)
    return scores
