"""How long one attempt may take: a share of the time left while another expert could answer, else all of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from torouter.dispatch.failover import FailoverState
from torouter.dispatch.replica import Lease

_LAST_LOOK = 0.01
"""Seconds before the deadline from which on nobody looks again."""


@asynccontextmanager
async def attempt_timeout(failover: FailoverState, lease: Lease) -> AsyncIterator[asyncio.Timeout]:
    """Raise TimeoutError once the attempt has had its time, as `asyncio.timeout` does; yields that timer.

    An attempt that has all the time, since the others are known to be bad, is given up where one of them has answered
    somebody meanwhile: else a stalled expert would cost the call its answer while another one is well.
    """
    share, left = failover.settings.attempt_share, failover.deadline - lease.began
    if left == math.inf:
        async with asyncio.timeout(None) as timer:
            yield timer
        return
    others = list(failover.others(lease.replica))
    ready = any(other.ready(lease.began) for other in others)
    loop = asyncio.get_running_loop()
    watch: asyncio.TimerHandle | None = None

    def look(left: float) -> None:
        nonlocal watch
        if any(not other.failures for other in others):
            timer.reschedule(loop.time())
        elif left > _LAST_LOOK:
            watch = loop.call_later(left * share, look, left * (1 - share))

    async with asyncio.timeout(left * share if ready else left) as timer:
        if others and not ready:
            look(left)
        try:
            yield timer
        finally:
            if watch is not None:
                watch.cancel()
