"""Worker of `benchmarks.scale`: times decisions of one router, resized to pools of several sizes."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.harness.contenders import Task, serve
from benchmarks.harness.timing import median_seconds
from langchain_torouter import RoutedChatModel
from torouter.experts import Expert, ExpertPool
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.router import AutoRouter, Router
from torouter.routing.decision import routing_block
from torouter.routing.policy import RoutingPolicy
from torouter.routing.requirements import Requirements, estimate_tokens
from torouter.runtime.routed_experts import RoutedExperts, RouteQuery

POLICIES: Mapping[str, RoutingPolicy] = {
    "default": RoutingPolicy(),
    "weighing": RoutingPolicy(price_weight=0.05, latency_weight=0.01, max_price=1e6),
}
"""By name; the second one weighs prices and seconds and checks a ceiling for each expert."""


def resized(router: Router, counts: Sequence[int]) -> dict[int, Router]:
    """By each of `counts`, the router with that many experts; it removes some or adds some with a few outcomes."""
    routers: dict[int, Router] = {}
    rng = np.random.default_rng(0)
    queries = tuple(f"query number {number}" for number in range(8))
    for count in sorted(counts):
        sized = router
        while len(sized.experts) > count:
            sized = sized.remove_expert(sized.experts[-1])
        while len(sized.experts) < count:
            name = f"expert-{len(sized.experts):03}"
            outcomes = OutcomeMatrix(queries, (name,), rng.random((len(queries), 1), dtype=np.float32))
            sized = sized.add_expert(name, outcomes)
        routers[count] = sized
        router = sized if count >= len(router.experts) else router  # the next count grows from here
    return routers


def pool(names: Sequence[str]) -> ExpertPool:
    """Experts with prices and context windows, which are never called."""
    return ExpertPool(
        [
            Expert(
                name=name,
                url="http://127.0.0.1:9",
                input_price=0.1 * number,
                output_price=0.4 * number,
                context_window=10**7,
            )
            for number, name in enumerate(names, 1)
        ]
    )


class Decisions:
    """Answers the tasks of `benchmarks.scale` for one router."""

    def __init__(self, router: Router, counts: Sequence[int]) -> None:
        self._routers = resized(router, counts)
        self._pools = {count: pool(sized.experts) for count, sized in self._routers.items()}
        self._routed = {
            (count, name): RoutedExperts(sized, self._pools[count], policy=policy)
            for count, sized in self._routers.items()
            for name, policy in POLICIES.items()
        }
        self._fewest = min(self._routers)
        self._model = RoutedChatModel(router=self._routers[self._fewest], experts=self._pools[self._fewest])
        self._number = 0

    def __call__(self, task: Task) -> Mapping[str, Any]:
        ways: dict[str, Callable[[Task], float]] = {
            "decide": self._decide,
            "route": self._route,
            "threads": self._threads,
            "tasks": self._tasks,
        }
        return {"seconds": ways[task["way"]](task)}

    def _text(self, characters: int) -> str:
        """A text that was not routed before."""
        self._number += 1
        return (f"{self._number} " + "why is the sky blue at noon " * (1 + characters // 28))[:characters]

    def _queries(self, count: int, characters: int) -> list[RouteQuery]:
        texts = [self._text(characters) for _ in range(count)]
        return [
            RouteQuery(text=t, requirements=Requirements(input_tokens=estimate_tokens(t)), inputs=(t,)) for t in texts
        ]

    def _decide(self, task: Task) -> float:
        """Median seconds from a query to the routing block in an answer's metadata."""
        routed = self._routed[task["experts"], task["policy"]]
        queries = iter(self._queries(task["calls"], task["characters"]))

        def decide_once() -> None:
            decision = routed.decide(next(queries))
            routing_block(decision, decision.expert, ())

        return median_seconds(decide_once, task["calls"])

    def _route(self, task: Task) -> float:
        """Median seconds of `RoutedChatModel.route`, which counts tokens and converts messages too."""
        texts = iter([self._text(task["characters"]) for _ in range(task["calls"])])
        return median_seconds(lambda: self._model.route(next(texts)), task["calls"])

    def _threads(self, task: Task) -> float:
        """Seconds per decision of several threads that decide at the same time."""
        routed = self._routed[self._fewest, "default"]
        queries = self._queries(task["calls"], task["characters"])
        with ThreadPoolExecutor(task["callers"]) as executor:
            began = time.perf_counter()
            list(executor.map(routed.decide, queries))
            return (time.perf_counter() - began) / len(queries)

    def _tasks(self, task: Task) -> float:
        """Seconds per decision of several tasks of one event loop."""
        routed = self._routed[self._fewest, "default"]
        queries = self._queries(task["calls"], task["characters"])

        async def caller(remaining: list[RouteQuery]) -> None:
            while remaining:
                await routed.adecide(remaining.pop())

        async def all_callers() -> float:
            began = time.perf_counter()
            await asyncio.gather(*(caller(queries) for _ in range(task["callers"])))
            return time.perf_counter() - began

        return asyncio.run(all_callers()) / task["calls"]


def main() -> None:
    """Load and resize the router, then answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("router")
    parser.add_argument("precision")
    parser.add_argument("--counts", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    router = AutoRouter.from_pretrained(arguments.router, precision=arguments.precision)
    serve(Decisions(router, arguments.counts))


if __name__ == "__main__":
    main()
