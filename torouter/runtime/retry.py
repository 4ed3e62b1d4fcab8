"""Another try after a passing failure: jittered exponential waits that never outlast the call's own time limit."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from torouter.errors import DeadlineExceededError, ExpertUnavailableError, NoExpertLeftError

T = TypeVar("T")

FIRST_WAIT, LONGEST_WAIT = 0.25, 8.0
"""Seconds. A wait is a random part of its step."""


async def retried(ask: Callable[[], Awaitable[T]], *, max_retries: int, seconds: float | None) -> T:
    """The result of `ask`, asked up to `max_retries` times more while it fails for a passing reason."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    for tries in itertools.count():
        try:
            return await ask()
        except (ExpertUnavailableError, NoExpertLeftError) as error:
            wait = min(LONGEST_WAIT, FIRST_WAIT * 2**tries) * random.random()  # noqa: S311 - jitter
            spent = isinstance(error, DeadlineExceededError) or time.monotonic() + wait >= end
            if spent or tries == max_retries:
                raise
        await asyncio.sleep(wait)
    raise AssertionError


async def started(stream: AsyncGenerator[T, None]) -> tuple[T, AsyncGenerator[T, None]]:
    """The first item of a stream and the stream after it; a stream that fails before its first item is closed.

    Raises:
        StopAsyncIteration: The stream was empty.
    """
    try:
        return await anext(stream), stream
    except BaseException:
        await stream.aclose()
        raise
