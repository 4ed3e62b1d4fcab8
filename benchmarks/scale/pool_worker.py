"""The process that `benchmarks.scale` asks for times of decisions: one router, grown to pools of several sizes."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.harness.contenders import Asked, serve
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
"""By name; the second one weighs prices and seconds and looks at each expert's ceiling."""


def grown(router: Router, counts: Sequence[int]) -> dict[int, Router]:
    """The router with as many experts as each of `counts` says, some taken away or added with a few outcomes."""
    found: dict[int, Router] = {}
    rng = np.random.default_rng(0)
    queries = tuple(f"query number {number}" for number in range(8))
    for count in sorted(counts):
        one = router
        while len(one.experts) > count:
            one = one.remove_expert(one.experts[-1])
        while len(one.experts) < count:
            name = f"expert-{len(one.experts):03}"
            outcomes = OutcomeMatrix(queries, (name,), rng.random((len(queries), 1), dtype=np.float32))
            one = one.add_expert(name, outcomes)
        found[count] = one
        router = one if count >= len(router.experts) else router  # the next count grows from here
    return found


def pool(names: Sequence[str]) -> ExpertPool:
    """Experts with prices and windows; nobody asks them anything."""
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
    """Answers the asks of `benchmarks.scale` for one router."""

    def __init__(self, router: Router, counts: Sequence[int]) -> None:
        self._routers = grown(router, counts)
        self._pools = {count: pool(one.experts) for count, one in self._routers.items()}
        self._routed = {
            (count, name): RoutedExperts(one, self._pools[count], policy=policy)
            for count, one in self._routers.items()
            for name, policy in POLICIES.items()
        }
        self._few = min(self._routers)
        self._model = RoutedChatModel(router=self._routers[self._few], experts=self._pools[self._few])
        self._number = 0

    def __call__(self, asked: Asked) -> Mapping[str, Any]:
        ways: dict[str, Callable[[Asked], float]] = {
            "decide": self._decide,
            "route": self._route,
            "threads": self._threads,
            "tasks": self._tasks,
        }
        return {"seconds": ways[asked["way"]](asked)}

    def _text(self, characters: int) -> str:
        """A text that was never asked before."""
        self._number += 1
        return (f"{self._number} " + "why is the sky blue at noon " * (1 + characters // 28))[:characters]

    def _queries(self, count: int, characters: int) -> list[RouteQuery]:
        texts = [self._text(characters) for _ in range(count)]
        return [
            RouteQuery(text=t, requirements=Requirements(input_tokens=estimate_tokens(t)), inputs=(t,)) for t in texts
        ]

    def _decide(self, asked: Asked) -> float:
        """Median seconds from a query to the block that the answer's metadata hold."""
        routed = self._routed[asked["experts"], asked["policy"]]
        queries = iter(self._queries(asked["calls"], asked["characters"]))

        def one() -> None:
            decision = routed.decide(next(queries))
            routing_block(decision, decision.expert, ())

        return median_seconds(one, asked["calls"])

    def _route(self, asked: Asked) -> float:
        """Median seconds of `RoutedChatModel.route`, which counts tokens and converts messages too."""
        texts = iter([self._text(asked["characters"]) for _ in range(asked["calls"])])
        return median_seconds(lambda: self._model.route(next(texts)), asked["calls"])

    def _threads(self, asked: Asked) -> float:
        """Seconds per decision of so many threads, all of which decide at once."""
        routed = self._routed[self._few, "default"]
        queries = self._queries(asked["calls"], asked["characters"])
        with ThreadPoolExecutor(asked["callers"]) as executor:
            began = time.perf_counter()
            list(executor.map(routed.decide, queries))
            return (time.perf_counter() - began) / len(queries)

    def _tasks(self, asked: Asked) -> float:
        """Seconds per decision of so many tasks of one event loop."""
        routed = self._routed[self._few, "default"]
        queries = self._queries(asked["calls"], asked["characters"])

        async def caller(left: list[RouteQuery]) -> None:
            while left:
                await routed.adecide(left.pop())

        async def all_callers() -> float:
            began = time.perf_counter()
            await asyncio.gather(*(caller(queries) for _ in range(asked["callers"])))
            return time.perf_counter() - began

        return asyncio.run(all_callers()) / asked["calls"]


def main() -> None:
    """Load and grow the router, then answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("router")
    parser.add_argument("precision")
    parser.add_argument("--counts", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    router = AutoRouter.from_pretrained(arguments.router, precision=arguments.precision)
    serve(Decisions(router, arguments.counts))


if __name__ == "__main__":
    main()
