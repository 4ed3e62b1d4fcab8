"""The worker of `benchmarks.overhead`: makes the calls of one contender and takes their time.

It runs under the contender's own interpreter, so it imports nothing but the standard library.
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

from benchmarks.harness.contenders import Asked, serve
from benchmarks.overhead.instant_server import TEXT, TOKENS

MAX_TOKENS = len(TOKENS)
_WORDS = """please tell me how the and of a with in for what why could you explain about one more when that is to write
function loop sum product angle river capital king court contract dose fever train hotel ticket moon autumn song market
profit tax"""
_PHRASES = 512


class Client(Protocol):
    """A contender. `sync`, which does what `whole` does for a caller without an event loop, may be missing."""

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
    """Answer the benchmark with the times of the client that `make(url, ...)` gives, made of these packages.

    The command line is what `make` takes beyond the url, the url, and the core to run on, "" for any.
    """
    *arguments, url, core = sys.argv[1:]
    if core:
        os.sched_setaffinity(0, {int(core)})
    with asyncio.Runner() as runner:
        load = Load(make(url, *arguments), runner)
        serve(load.answer, {"versions": {package: metadata.version(package) for package in packages}})


def query(number: int) -> str:
    """Query `number`, about 30 tokens of a BERT; another for every number. It is made in a microsecond or two."""
    return f"{_phrase(number % _PHRASES)} {number}?"


@functools.cache
def _phrase(number: int) -> str:
    return " ".join(random.Random(number).choices(_WORDS.split(), k=25))


class Load:
    """The calls of one contender, no query of which comes twice unless it is asked for."""

    def __init__(self, client: Client, runner: asyncio.Runner) -> None:
        self._client, self._runner, self._made = client, runner, 0

    def answer(self, asked: Asked) -> dict[str, Any]:
        """How long a call takes: `seconds`, and `cpu`, the seconds of it in which this process worked.

        With one caller `seconds` is the median of its calls, with many the time of all by their number. `asked` has
        `kind` ("whole", "stream" or "sync"), `callers`, `seconds` after which no call is begun, perhaps `repeated`
        (the same query again) and `profile`, for a tree of where the time goes in place of figures.
        """
        kind, callers, repeated = asked["kind"], asked["callers"], asked.get("repeated", False)
        if not hasattr(self._client, kind):
            return {}
        # Opens the connections, which may have been closed for idleness, and imports what comes with the first call.
        self._calls("whole", callers, 0, repeated)
        self._calls(kind, 1, 0, repeated)
        # A full collection takes 0.1 s where many modules are loaded; by chance it would meet one contender or another.
        gc.unfreeze()
        gc.collect()
        gc.freeze()
        if asked.get("profile"):
            return {"profile": self._profile(kind, callers, asked["seconds"], repeated)}
        began, worked = time.perf_counter(), time.process_time()
        times = self._calls(kind, callers, asked["seconds"], repeated)
        taken, worked = time.perf_counter() - began, time.process_time() - worked
        seconds = statistics.median(times) if callers == 1 else taken / len(times)
        return {"seconds": seconds, "cpu": worked / len(times)}

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
            asked, began = next(queries), time.perf_counter()
            answer = client.sync(asked)
            times.append(time.perf_counter() - began)
            check([answer])

    async def _callers(self, kind: str, callers: int, until: float, queries: Iterator[str], times: list[float]) -> None:
        async def caller() -> None:
            while True:
                asked, began = next(queries), time.perf_counter()
                if kind == "stream":
                    pieces = [piece async for piece in self._client.stream(asked)]
                else:
                    pieces = [await self._client.whole(asked)]
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
    """Whether this is the server's answer.

    Raises:
        ValueError: It is not, so that its time means nothing.
    """
    text = "".join(pieces)
    if text != TEXT or len(pieces) < at_least:
        msg = f"{len(pieces)} pieces, in all {text!r}, are not the answer"
        raise ValueError(msg)
