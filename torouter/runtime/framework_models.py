"""A framework's own model as an expert: what its failures mean for failover, and its synchronous streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

from torouter.endpoints.error_mapping import error_from_response
from torouter.errors import (
    ExpertConnectionError,
    ExpertError,
    ExpertServerError,
    ExpertTimeoutError,
    NoExpertLeftError,
    TORouterError,
)

T = TypeVar("T")

Classify = Callable[[Exception, str], ExpertError | None]

_DONE = object()

_TIMEOUTS = frozenset(("TimeoutError", "TimeoutException", "APITimeoutError", "Timeout"))
_CONNECTIONS = frozenset(("ConnectionError", "TransportError", "APIConnectionError", "ClientConnectionError"))


def as_expert_error(error: Exception, expert: str) -> ExpertError | None:
    """What a failure of a client means for failover, None where it is not the expert's failure but a bug.

    Each integration raises its client's own errors. The HTTP status is read where there is one (openai, anthropic,
    httpx, requests, ...), else Python's own kind of error, or the names of the clients' kinds. The client's text may
    quote the prompt, so it stays in the cause and out of the message.
    """
    if isinstance(error, ExpertError):
        return error
    if isinstance(error, TORouterError) and not isinstance(error, NoExpertLeftError):
        return None
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if isinstance(status, int) and status >= 400:
        return error_from_response(expert, status, str(error).encode(), getattr(response, "headers", None) or {})
    kinds = {kind.__name__ for kind in type(error).__mro__}
    found: type[ExpertError]
    if kinds & _TIMEOUTS:
        found = ExpertTimeoutError
    elif kinds & _CONNECTIONS:
        found = ExpertConnectionError
    elif isinstance(error, NoExpertLeftError):  # the model routes too, and all of its own experts have failed
        found = ExpertServerError
    else:
        return None
    return found(f"expert {expert!r}: {type(error).__name__}", expert=expert)


@contextmanager
def expert_errors(expert: str, classify: Classify = as_expert_error) -> Iterator[None]:
    """Turn failures of a framework's model that leave the block into experts' errors; bugs pass as they are."""
    try:
        yield
    except Exception as error:
        mapped = classify(error, expert)
        if mapped is None or mapped is error:
            raise
        raise mapped from error


async def stepwise(items: Iterator[T]) -> AsyncGenerator[T, None]:
    """A model's synchronous stream, each step in a worker thread, so that it never holds up the event loop."""
    close: Callable[[], None] = getattr(items, "close", lambda: None)
    step: asyncio.Task[object] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, items, _DONE))
            if (item := await asyncio.shield(step)) is _DONE:
                return
            yield cast("T", item)
    finally:
        if step is None or step.done():
            await asyncio.to_thread(close)
        else:  # given up while the model thinks: no thread can be stopped, and a running generator can't be closed
            step.add_done_callback(lambda ended: _close_late(ended, close))


def _close_late(step: asyncio.Task[object], close: Callable[[], None]) -> None:
    if not step.cancelled() and step.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, close)
