"""Reads the queries for `collect` from a local file or a data set of the Hugging Face Hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torouter.errors import ConfigurationError, MissingExtraError, OutcomeTableError
from torouter.outcomes.table import read_frame

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".jsonl", ".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Query:
    """One query.

    Attributes:
        query_id: Unique within its table.
        dataset: Name of its data set.
        query: The text that is sent to every expert.
        reference: The right answer, for scorers and NLL; None if unknown.
        scorer: Name of the scorer for this reference, used by `torouter label --scorer table`.
    """

    query_id: str
    dataset: str
    query: str
    reference: str | None = None
    scorer: str | None = None


COLUMNS = tuple(column.name for column in fields(Query))


def read_queries(
    source: str | Path, *, columns: Mapping[str, str] | None = None, split: str = "train", subset: str | None = None
) -> tuple[Query, ...]:
    """Read queries in the order of the source.

    Only the text is required. `dataset` defaults to the name of the file or data set, `query_id` to a hash of data set
    and text, which stays the same when rows are added or moved.

    Args:
        source: A .jsonl, .csv or .parquet file, or else the Hub id of a data set, which needs `pip install datasets`.
        columns: Our column names and the source's, where they differ, such as {"query": "question"}.
        split: Split of a Hub data set.
        subset: Configuration of a Hub data set.

    Raises:
        ConfigurationError: The source can't be read, is empty, lacks a column, or has a duplicate id; the message names
            row, column and fix.
        MissingExtraError: The source is a Hub id and `datasets` is not installed.
    """
    names = {column: column for column in COLUMNS} | dict(columns or {})
    if unknown := set(names) - set(COLUMNS):
        raise ConfigurationError(f"columns: {', '.join(sorted(unknown))} is unknown: use {', '.join(COLUMNS)}")
    path = Path(source)
    try:
        if path.suffix in SUFFIXES or path.exists():
            default, rows = path.stem, records(read_frame(path))
        else:
            default, rows = str(source).rpartition("/")[2], _rows_of_hub(str(source), split, subset)
        _check_columns(rows, columns or {}, names["query"])
        queries = tuple(_query(row, number, names, default) for number, row in enumerate(rows))
        _check_ids(queries)
    except (ConfigurationError, OutcomeTableError) as error:
        raise ConfigurationError(f"{source}: {error}") from error
    return queries


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame as plain dicts, with None for each of pandas' kinds of missing values."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def query_of(row: Mapping[str, Any]) -> Query:
    """The query of an outcome table's row."""
    return Query(row["query_id"], row["dataset"], row["query"], row["reference"], row["scorer"])


def _rows_of_hub(source: str, split: str, subset: str | None) -> list[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError:
        msg = "no such file; to read it as a data set of the Hub install datasets: pip install datasets"
        raise MissingExtraError(f"{source}: {msg}") from None
    try:
        return list(load_dataset(source, subset, split=split))
    except Exception as error:  # datasets raises many kinds, for the network, the Hub and the data set's format
        raise ConfigurationError(f"can't be loaded from the Hub (split {split!r}): {error}") from error


def _check_columns(rows: list[dict[str, Any]], columns: Mapping[str, str], query: str) -> None:
    if not rows:
        raise ConfigurationError("there is no query in it: give one query per row")
    source_columns = {name: None for row in rows for name in row}  # a set in the source's order
    for name in (query, *columns.values()):
        if name not in source_columns:
            shown = ", ".join(map(str, source_columns))
            msg = f"there is no column {name!r}, only {shown}: name it with columns (--column query=...)"
            raise ConfigurationError(msg)


def _query(row: Mapping[str, Any], number: int, names: Mapping[str, str], default: str) -> Query:
    values = {column: _text(row.get(name), number, name) for column, name in names.items()}
    text = values["query"]
    if text is None:
        raise ConfigurationError(
            f"row {number} (the first is 0), column {names['query']}: it is empty: fill or drop the row"
        )
    dataset = values["dataset"] or default
    query_id = values["query_id"] or hashlib.sha256(f"{dataset}\0{text}".encode()).hexdigest()[:16]
    return Query(query_id, dataset, text, values["reference"], values["scorer"])


def _text(value: Any, number: int, name: str) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, (str, int, float)):
        kind = type(value).__name__
        raise ConfigurationError(f"row {number} (the first is 0), column {name}: it is a {kind}: give a text")
    if isinstance(value, float) and value.is_integer():  # pandas reads a column of integers with gaps as floats
        value = int(value)
    return str(value)


def _check_ids(queries: Iterable[Query]) -> None:
    seen: dict[str, int] = {}
    for number, query in enumerate(queries):
        first = seen.setdefault(query.query_id, number)
        if first != number:
            msg = f"rows {first} and {number} (the first is 0) have the same query_id {query.query_id!r}"
            raise ConfigurationError(f"{msg}: keep one of them, or give each an id of its own")
