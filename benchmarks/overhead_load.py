"""The worker of `benchmarks.overhead`: makes the calls of one contender and takes their time.

It runs under the contender's own interpreter, so it imports nothing but the standard library.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Protocol

from benchmarks.contenders import Asked, serve
from benchmarks.overhead_server import TEXT, TOKENS
from benchmarks.prepared_routers import query

MAX_TOKENS = len(TOKENS)


class Client(Protocol):
    """A contender. `sync`, which does what `whole` does for a caller without an event loop, may be missing."""

    async def whole(self, query: str) -> str:
        """The whole answer."""

    def stream(self, query: str) -> AsyncIterator[str]:
        """The answer piece by piece."""


def work(make: Callable[..., Client]) -> None:
    """Answer the benchmark with the times of the client that `make(url, ...)` gives.

    The command line is what `make` takes beyond the url, the url, and the core to run on, "" for any.
    """
    *arguments, url, core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, {int(core)})
    with asyncio.Runner() as runner:
        load = Load(make(url, *arguments), runner)
        serve(load.answer)


class Load:
    """The calls of one contender, no query of which comes twice unless it is asked for."""

    def __init__(self, client: Client, runner: asyncio.Runner) -> None:
        self._client, self._runner, self._made = client, runner, 0

    def answer(self, asked: Asked) -> dict[str, Any]:
        """Seconds per call: with one caller the median of its calls, with many the time of all by their number.

        `asked` has `kind` ("whole", "stream" or "sync"), `callers`, `seconds` after which no call is begun, `repeated`
        (the same query again) and perhaps `profile`, for a tree of where the time goes in place of figures.
        """
        kind, callers, repeated = asked["kind"], asked["callers"], asked.get("repeated", False)
        if not hasattr(self._client, kind):
            return {}
        self._calls(kind, callers, 0, repeated)  # opens the connections, which may have been closed for idleness
        if not asked.get("profile"):
            return self._calls(kind, callers, asked["seconds"], repeated)
        from pyinstrument import Profiler

        profiler = Profiler(interval=0.0002, async_mode="disabled")
        with profiler:
            self._calls(kind, callers, asked["seconds"], repeated)
        return {"profile": profiler.output_text(unicode=True, show_all=True)}

    def _calls(self, kind: str, callers: int, seconds: float, repeated: bool) -> dict[str, Any]:
        queries = self._queries(repeated)
        times: list[float] = []
        began = time.perf_counter()
        if kind == "sync":
            while not times or time.perf_counter() < began + seconds:
                asked, start = next(queries), time.perf_counter()
                answer = self._client.sync(asked)  # type: ignore[attr-defined]  # see `answer`
                times.append(time.perf_counter() - start)
                check([answer])
        else:
            self._runner.run(self._callers(kind, callers, began + seconds, queries, times))
        taken = time.perf_counter() - began
        return {"seconds": statistics.median(times) if callers == 1 else taken / len(times), "calls": len(times)}

    async def _callers(self, kind: str, callers: int, until: float, queries: Iterator[str], times: list[float]) -> None:
        async def caller() -> None:
            while True:
                asked, start = next(queries), time.perf_counter()
                if kind == "stream":
                    pieces = [piece async for piece in self._client.stream(asked)]
                else:
                    pieces = [await self._client.whole(asked)]
                now = time.perf_counter()
                times.append(now - start)
                check(pieces, len(TOKENS) if kind == "stream" else 1)
                if now >= until:
                    return

        await asyncio.gather(*(caller() for _ in range(callers)))

    def _queries(self, repeated: bool) -> Iterator[str]:
        while True:
            if not repeated:
                self._made += 1
            yield query(0 if repeated else self._made)


def check(pieces: list[str], at_least: int = 1) -> None:
    """Whether this is the server's answer.

    Raises:
        ValueError: It is not, so that its time means nothing.
    """
    text = "".join(pieces)
    if text != TEXT or len(pieces) < at_least:
        msg = f"{len(pieces)} pieces, in all {text!r}, are not the answer"
        raise ValueError(msg)
