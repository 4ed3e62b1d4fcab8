"""Limits that calls share: the retry budget, and the queue for a replica's free slots."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from torouter.dispatch.replica import Lease, Replica


class RetryBudget:
    """Limits retries to a fixed share of all calls, so that retries do not multiply the load that caused an outage."""

    def __init__(self, ratio: float, reserve: float) -> None:
        self._ratio = ratio
        self._reserve = reserve
        self._left = reserve

    def pay_in(self) -> None:
        """Credit the budget for one call."""
        self._left = min(self._reserve, self._left + self._ratio)

    def take(self) -> bool:
        """Whether one more retry is allowed; if so, it is taken from the budget."""
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True, eq=False)
class Waiter:
    """A call in an expert's queue. Calls of several event loops share the queue, so it can't be an asyncio.Semaphore.

    A freed slot is handed to the first waiter as a lease, so that no later call can take it. A call that is woken
    without a lease asks for its next step again.
    """

    expert: str
    loop: asyncio.AbstractEventLoop
    woken: asyncio.Future[None]
    tried: set[Replica]
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
