"""What holds calls back: the retry budget, and the place of a call that waits for a slot."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from torouter.dispatch.replica import Lease, Replica


class RetryBudget:
    """Retries may be a fixed part of all calls, so that an outage does not multiply the load that made it."""

    def __init__(self, ratio: float, reserve: float) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._left = reserve

    def pay_in(self) -> None:
        """A call has come."""
        self._left = min(self._reserve, self._left + self._ratio)

    def take(self) -> bool:
        """Whether one more retry may be made; if so, it is counted."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True, eq=False)
class Waiter:
    """A call in an expert's queue. Calls of several event loops wait in one queue, hence no asyncio.Semaphore.

    A freed slot is handed to the first waiter as a lease, so that no newcomer can take it. A waiter that is woken
    without a lease looks again at all experts.
    """

    expert: str
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Future[None]
    refused: set[Replica]
    """Replicas that have failed this call already."""
    lease: Lease | None = None

    def wake(self) -> bool:
        """Wake the call, from any thread; False if its event loop is closed."""
        try:
            self.loop.call_soon_threadsafe(self._resolve)
        except RuntimeError:
            return False
        return True

    def _resolve(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)
