"""Starts a second attempt beside a slow one; the first answer wins, and the other attempt is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from torouter.errors import ExpertRequestError

T = TypeVar("T")


async def first_answer(
    first: Coroutine[Any, Any, T | None],
    delay: Awaitable[object],
    second: Callable[[], Coroutine[Any, Any, T | None] | None],
) -> T | None:
    """The first answer of two attempts; None if both have failed in a way after which another replica may be tried.

    Both attempts have ended when this returns or raises, also where it is cancelled.

    Args:
        first: The first attempt; its result is None after such a failure.
        delay: Ends when the second attempt may begin.
        second: Gives the second attempt, None where no replica is ready for it.

    Raises:
        ExpertRequestError: One attempt's request was refused and the other one gave no answer. It is raised only then,
            since another expert may accept what one refuses.
    """
    attempts = [asyncio.ensure_future(first)]
    timer = asyncio.ensure_future(delay)
    refusal: ExpertRequestError | None = None
    try:
        await asyncio.wait((attempts[0], timer), return_when=asyncio.FIRST_COMPLETED)
        if not attempts[0].done() and (second_attempt := second()) is not None:
            attempts.append(asyncio.ensure_future(second_attempt))
        running = set(attempts)
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for attempt in (attempt for attempt in attempts if attempt in done):
                try:
                    answer = attempt.result()
                except ExpertRequestError as error:
                    refusal = error
                else:
                    if answer is not None:
                        return answer
        if refusal is not None:
            raise refusal
        return None
    finally:
        for task in (timer, *attempts):
            task.cancel()
        await asyncio.gather(timer, *attempts, return_exceptions=True)
