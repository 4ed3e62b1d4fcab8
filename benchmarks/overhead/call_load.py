"""The worker of `benchmarks.overhead`: makes the calls of one contender and times them.

It runs under the contender's own interpreter, so it imports only the standard library.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import random
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import metadata
from typing import Any, Protocol

from benchmarks.harness.contenders import Task, serve
from benchmarks.overhead.instant_server import TEXT, TOKENS

MAX_TOKENS = len(TOKENS)
_WORDS = """please tell me how the and of a with in for what why could you explain about one more when that is to write
function loop sum product angle river capital king court contract dose fever train hotel ticket moon autumn song market
profit tax"""
_PHRASES = 512


class Client(Protocol):
    """A contender. Some have `sync` too, which is `whole` for a caller without an event loop."""

    async def whole(self, query: str) -> str:
        """The whole answer."""

    def stream(self, query: str) -> AsyncIterator[str]:
        """The answer piece by piece."""


class ChatCompletions(ABC):
    """A contender whose answers are objects like OpenAI's."""

    @abstractmethod
    async def ask(self, messages: list[dict[str, str]], *, stream: bool) -> Any:
        """The answer, or an asynchronous iterator over its chunks."""

    async def whole(self, query: str) -> str:
        """The whole answer."""
        answer = await self.ask(messages(query), stream=False)
        return str(answer.choices[0].message.content)

    async def stream(self, query: str) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async for chunk in await self.ask(messages(query), stream=True):
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""


class ChatModel:
    """A contender that is a LangChain chat model."""

    def __init__(self, model: Any) -> None:
        self._model = model

    async def whole(self, query: str) -> str:
        """The whole answer."""
        return str((await self._model.ainvoke(query)).text)

    async def stream(self, query: str) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async for chunk in self._model.astream(query):
            yield str(chunk.text)

    def sync(self, query: str) -> str:
        """The whole answer for a caller without an event loop."""
        return str(self._model.invoke(query).text)


def messages(query: str) -> list[dict[str, str]]:
    """The request's messages, as the server takes them."""
    return [{"role": "user", "content": query}]


def work(make: Callable[..., Client], *packages: str) -> None:
    """Answer the benchmark's tasks with the times of the client that `make(url, ...)` returns.

    The command line has what `make` takes besides the url, then the url, and the core to run on ("" for any). The
    versions of `packages` are reported.
    """
    *arguments, url, core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, {int(core)})
    with asyncio.Runner() as runner:
        load = Load(make(url, *arguments), runner)
        serve(load.answer, {"versions": {package: metadata.version(package) for package in packages}})


def query(number: int) -> str:
    """Query `number`, about 30 tokens of a BERT, different for every number; it takes a microsecond or two to make."""
    return f"{_phrase(number % _PHRASES)} {number}?"


@functools.cache
def _phrase(number: int) -> str:
    return " ".join(random.Random(number).choices(_WORDS.split(), k=25))


class Load:
    """The calls of one contender; no query is repeated unless the task says so."""

    def __init__(self, client: Client, runner: asyncio.Runner) -> None:
        self._client, self._runner, self._made = client, runner, 0

    def answer(self, task: Task) -> dict[str, Any]:
        """How long a call takes: `seconds`, and `cpu`, this process's CPU seconds per call.

        With one caller `seconds` is the median of its calls, with many the total time divided by the calls. A task has
        `kind` ("whole", "stream" or "sync"), `callers`, `seconds` after which no call is started, and optionally
        `repeated` (always the same query) and `profile` (answer with a tree of where the time goes instead).
        """
        kind, callers, repeated = task["kind"], task["callers"], task.get("repeated", False)
        if not hasattr(self._client, kind):
            return {}
        # Opens the connections, which may have been closed when idle, and imports what the first call imports.
        self._calls("whole", callers, 0, repeated)
        self._calls(kind, 1, 0, repeated)
        # A full collection takes 0.1 s with many modules loaded, and would hit one contender or another by chance.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        if task.get("profile"):
            return {"profile": self._profile(kind, callers, task["seconds"], repeated)}
        began, cpu_began = time.perf_counter(), time.process_time()
        times = self._calls(kind, callers, task["seconds"], repeated)
        taken, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
        seconds = statistics.median(times) if callers == 1 else taken / len(times)
        return {"seconds": seconds, "cpu": cpu_seconds / len(times)}

    def _profile(self, kind: str, callers: int, seconds: float, repeated: bool) -> str:
        from pyinstrument import Profiler

        profiler = Profiler(interval=0.0002, async_mode="disabled")
        with profiler:
            self._calls(kind, callers, seconds, repeated)
        return profiler.output_text(unicode=True, show_all=True)

    def _calls(self, kind: str, callers: int, seconds: float, repeated: bool) -> list[float]:
        queries, times = self._queries(repeated), list[float]()
        until = time.perf_counter() + seconds
        if kind == "sync":
            self._synchronous_caller(until, queries, times)
        else:
            self._runner.run(self._callers(kind, callers, until, queries, times))
        return times

    def _synchronous_caller(self, until: float, queries: Iterator[str], times: list[float]) -> None:
        client: Any = self._client
        while not times or time.perf_counter() < until:
            text, began = next(queries), time.perf_counter()
            answer = client.sync(text)
            times.append(time.perf_counter() - began)
            check([answer])

    async def _callers(self, kind: str, callers: int, until: float, queries: Iterator[str], times: list[float]) -> None:
        async def caller() -> None:
            while True:
                text, began = next(queries), time.perf_counter()
                if kind == "stream":
                    pieces = [piece async for piece in self._client.stream(text)]
                else:
                    pieces = [await self._client.whole(text)]
                now = time.perf_counter()
                times.append(now - began)
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
    """Check that these pieces are the server's answer.

    Raises:
        ValueError: They are not, so that their time is worthless.
    """
    text = "".join(pieces)
    if text != TEXT or len(pieces) < at_least:
        msg = f"{len(pieces)} pieces, in all {text!r}, are not the answer"
        raise ValueError(msg)
