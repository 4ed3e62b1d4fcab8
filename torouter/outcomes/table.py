"""OutcomeTable: one row per query and expert, with every expert for every query, checked when it is made."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import MissingExtraError, OutcomeTableError
from torouter.routers.config import ExpertFacts
from torouter.routers.outcome_matrix import OutcomeMatrix

if TYPE_CHECKING:
    import pandas as pd

    from torouter.experts import ExpertPool

logger = logging.getLogger(__name__)

KEYS = ("query_id", "dataset", "query", "expert")
TEXTS = (*KEYS, "reference", "response", "error", "scorer")
COUNTS = ("input_tokens", "output_tokens")
MEASURES = ("score", *COUNTS, "cost_usd", "seconds", "nll")
COLUMNS = ("query_id", "dataset", "query", "reference", "expert", "response", *MEASURES, "error", "scorer")
"""The schema. `query_id`, `dataset`, `query`, `expert` and, once labelled, `score` have a value in every row; the rest
may be empty. Tokens are counts, `cost_usd` is USD, `seconds` the time of the answer, `nll` the reference's negative
log-likelihood in nats per token, `error` the error where an expert gave no answer, `scorer` the name of the scorer that
suits the reference."""


class OutcomeTable:
    """A checked table of outcomes, sorted by query id and expert.

    Args:
        frame: A pandas frame with columns of `COLUMNS`, of which only `KEYS` and `score` are required.
        labelled: Whether every row must have a score. `torouter collect` writes tables without scores.

    Raises:
        OutcomeTableError: The frame breaks a rule; the message names row, column and fix.
    """

    def __init__(self, frame: pd.DataFrame, *, labelled: bool = True) -> None:
        self.labelled = labelled
        frame = _typed(frame, labelled=labelled)
        _check(frame, labelled=labelled)
        self._frame = frame.sort_values(["query_id", "expert"], kind="stable", ignore_index=True)
        self._experts = tuple(sorted(frame["expert"].unique()))

    def __len__(self) -> int:
        """Number of queries."""
        return len(self._frame) // len(self._experts)

    def __repr__(self) -> str:
        return f"OutcomeTable({len(self)} queries, {len(self._experts)} experts)"

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, labelled: bool = True) -> Self:
        """Read a table from .parquet, .csv or .jsonl.

        Raises:
            OutcomeTableError: The file can't be read, or breaks a rule; the message names the file.
        """
        file = Path(path)
        try:
            return cls(read_frame(file), labelled=labelled)
        except OutcomeTableError as error:
            raise OutcomeTableError(f"{file}: {error}") from error.__cause__

    @classmethod
    def concat(cls, tables: Sequence[OutcomeTable]) -> Self:
        """One table from several with the same experts.

        Raises:
            OutcomeTableError: `tables` is empty, or two tables have different experts or a common query id.
        """
        if not tables:
            raise OutcomeTableError("tables is empty: give at least one table")
        for table in tables[1:]:
            if table.experts != tables[0].experts:
                names = ", ".join(sorted(set(table.experts) ^ set(tables[0].experts)))
                msg = f"the tables differ in their experts ({names}): keep the common ones with subset(experts=)"
                raise OutcomeTableError(msg)
        frames = [table.frame for table in tables]
        return cls(_pandas().concat(frames, ignore_index=True), labelled=all(table.labelled for table in tables))

    @property
    def frame(self) -> pd.DataFrame:
        """The rows, sorted by query id and expert, with all columns of `COLUMNS`."""
        return self._frame

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts, sorted: the columns of `matrix`."""
        return self._experts

    @property
    def query_ids(self) -> tuple[str, ...]:
        """Ids of the queries, sorted: the rows of `matrix`."""
        return self._per_query("query_id")

    @property
    def queries(self) -> tuple[str, ...]:
        """Texts of the queries, in the order of `query_ids`."""
        return self._per_query("query")

    @property
    def datasets(self) -> tuple[str, ...]:
        """Each query's data set, in the order of `query_ids`."""
        return self._per_query("dataset")

    def matrix(self, column: str = "score") -> OutcomeMatrix:
        """One column with shape (queries, experts); unknown values, which scores never are, are NaN."""
        values = self._frame[column].to_numpy(dtype=np.float32, na_value=np.nan)
        return OutcomeMatrix(self.queries, self._experts, values.reshape(len(self), len(self._experts)))

    def facts(self, pool: ExpertPool | None = None) -> tuple[ExpertFacts, ...]:
        """The facts that a checkpoint records about each expert: the pool's prices and this table's means.

        Raises:
            OutcomeTableError: `pool` lacks an expert of the table.
        """
        self.check_experts(pool.names if pool is not None else self._experts)
        means = {c: _means(self.matrix(c).scores) for c in ("output_tokens", "seconds", "cost_usd")}
        facts = []
        for position, name in enumerate(self._experts):
            known = {column: values[position] for column, values in means.items()}
            expert = pool[name] if pool is not None else None
            facts.append(
                ExpertFacts(
                    name=name,
                    model=expert.model if expert else None,
                    input_price=expert.input_price if expert else None,
                    output_price=expert.output_price if expert else None,
                    context_window=expert.context_window if expert else None,
                    **known,
                )
            )
        return tuple(facts)

    def check_experts(self, known: Iterable[str]) -> None:
        """Check that every expert of the table is known.

        Raises:
            OutcomeTableError: One is not; the message names its first query.
        """
        names = tuple(known)
        unknown = ~self._frame["expert"].isin(names)
        if unknown.any():
            row = int(unknown.to_numpy().argmax())
            msg = (
                f"column expert: {self._frame['expert'].iat[row]!r} (query {self._frame['query_id'].iat[row]!r}) is "
                f"none of the known experts {', '.join(names)}: add it to them, or drop its rows"
            )
            raise OutcomeTableError(msg)

    def subset(
        self,
        *,
        experts: Sequence[str] | None = None,
        datasets: Sequence[str] | None = None,
        query_ids: Sequence[str] | None = None,
    ) -> OutcomeTable:
        """The rows of these experts, data sets and queries; None keeps all.

        Raises:
            OutcomeTableError: The table does not know a name, or no row is left.
        """
        frame = self._frame
        for column, wanted in (("expert", experts), ("dataset", datasets), ("query_id", query_ids)):
            if wanted is None:
                continue
            unknown = sorted(set(wanted) - set(self._frame[column].unique()))
            if unknown:
                raise OutcomeTableError(f"column {column}: the table has no {', '.join(map(repr, unknown[:5]))}")
            frame = frame[frame[column].isin(list(wanted))]
        return OutcomeTable(frame, labelled=self.labelled)

    def split(self, spec: str) -> tuple[OutcomeTable, OutcomeTable]:
        """Train and test part, for "standard:SEED" a random 80/20 split by query.

        The query ids sorted, p = numpy.random.RandomState(SEED).permutation(n); its first n // 5 are the test part.

        Raises:
            OutcomeTableError: The spec is unknown, or a part would be empty.
        """
        name, _, seed = spec.partition(":")
        if name != "standard" or not seed.isdecimal() or int(seed) >= 2**32:
            raise OutcomeTableError(f"split {spec!r} is unknown: write standard:SEED, such as standard:0")
        count = len(self)
        if count < 5:
            raise OutcomeTableError(
                f"split {spec}: {count} queries are less than five, so the test part would be empty"
            )
        order = np.random.RandomState(int(seed)).permutation(count)
        return self._rows(order[count // 5 :]), self._rows(order[: count // 5])

    @property
    def data_hash(self) -> str:
        """Hash of queries, experts and scores, the same for every file format and order of rows."""
        digest = hashlib.sha256()
        for texts in (self.query_ids, self.queries, self.datasets, self._experts):
            digest.update("\0".join(texts).encode("utf-8", "replace"))
        digest.update(np.nan_to_num(self.matrix().scores, nan=-1).tobytes())
        return digest.hexdigest()[:16]

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the table as parquet; a reader sees the old file or the whole new one.

        Raises:
            OutcomeTableError: The name does not end with .parquet.
        """
        file = Path(path)
        if file.suffix != ".parquet":
            raise OutcomeTableError(f"{file}: tables are written as parquet; give a name that ends with .parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)
        os.close(handle)
        try:
            self._frame.to_parquet(name, compression="zstd", index=False)
            Path(name).chmod(0o644)  # mkstemp makes files that only this user may read
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return file

    def _per_query(self, column: str) -> tuple[str, ...]:
        return tuple(self._frame[column].iloc[:: len(self._experts)])

    def _rows(self, positions: NDArray[np.integer]) -> OutcomeTable:
        """The queries at these positions, whose rows are not checked again: for a million that would take time."""
        count = len(self._experts)
        rows = (np.sort(positions)[:, None] * count + np.arange(count)).ravel()
        return self._of(self._frame.take(rows).reset_index(drop=True), self._experts, labelled=self.labelled)

    @classmethod
    def _of(cls, checked: pd.DataFrame, experts: tuple[str, ...], *, labelled: bool) -> Self:
        self = cls.__new__(cls)
        self._frame, self._experts, self.labelled = checked, experts, labelled
        return self


def _pandas() -> ModuleType:
    try:
        import pandas as pd
        import pyarrow as pa  # noqa: F401 - pandas reads and writes parquet with it
    except ImportError:
        raise MissingExtraError("outcome tables need pandas and pyarrow: pip install 'torouter[train]'") from None
    return pd


def read_frame(file: Path) -> pd.DataFrame:
    """Read any .parquet, .csv (all columns as text) or .jsonl.

    Raises:
        OutcomeTableError: It can't be read; the message does not name the file.
    """
    _pandas()
    import pandas as pd
    import pyarrow as pa
    from pyarrow import parquet

    if not file.is_file():
        raise OutcomeTableError("no such file")
    try:
        if file.suffix == ".parquet":
            table = parquet.read_table(file)
            table.validate(full=True)
            frame: pd.DataFrame = table.to_pandas()
        elif file.suffix == ".csv":
            # Only an empty field is a missing value: a query may be "NA" or "null".
            frame = pd.read_csv(file, dtype=str, keep_default_na=False, na_values=[""], encoding="utf-8")
        elif file.suffix == ".jsonl":
            frame = pd.DataFrame(_json_rows(file))
        else:
            raise OutcomeTableError(f"the ending {file.suffix!r} is unknown: use .parquet, .csv or .jsonl")
    except UnicodeDecodeError as error:
        raise OutcomeTableError(f"not UTF-8 at byte {error.start}: save the file as UTF-8") from error
    except UnicodeEncodeError as error:
        raise OutcomeTableError("a text contains half a character (a lone surrogate): fix it") from error
    except (pa.ArrowException, pd.errors.ParserError, pd.errors.EmptyDataError, OSError) as error:
        kind = file.suffix.removeprefix(".")
        raise OutcomeTableError(f"can't be read as {kind}, it is damaged or half written: {error}") from error
    return frame


def _json_rows(file: Path) -> list[dict[str, Any]]:
    rows = []
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise OutcomeTableError(f"line {number} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise OutcomeTableError(f"line {number} is not an object: give one row per line, {{column: value}}")
            rows.append(row)
    return rows


def _typed(frame: pd.DataFrame, *, labelled: bool) -> pd.DataFrame:
    """The columns of the schema with their types; missing columns are added, empty."""
    import pandas as pd

    missing = [column for column in (*KEYS, *(("score",) if labelled else ())) if column not in frame]
    if missing:
        raise OutcomeTableError(
            f"column {', '.join(missing)} is missing; the columns are {', '.join(map(str, frame.columns))}"
        )
    if extra := [str(column) for column in frame.columns if column not in COLUMNS]:
        logger.warning("columns that do not belong to an outcome table are dropped: %s", ", ".join(extra))
    typed = {}
    for column in COLUMNS:
        if column not in frame:
            dtype: Any = "str" if column in TEXTS else "Int32" if column in COUNTS else "float64"
            typed[column] = pd.Series([None] * len(frame), index=frame.index, dtype=dtype)
        elif column in TEXTS:
            typed[column] = frame[column].astype("str").where(frame[column].notna(), None)
        else:
            numbers = pd.to_numeric(frame[column], errors="coerce")
            wrong = (numbers.isna() & frame[column].notna()) | np.isinf(numbers.to_numpy("float64", na_value=np.nan))
            _refuse(frame, wrong, column, "is not a number", "give a finite number, or leave it empty if unknown")
            if column in COUNTS:
                _refuse(frame, numbers % 1 != 0, column, "is not a count", "give a whole number", known=numbers.notna())
                numbers = numbers.astype("Int32")
            typed[column] = numbers if column in COUNTS else numbers.astype("float64")
    checked = pd.DataFrame(typed, copy=False).reset_index(drop=True)
    checked.attrs = dict(frame.attrs)  # where `torouter collect` keeps the fingerprints of the experts
    return checked


def _check(frame: pd.DataFrame, *, labelled: bool) -> None:
    if frame.empty:
        raise OutcomeTableError("the table has no rows: give one per query and expert")
    for column in KEYS:
        _refuse(frame, frame[column].isna(), column, "is missing", "give it in every row")
    for column in ("query_id", "query", "expert"):
        _refuse(frame, frame[column].str.strip() == "", column, "is empty", "give a text that is not blank")
    if labelled:
        _refuse(frame, frame["score"].isna(), "score", "is NaN or missing", "score every row (torouter label)")
    scores = frame["score"]
    _refuse(frame, (scores < 0) | (scores > 1), "score", "lies outside 0..1", "scale scores to 0..1")
    for column in (*COUNTS, "cost_usd", "seconds"):
        below = (frame[column] < 0).fillna(False)
        _refuse(frame, below, column, "is negative", "give zero or more, or leave it empty")
    duplicate = frame.duplicated(["query_id", "expert"])
    _refuse(frame, duplicate, "expert", "is a duplicate for its query", "keep one row per query and expert")
    first = frame.groupby("query_id")["query"].transform("first")
    _refuse(frame, frame["query"] != first, "query", "differs from its query_id's other rows", "one text per id")
    experts = set(frame["expert"])
    counts = frame.groupby("query_id")["expert"].transform("size")
    lacking = counts != len(experts)
    if lacking.any():
        row = int(lacking.to_numpy().argmax())
        query_id = frame["query_id"].iat[row]
        missing = sorted(experts - set(frame.loc[frame["query_id"] == query_id, "expert"]))
        msg = (
            f"row {row}, column expert: query {query_id!r} has no row of {', '.join(missing)}: "
            "collect it, or drop the query or the expert"
        )
        raise OutcomeTableError(msg)
    if labelled and len(experts) < 2:
        raise OutcomeTableError(
            f"column expert: the table has only {experts.pop()!r}; routing needs at least two experts"
        )


def _refuse(frame: pd.DataFrame, wrong: Any, column: str, what: str, fix: str, *, known: Any = True) -> None:
    mask = np.asarray(wrong & known, dtype=bool)
    if not mask.any():
        return
    row = int(mask.argmax())
    value = frame[column].iat[row]
    shown = f" ({str(value)[:40]!r})" if column not in ("query", "reference", "response") else ""
    also = f", and {mask.sum() - 1} more rows" if mask.sum() > 1 else ""
    raise OutcomeTableError(f"row {row} (the first is 0), column {column}: the value{shown} {what}{also}: {fix}")


def _means(values: NDArray[np.float32]) -> list[float | None]:
    """Mean of each column over its known values, None if there are none."""
    return [
        round(float(column[~np.isnan(column)].mean(dtype=np.float64)), 9) if not np.isnan(column).all() else None
        for column in values.T
    ]
