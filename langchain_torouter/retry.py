"""Another try after a passing failure: jittered exponential waits that never outlast the call's own time limit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from tenacity.stop import stop_before_delay

from torouter.errors import DeadlineExceededError, ExpertUnavailableError, NoExpertLeftError

T = TypeVar("T")

LONGEST_WAIT = 8.0
"""Seconds."""


async def retried(ask: Callable[[], Awaitable[T]], *, max_retries: int, seconds: float | None) -> T:
    """The result of `ask`, asked up to `max_retries` times more while it fails for a passing reason."""
    if max_retries == 0:
        return await ask()
    stop = stop_after_attempt(max_retries + 1)
    retrying = AsyncRetrying(
        stop=stop if seconds is None else stop | stop_before_delay(seconds),
        wait=wait_random_exponential(multiplier=0.25, max=LONGEST_WAIT),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )

    async def once() -> T:
        return await ask()  # tenacity awaits only what is a coroutine function

    return await retrying(once)


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, DeadlineExceededError):
        return False
    return isinstance(error, (ExpertUnavailableError, NoExpertLeftError))


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
