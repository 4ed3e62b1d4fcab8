"""Keeps the expert that last answered each session, so that a policy can let the session stay with it."""

from __future__ import annotations

import threading
from collections import OrderedDict


class Sessions:
    """The last expert of each of the `size` most recently used sessions. Safe to use from any thread.

    Pass the result of `last` to `RoutingPolicy.decide(previous=...)`, and the expert that answered to `served`. So a
    session also stays with an expert that it reached by failover.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._experts: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def last(self, session: str) -> str | None:
        """The expert that answered the session's last query, None for an unknown session."""
        return self._experts.get(session)

    def served(self, session: str, expert: str) -> None:
        """Record the expert that has answered."""
        with self._lock:
            self._experts[session] = expert
            self._experts.move_to_end(session)
            if len(self._experts) > self._size:
                self._experts.popitem(last=False)

    def __len__(self) -> int:
        return len(self._experts)
