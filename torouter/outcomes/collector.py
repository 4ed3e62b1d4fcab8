"""Asks every expert every query and writes an outcome table; finished cells survive whatever stops the run."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from torouter.chat import ChatRequest, Usage
from torouter.endpoints import TGIClient, Timeouts, client_for
from torouter.errors import (
    CollectStoppedError,
    ConfigurationError,
    ContextLengthError,
    ExpertAccessError,
    ExpertError,
    NLLUnavailableError,
)
from torouter.experts import Expert, ExpertPool
from torouter.outcomes.cell_journal import Cell, CellJournal, Row
from torouter.outcomes.nll import reference_nll
from torouter.outcomes.queries import Query, query_of, records
from torouter.outcomes.table import OutcomeTable
from torouter.runtime.retry import Retry

logger = logging.getLogger(__name__)

T = TypeVar("T")

FINGERPRINTS = "torouter_experts"
"""Key in the attributes of the table's frame, and so in its file, of {expert: fingerprint}."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Concurrency, time limit and retries of a run. `clock`, `sleep` and `draw` (0 to 1) are for tests.

    A query whose failure may be temporary is retried up to `retries` times, after a random time between 0 and
    min(`longest`, `first` * 2 ** attempt) seconds; see `torouter.runtime.retry`.
    """

    concurrency: int = 4
    """Most queries at a time to each replica of an expert without a `max_concurrency` of its own."""
    deadline: float = 300.0
    """Most seconds of one answer."""
    retries: int = 5
    first: float = 1.0
    longest: float = 30.0
    failures: int = 10
    """Failed queries of one expert in a row after which the run stops."""
    clock: Callable[[], float] = time.perf_counter
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    draw: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0), ("failures", 1)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} can't be used: give at least {least}")
        Timeouts(total=self.deadline)  # checks it


async def collect(
    experts: ExpertPool, queries: Sequence[Query], out: str | Path, *, nll: bool = False, pace: Pace | None = None
) -> OutcomeTable:
    """Ask every expert every query and write the table, without scores, to `out`.

    Each finished cell is written to `out`.journal.jsonl at once. The same call continues a stopped run: cells in the
    journal and in an existing `out` are not asked again, except those that failed. It also extends a table by new
    queries or experts; queries that only `out` has are kept, and new experts are asked them too.

    Args:
        experts: The experts.
        queries: The queries; their data set, reference and scorer override those in `out`.
        out: A .parquet file.
        nll: Whether to measure each newly asked reference's negative log-likelihood too, where the server can.
        pace: Concurrency, time limit and retries.

    Raises:
        ConfigurationError: Another run is writing `out`; an expert in it has changed or is missing from `experts`; or a
            query has another text in `out`.
        OutcomeTableError: `out` is damaged.
        CollectStoppedError: An expert refused access, or failed too often in a row.
    """
    out, pace = Path(out), pace or Pace()
    if out.suffix != ".parquet":
        raise ConfigurationError(f"{out}: outcomes are written as parquet: give a name that ends with .parquet")
    with CellJournal(out.with_name(out.name + ".journal.jsonl")) as journal:
        rows, fingerprints = _known(out, journal)
        fingerprints = _checked_experts(out, experts, rows, fingerprints)
        by_id = _all_queries(out, rows, queries)
        done = {cell for cell, row in rows.items() if row["error"] is None}
        missing = {name: [query for query in by_id.values() if (query.query_id, name) not in done] for name in experts}
        if any(missing.values()):
            journal.add_experts(fingerprints)
            runs = [_ExpertRun(experts[name], queries, pace, nll=nll) for name, queries in missing.items()]
            await _run_all(runs, journal, len(done))
            rows |= journal.rows
        table = _table([row | _facts(by_id[row["query_id"]], row) for row in rows.values()], fingerprints)
        table.write(out)
        journal.remove()
    return table


def _known(out: Path, journal: CellJournal) -> tuple[dict[Cell, Row], dict[str, str]]:
    """The rows of the table and the journal, and the fingerprints of their experts."""
    rows: dict[Cell, Row] = {}
    fingerprints: dict[str, str] = {}
    if out.exists():
        frame = OutcomeTable.read(out, labelled=False).frame
        rows = {(row["query_id"], row["expert"]): row for row in records(frame)}
        fingerprints = dict(frame.attrs.get(FINGERPRINTS, {}))
        if not fingerprints:
            logger.warning("%s does not record its experts' settings: whether they have changed can't be checked", out)
    return rows | journal.rows, fingerprints | journal.fingerprints


def _checked_experts(
    out: Path, experts: ExpertPool, rows: Mapping[Cell, Row], known: Mapping[str, str]
) -> dict[str, str]:
    """The experts' fingerprints, after a check that `rows` hold no answers of changed or missing experts."""
    fingerprints = {name: ExpertPool([expert]).fingerprint for name, expert in experts.items()}
    for (_, name), row in rows.items():
        if name not in fingerprints:
            msg = f"{out}: it has answers of {name!r}, which is not among the experts: add it, or give another --out"
            raise ConfigurationError(msg)
        # An expert that has only failed may have been corrected since.
        if row["error"] is None and known.get(name, fingerprints[name]) != fingerprints[name]:
            msg = (
                f"{out}: expert {name!r} is not what it was when its answers were collected (model, adapter, prefix or "
                "parameters): undo the change, give the expert another name, or give another --out"
            )
            raise ConfigurationError(msg)
    return fingerprints


