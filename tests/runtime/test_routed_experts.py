"""Where a decision is made: on the event loop only what is quick, everything else on threads of the library's own."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.word_router import WordRouter
from torouter.errors import ConfigurationError
from torouter.experts import Expert, ExpertPool
from torouter.runtime.routed_experts import RoutedExperts, RouteQuery

POOL = ExpertPool([Expert(name=name, url="http://127.0.0.1:9") for name in ("code", "math")])
LONG = "math " * 10_000


class Quick(WordRouter):
    """Remembers the threads that it scored on."""

    threads: list[threading.Thread]

    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        self.threads.append(threading.current_thread())
        return super().scores(queries)


class Slow(Quick):
    """Has a forward pass that would hold up an event loop."""

    scores_inline = False


def routed(kind: type[Quick]) -> tuple[RoutedExperts, list[threading.Thread]]:
    router = kind.named({"code": 0.6, "math": 0.5})
    router.threads = []
    return RoutedExperts(router, POOL), router.threads


async def test_a_quick_router_scores_where_it_is_asked() -> None:
    experts, threads = routed(Quick)
    assert (await experts.adecide(RouteQuery(text="ask math"))).expert == "math"
    assert threads == [threading.current_thread()]


@pytest.mark.parametrize(("kind", "text"), [(Quick, LONG), (Slow, "ask math")])
async def test_what_takes_time_is_scored_beside_the_event_loop(kind: type[Quick], text: str) -> None:
    experts, threads = routed(kind)
    assert (await experts.adecide(RouteQuery(text=text))).expert == "math"
    assert threads[0] is not threading.current_thread()


async def test_what_takes_time_sees_the_callers_context_variables() -> None:
    tenant: ContextVar[str] = ContextVar("tenant")
    seen: list[str] = []

    class Reading(Slow):
        def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
            seen.append(tenant.get())
            return super().scores(queries)

    experts, _ = routed(Reading)
    tenant.set("mine")
    await experts.adecide(RouteQuery(text="ask math"))
    assert seen == ["mine"]


async def test_a_large_batch_is_scored_in_blocks_and_remembered_whole() -> None:
    experts, threads = routed(Slow)
    texts = [f"query {number}" for number in range(1100)]
    await experts.aprefetch(texts)
    passes = len(threads)
    assert passes > 1  # other calls' decisions come in between
    for text in texts:
        await experts.adecide(RouteQuery(text=text))
    assert len(threads) == passes


def test_scores_of_another_shape_are_refused() -> None:
    class Wide(Quick):
        def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
            return np.zeros((len(queries), 3), dtype=np.float32)

    experts, _ = routed(Wide)
    with pytest.raises(ConfigurationError, match=r"Wide.scores returns shape \(1, 3\): it must return \(1, 2\)"):
        experts.decide(RouteQuery(text="ask math"))


async def test_scoring_leaves_the_event_loops_own_threads_alone() -> None:
    busy, release = threading.Event(), threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    blocked = asyncio.ensure_future(asyncio.to_thread(lambda: (busy.set(), release.wait())))
    experts, _ = routed(Slow)
    try:
        await asyncio.sleep(0)
        assert busy.wait(10)
        await experts.aprefetch(["ask code", "ask math"])
        assert (await experts.adecide(RouteQuery(text="ask facts"))).expert == "code"
    finally:
        release.set()
        await blocked


@pytest.mark.parametrize("text", ["ask math", LONG, "half a pair \ud800 math " * 1000])
async def test_a_repeated_text_is_scored_once(text: str) -> None:
    experts, threads = routed(Slow)
    decisions = [await experts.adecide(RouteQuery(text=text)) for _ in range(3)]
    assert [decision.expert for decision in decisions] == ["math"] * 3
    assert len(threads) == 1


async def test_long_texts_that_differ_at_their_end_are_told_apart() -> None:
    experts, _ = routed(Slow)
    chosen = [(await experts.adecide(RouteQuery(text="word " * 1000 + name))).expert for name in ("math", "code")]
    assert chosen == ["math", "code"]


def test_remembered_scores_are_bounded_in_bytes() -> None:
    experts, _ = routed(Slow)
    experts.decide(RouteQuery(text="math"))
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(64):
        experts.decide(RouteQuery(text=f"{number} " + "x" * 100_000))
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 1_000_000
