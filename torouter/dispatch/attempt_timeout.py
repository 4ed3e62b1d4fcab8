"""The time limit of one attempt: a share of the time left while another replica is ready, else all of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from torouter.dispatch.failover import FailoverState
from torouter.dispatch.replica import Lease

_LAST_CHECK = 0.01
"""Seconds. With less time left, the other replicas are not checked again."""


@asynccontextmanager
async def attempt_timeout(failover: FailoverState, lease: Lease) -> AsyncIterator[asyncio.Timeout]:
    """Raise TimeoutError at the attempt's time limit, as `asyncio.timeout` does; yields that timer.

    While all other replicas are cooling down, the attempt may take all of the time left. It ends early once one of them
    has answered another call: otherwise a stalled expert would cost this call its answer although another one works.
    """
    share, left = failover.settings.attempt_share, failover.deadline - lease.began
    if left == math.inf:
        async with asyncio.timeout(None) as timer:
            yield timer
        return
    alternatives = list(failover.alternatives(lease.replica))
    ready = any(replica.ready(lease.began) for replica in alternatives)
    loop = asyncio.get_running_loop()
    next_check: asyncio.TimerHandle | None = None

    def check_alternatives(left: float) -> None:
        nonlocal next_check
        if any(not replica.failures for replica in alternatives):
            timer.reschedule(loop.time())
        elif left > _LAST_CHECK:
            next_check = loop.call_later(left * share, check_alternatives, left * (1 - share))

    async with asyncio.timeout(left * share if ready else left) as timer:
        if alternatives and not ready:
            check_alternatives(left)
        try:
            yield timer
        finally:
            if next_check is not None:
                next_check.cancel()
