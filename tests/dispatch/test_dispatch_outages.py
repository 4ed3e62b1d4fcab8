"""Any sequence of faults: no call is lost while one expert lives."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.scripted_experts import (
    ACCESS,
    UNAVAILABLE,
    ManualClock,
    dispatcher,
    in_flight,
    pool,
    ranking,
    settle,
)
from torouter.dispatch import (
    Target,
)
from torouter.errors import (
    ContextLengthError,
    ExpertError,
    TruncatedReplyError,
)

FAULTS = [*UNAVAILABLE, *ACCESS, ContextLengthError]
NAMES = ("a", "b", "c")

Call = tuple[float, bool, list[str]]
Phase = tuple[str, list[Call]]

calls = st.tuples(st.sampled_from([0.0, 0.0, 0.4, 3.0, 40.0]), st.booleans(), st.permutations(NAMES))
phases = st.lists(st.tuples(st.sampled_from(NAMES), st.lists(calls, min_size=1, max_size=8)), min_size=1, max_size=4)
faults = st.fixed_dictionaries({name: st.lists(st.sampled_from(FAULTS), min_size=1, max_size=5) for name in NAMES})


@given(
    phases=phases, faults=faults, cuts=st.booleans(), limit=st.integers(1, 3), reserve=st.sampled_from([0.0, 2.0, 9.0])
)
@settings(max_examples=100, deadline=None)
def test_no_call_fails_while_one_expert_is_healthy_and_answers_never_mix(
    phases: list[Phase], faults: dict[str, list[type[ExpertError]]], cuts: bool, limit: int, reserve: float
) -> None:
    """In each phase one expert is healthy, perhaps one that all calls before have found dead, and the others fail."""

    async def main() -> None:
        time = ManualClock()
        dispatch = dispatcher(
            pool(*NAMES, max_concurrency=limit), time, retry_reserve=reserve, retry_ratio=0.0, deadline=None
        )
        healthy = ""

        async def stream(target: Target) -> AsyncGenerator[str, None]:
            name = target.expert.name
            await time.sleep(1)
            if name != healthy:
                faults[name].append(faults[name].pop(0))
                if cuts and faults[name][0] is TruncatedReplyError:
                    yield name
                raise faults[name][0]("fault", expert=name)
            for _ in range(3):
                yield name
                await time.sleep(0.1)

        async def ask(target: Target) -> str:
            return "".join([item async for item in stream(target)])

        async def call(streamed: bool, names: list[str]) -> None:
            if not streamed:
                served = await dispatch.call(ranking(*names), ask)
                assert (served.value, served.expert) == (healthy * 3, healthy)
                return
            opened = await dispatch.open_stream(ranking(*names), stream)
            items: list[str] = []
            try:
                async for item in opened:
                    items += [item]
            except TruncatedReplyError:
                assert cuts
                assert items == [opened.expert]  # a stream that has begun ends with its error and goes nowhere else
            else:
                assert items == [healthy] * 3

        for healthy, planned in phases:  # noqa: B007 - the experts above read it
            tasks = []
            for pause, streamed, names in planned:
                await time.advance(pause)
                tasks.append(asyncio.ensure_future(call(streamed, names)))
            await settle()
            while not all(task.done() for task in tasks):
                assert time.next < math.inf, "calls wait for something that never comes"
                await time.advance_to(time.next)
            for task in tasks:
                task.result()
            assert in_flight(dispatch) == 0

    asyncio.run(main())
