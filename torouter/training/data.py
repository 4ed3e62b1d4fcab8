"""Training data: queries with the targets that a router learns, cut into a training and a validation part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torouter.errors import OutcomeTableError
from torouter.outcomes.table import OutcomeTable
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.soft_labels import soft_labels
from torouter.training.arguments import TrainingArguments


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Queries with their outcomes, and `targets` of shape (n, k): the scores that a router learns to give."""

    outcomes: OutcomeMatrix
    targets: NDArray[np.float32]

    @property
    def queries(self) -> tuple[str, ...]:
        return self.outcomes.queries


def training_data(table: OutcomeTable, arguments: TrainingArguments) -> tuple[TrainingData, TrainingData]:
    """The training part and the validation part of a table: a random cut by query, the same for the same seed.

    Only the training targets are smoothed by the means of their data sets; validation uses the outcomes as they are.

    Raises:
        OutcomeTableError: A part would be empty.
    """
    outcomes = table.matrix()
    count = round(arguments.validation * len(outcomes))
    if not 0 < count < len(outcomes):
        msg = (
            f"validation={arguments.validation} of {len(outcomes)} queries leaves an empty part: "
            "give more queries or another share"
        )
        raise OutcomeTableError(msg)
    training_rows, validation_rows = validation_cut(len(outcomes), count, seed=arguments.seed)
    training, validation = outcomes.rows(training_rows), outcomes.rows(validation_rows)
    datasets = np.array(table.datasets)[training_rows]
    smoothed = smooth(make_targets(training.scores, arguments), datasets, arguments.outcome_weight)
    return TrainingData(training, smoothed), TrainingData(validation, make_targets(validation.scores, arguments))


def validation_cut(queries: int, validation: int, *, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the training part and of the validation part among a table's queries, each in random order.

    Args:
        queries: Number of queries of the table.
        validation: How many of them the validation part gets.
        seed: Of training; the same seed gives the same cut.
    """
    order = np.random.default_rng(seed).permutation(queries)
    return order[validation:], order[:validation]


def smooth(targets: NDArray[np.float32], datasets: NDArray[np.str_], outcome_weight: float) -> NDArray[np.float32]:
    """Mix targets of shape (n, k) with the mean target of each query's data set, unless there is only one data set.

    Soft labels are smoothed after the softmax: a softmax of smoothed scores would bring each query's noise back.
    """
    names, numbers = np.unique(datasets, return_inverse=True)
    if len(names) < 2:
        return targets
    sums = np.zeros((len(names), targets.shape[1]))
    np.add.at(sums, numbers, targets)
    means = sums / np.bincount(numbers)[:, None]
    return (outcome_weight * targets + (1 - outcome_weight) * means[numbers]).astype(np.float32)


def make_targets(scores: NDArray[np.float32], arguments: TrainingArguments) -> NDArray[np.float32]:
    """Soft labels for the objective "soft", the scores themselves for "bce"."""
    if arguments.objective == "soft":
        return soft_labels(scores, form=arguments.label_form, temperature=arguments.temperature)
    return scores
