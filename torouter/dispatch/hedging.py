"""Has a second attempt begun beside one that is slow: the first answer wins, and the other attempt is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from torouter.errors import ExpertRequestError

T = TypeVar("T")


async def first_answer(
    first: Coroutine[Any, Any, T | None],
    late: Awaitable[object],
    second: Callable[[], Coroutine[Any, Any, T | None] | None],
) -> T | None:
    """The answer of whichever attempt has one first; None if each has failed in a way that lets others be asked.

    Both attempts have ended when this returns or raises, also where it is cancelled.

    Args:
        first: An attempt, None for such a failure.
        late: Is over when the first attempt has had its time alone.
        second: Gives the other attempt, None if there is nobody to ask.

    Raises:
        ExpertRequestError: An attempt's own, once the other one has no answer either: what one expert refuses another
            may take.
    """
    attempts = [asyncio.ensure_future(first)]
    timer = asyncio.ensure_future(late)
    refusal: ExpertRequestError | None = None
    try:
        await asyncio.wait((attempts[0], timer), return_when=asyncio.FIRST_COMPLETED)
        if not attempts[0].done() and (other := second()) is not None:
            attempts.append(asyncio.ensure_future(other))
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
