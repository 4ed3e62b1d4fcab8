"""A framework's own model as an expert: what its failures mean for failover."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torouter.errors import ExpertConnectionError, ExpertError, ExpertTimeoutError, TORouterError
from torouter.tgi.faults import error_from_response

Classify = Callable[[Exception, str], ExpertError | None]

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
    if isinstance(error, TORouterError):
        return None
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if isinstance(status, int) and status >= 400:
        return error_from_response(expert, status, str(error).encode(), getattr(response, "headers", None) or {})
    message = f"expert {expert!r}: {type(error).__name__}"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & _TIMEOUTS:
        return ExpertTimeoutError(message, expert=expert)
    if kinds & _CONNECTIONS:
        return ExpertConnectionError(message, expert=expert)
    return None


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
