"""Experts that fail as a test has scripted it, and a clock that only the test moves."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from torouter.dispatch import (
    Dispatcher,
    DispatchSettings,
    Target,
)
from torouter.errors import (
    ExpertAuthenticationError,
    ExpertConnectionError,
    ExpertError,
    ExpertGenerationError,
    ExpertNotFoundError,
    ExpertOverloadedError,
    ExpertPermissionError,
    ExpertProtocolError,
    ExpertServerError,
    ExpertTimeoutError,
    TruncatedReplyError,
)
from torouter.experts import Expert, ExpertPool
from torouter.routing.decision import RouteDecision

UNAVAILABLE = [
    ExpertConnectionError,
    ExpertTimeoutError,
    ExpertOverloadedError,
    ExpertGenerationError,
    ExpertServerError,
    ExpertProtocolError,
    TruncatedReplyError,
]
ACCESS = [ExpertAuthenticationError, ExpertPermissionError, ExpertNotFoundError]


class ManualClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, woken))
        await woken

    @property
    def next(self) -> float:
        """When the next sleeper wakes, inf without sleepers."""
        return min((until for until, woken in self._sleepers if not woken.done()), default=math.inf)

    async def advance(self, seconds: float) -> None:
        await self.advance_to(self.now + seconds)

    async def advance_to(self, now: float) -> None:
        self.now = now
        for until, woken in self._sleepers:
            if until <= now and not woken.done():
                woken.set_result(None)
        self._sleepers = [(until, woken) for until, woken in self._sleepers if not woken.done()]
        await settle()


class NoJitter(random.Random):
    def random(self) -> float:
        return 0.0


class ScriptedExperts:
    """Experts that do what the test has scripted for them, and answer with their name otherwise."""

    def __init__(self, **faults: list[ExpertError | BaseException | asyncio.Event]) -> None:
        self.faults = faults
        self.asked: list[str] = []
        self.targets: list[Target] = []
        self.in_flight: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def ask(self, target: Target) -> str:
        name = target.expert.name
        self.asked.append(name)
        self.targets.append(target)
        self.in_flight[name] += 1
        self.most[name] = max(self.most[name], self.in_flight[name])
        try:
            fault = self.faults[name].pop(0) if self.faults.get(name) else None
            if isinstance(fault, asyncio.Event):
                await fault.wait()
            elif fault is not None:
                raise fault
            return f"{name} answers"
        finally:
            self.in_flight[name] -= 1

    async def stream(self, target: Target) -> AsyncGenerator[str, None]:
        yield f"{await self.ask(target)}: 1"
        yield "2"
        yield "3"


def pool(*names: str, **fields: Any) -> ExpertPool:
    return ExpertPool([Expert(name=name, url=f"http://{name}.test", **fields) for name in names])


def ranking(*names: str) -> RouteDecision:
    return RouteDecision(ranking=names, scores={})


def dispatcher(experts: ExpertPool, time: ManualClock | None = None, **options: Any) -> Dispatcher:
    time = time or ManualClock()
    hooks = options.pop("hooks", ())
    return Dispatcher(
        experts, DispatchSettings(**options), clock=time.clock, sleep=time.sleep, random=NoJitter(), hooks=hooks
    )


def state(dispatch: Dispatcher, name: str) -> str:
    return next(replica.state for replica in dispatch.snapshot() if replica.expert == name)


def in_flight(dispatch: Dispatcher) -> int:
    return sum(replica.in_flight for replica in dispatch.snapshot())


async def settle() -> None:
    """Let every task run until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)
