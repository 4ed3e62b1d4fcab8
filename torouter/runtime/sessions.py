"""Remembers which expert served a session last, so that a policy can let the session stay with it."""

from __future__ import annotations

import threading
from collections import OrderedDict


class Sessions:
    """The last expert of each session; of more than `size` sessions those that were idle longest are forgotten.

    Safe to use from any thread. Give what `last` says to `RoutingPolicy.decide(previous=...)`, and what the answer says
    to `served`, so that a session also stays with an expert that it came to by failover.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._experts: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def last(self, session: str) -> str | None:
        """The expert that served the session's last query, None if nobody remembers."""
        return self._experts.get(session)

    def served(self, session: str, expert: str) -> None:
        """Note who has answered."""
        with self._lock:
            self._experts[session] = expert
            self._experts.move_to_end(session)
            if len(self._experts) > self._size:
                self._experts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._experts)
