"""Scores the answers of an outcome table, each data set by its own scorer if wanted."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from torouter.errors import ConfigurationError, OutcomeTableError
from torouter.outcomes.scorers import Rule, by_rule, get_scorer
from torouter.outcomes.table import OutcomeTable

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

TABLE = "table"
"""Scorer name for: the scorer that each row names in its column `scorer`."""


def label(
    table: OutcomeTable,
    scorer: str | Rule,
    *,
    by_dataset: Mapping[str, str | Rule] | None = None,
    encoder: str | None = None,
    allow_code: bool = False,
) -> OutcomeTable:
    """The table with a score in every row, which replaces an existing one.

    Rows in which the expert gave no answer (column `error`) score 0.

    Args:
        table: Outcomes with answers and references.
        scorer: A name of `torouter.outcomes.scorers.SCORERS`, "table", or a callable: scorer(response, reference).
        by_dataset: Other scorers for single data sets.
        encoder: BERTSim's encoder, a directory or Hub id.
        allow_code: Whether the scorer "code" may run what the experts wrote.

    Raises:
        ConfigurationError: A scorer is unknown or can't be used, or `by_dataset` has an unknown data set.
        OutcomeTableError: A row has no response, no reference or no scorer, or gets a score outside 0..1.
        MissingExtraError: BERTSim's packages are not installed.
    """
    by_dataset = by_dataset or {}
    if unknown := sorted(set(by_dataset) - set(table.datasets)):
        known = ", ".join(sorted(set(table.datasets)))
        raise ConfigurationError(f"scorer of {', '.join(map(repr, unknown))}: the table's data sets are {known}")
    frame = table.frame.copy()
    failed = frame["error"].notna().to_numpy()
    groups: dict[str | Rule, list[int]] = {}
    for row in np.flatnonzero(~failed).tolist():
        name = by_dataset.get(_text(frame, row, "dataset"), scorer)
        groups.setdefault(_text(frame, row, "scorer") if name == TABLE else name, []).append(row)
    scorers = {
        name: get_scorer(name, encoder=encoder, allow_code=allow_code) if isinstance(name, str) else by_rule(name)
        for name in groups
    }
    # All texts are checked before scoring starts, which may take long.
    texts = {
        name: [[_text(frame, row, column) for row in rows] for column in ("response", "reference")]
        for name, rows in groups.items()
    }
    scores = np.zeros(len(frame))
    for name, rows in groups.items():
        scores[rows] = scorers[name](*texts[name])
    frame["score"] = scores
    if count := int(failed.sum()):
        logger.warning("%d of %d rows have an error instead of an answer: they score 0", count, len(frame))
    return OutcomeTable(frame)


def _text(frame: pd.DataFrame, row: int, column: str) -> str:
    value = frame[column].iat[row]
    if not isinstance(value, str):
        where = f"query {frame['query_id'].iat[row]!r}, expert {frame['expert'].iat[row]!r}"
        msg = f"row {row} (the first is 0), column {column}: {where} has none: add it, or drop the query"
        raise OutcomeTableError(msg)
    return value