def _all_queries(out: Path, rows: Mapping[Cell, Row], queries: Sequence[Query]) -> dict[str, Query]:
    """All queries by id: the given ones, and those that only the rows have."""
    if not queries:
        raise ConfigurationError("queries is empty: give at least one")
    by_id = {query.query_id: query for query in queries}
    if len(by_id) < len(queries):
        raise ConfigurationError("queries: a query_id is a duplicate; give each query an id of its own")
    for row in rows.values():
        query_id = row["query_id"]
        query = by_id.setdefault(query_id, query_of(row))
        if query.query != row["query"]:
            msg = f"{out}: query {query_id!r} has another text there: give the changed query an id of its own"
            raise ConfigurationError(msg)
    return by_id


def _facts(query: Query, row: Row) -> Row:
    """The fields of a row that come from its query; a score against another reference is dropped."""
    facts = asdict(query)
    return facts if row["reference"] == query.reference else facts | {"score": None}


def _table(rows: Sequence[Row], fingerprints: Mapping[str, str]) -> OutcomeTable:
    import pandas as pd

    frame = pd.DataFrame(rows)
    frame.attrs[FINGERPRINTS] = dict(fingerprints)
    return OutcomeTable(frame, labelled=False)


async def _run_all(runs: Sequence[_ExpertRun], journal: CellJournal, done: int) -> None:
    from tqdm import tqdm

    # tqdm leaves the initial cells out of its rate, so that the remaining time is right after a restart too.
    total = done + sum(run.count for run in runs)
    with tqdm(total=total, initial=done, unit="cell", file=sys.stderr, disable=None) as bar:

        def finished(row: Row) -> None:
            journal.add(row)
            bar.update()

        try:
            async with asyncio.TaskGroup() as group:
                for run in runs:
                    for worker in run.workers(finished):
                        group.create_task(worker)
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0]  # noqa: B904 - it has its own cause; the other tasks were only cancelled


class _ExpertRun:
    """One expert's part of a run."""

    def __init__(self, expert: Expert, queries: Sequence[Query], pace: Pace, *, nll: bool) -> None:
        self.count = len(queries)
        self._expert = expert
        self._queries = iter(queries)  # shared by the workers: each takes the next
        self._pace = pace
        self._nll = nll
        self._failures = 0
        self._retry = Retry(
            retries=pace.retries,
            first=pace.first,
            longest=pace.longest,
            clock=pace.clock,
            sleep=pace.sleep,
            draw=pace.draw,
        )

    def workers(self, finished: Callable[[Row], None]) -> Iterator[Coroutine[Any, Any, None]]:
        """One worker for each request that may be open at a time."""
        for url in self._expert.urls:
            client = client_for(self._expert, url=url, timeouts=Timeouts(total=self._pace.deadline))
            for _ in range(self._expert.max_concurrency or self._pace.concurrency):
                yield self._work(client, finished)

    async def _work(self, client: TGIClient, finished: Callable[[Row], None]) -> None:
        for query in self._queries:
            finished(await self._row(client, query))

    async def _row(self, client: TGIClient, query: Query) -> Row:
        request = ChatRequest(({"role": "user", "content": query.query},))
        row: Row = asdict(query) | {"expert": self._expert.name, "error": None}
        try:
            answer = await self._retry(lambda: self._answer(client, request))
        except ExpertAccessError as error:
            raise CollectStoppedError(f"stopped; finished cells are kept: {error}") from error
        except ExpertError as error:
            self._count(error)
            return row | {"error": f"{type(error).__name__}: {error}"}
        self._failures = 0
        return row | answer | {"nll": await self._nll_of(client, request, query.reference)}

    async def _answer(self, client: TGIClient, request: ChatRequest) -> Row:
        start = self._pace.clock()
        reply = await client.chat(request)
        return {
            # JSON can hold half a surrogate pair, parquet can't.
            "response": reply.text.encode("utf-8", "replace").decode(),
            "input_tokens": reply.usage.input_tokens if reply.usage else None,
            "output_tokens": reply.usage.output_tokens if reply.usage else None,
            "cost_usd": _cost(self._expert, reply.usage),
            "seconds": self._pace.clock() - start,
        }

    async def _nll_of(self, client: TGIClient, request: ChatRequest, reference: str | None) -> float | None:
        if not self._nll or reference is None:
            return None
        try:
            return await self._retry(lambda: reference_nll(client, request, reference))
        except NLLUnavailableError as error:
            if self._nll:  # else another worker has logged it already
                self._nll = False
                logger.warning("%s", error)
        except ExpertError as error:
            # The answer itself is kept.
            logger.warning("the nll of a reference could not be measured: %s", error)
        return None

    def _count(self, error: ExpertError) -> None:
        """Count a failed query and stop the run after too many in a row; too long a query does not count."""
        if isinstance(error, ContextLengthError):
            return
        self._failures += 1
        if self._failures >= self._pace.failures:
            msg = f"stopped after {self._failures} failed queries in a row; finished cells are kept: {error}"
            raise CollectStoppedError(msg) from error


def _cost(expert: Expert, usage: Usage | None) -> float | None:
    if usage is None or expert.input_price is None or expert.output_price is None:
        return None
    return (usage.input_tokens * expert.input_price + usage.output_tokens * expert.output_price) / 1e6
