"""OutcomeArrays: one part of an outcome table as arrays, the input of a replay."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from torouter.evaluation.metrics import Floats

if TYPE_CHECKING:
    from torouter.outcomes.table import OutcomeTable


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeArrays:
    """Outcomes of k experts on n queries. Arrays of shape (n, k) hold NaN where a value is unknown."""

    experts: tuple[str, ...]
    ids: NDArray[np.str_]
    queries: NDArray[np.object_]
    datasets: NDArray[np.str_]
    scores: Floats
    costs: Floats
    """USD per 1,000 queries, the unit of `RoutingPolicy.price_weight`."""
    seconds: Floats
    output_tokens: Floats
    nll: Floats
    input_tokens: Floats
    """Mean over the experts' tokenizers, shape (n,)."""

    @classmethod
    def of(cls, table: OutcomeTable) -> Self:
        """The whole table."""
        input_tokens = table.matrix("input_tokens").scores
        known = ~np.isnan(input_tokens)
        counts = known.sum(axis=1)
        sums = np.where(known, input_tokens, 0).sum(axis=1)
        return cls(
            experts=table.experts,
            ids=np.array(table.query_ids),
            queries=np.array(table.queries, dtype=object),
            datasets=np.array(table.datasets),
            scores=table.matrix().scores,
            costs=table.matrix("cost_usd").scores * np.float32(1000),
            seconds=table.matrix("seconds").scores,
            output_tokens=table.matrix("output_tokens").scores,
            nll=table.matrix("nll").scores,
            input_tokens=np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0),
        )

    def __len__(self) -> int:
        return len(self.scores)

    def rows(self, rows: NDArray[np.bool_]) -> Self:
        """The queries of a mask."""
        changes = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "experts"}
        return replace(self, **changes)

    def columns(self, columns: NDArray[np.bool_]) -> Self:
        """The experts of a mask."""
        wide = ("scores", "costs", "seconds", "output_tokens", "nll")
        experts = tuple(name for name, kept in zip(self.experts, columns, strict=True) if kept)
        return replace(self, experts=experts, **{name: getattr(self, name)[:, columns] for name in wide})


def complete_rows(*values: Floats) -> NDArray[np.bool_]:
    """Mask of the queries whose value is known for every expert in every array of shape (n, k)."""
    known: NDArray[np.bool_] = np.logical_and.reduce([~np.isnan(array).any(axis=1) for array in values])
    return known


def expected_costs(train: OutcomeArrays, part: OutcomeArrays) -> NDArray[np.float64]:
    """The expected cost of each expert for each query of `part`, in USD per 1,000 queries, shape (n, k).

    For each expert a least-squares line over the query's input tokens is fitted on `train`, which estimates the price
    per token and the mean cost of the answer. If tokens are unknown it is the mean cost.
    """
    costs, tokens = train.costs.astype(np.float64), train.input_tokens.astype(np.float64)
    means = costs.mean(axis=0)
    if np.isnan(tokens).any() or np.isnan(part.input_tokens).any() or np.ptp(tokens) == 0:
        return np.tile(means, (len(part), 1))
    centred = tokens - tokens.mean()
    slopes = centred @ (costs - means) / (centred @ centred)
    lines: NDArray[np.float64] = means + np.outer(part.input_tokens - tokens.mean(), slopes)
    return np.maximum(lines, 0.0)
