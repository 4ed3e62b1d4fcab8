"""The time limits of one call to a server, and the clock that says which of them ends it next."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, fields

from torouter.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits of one call, in seconds.

    Raises:
        ConfigurationError: A limit is not a positive number.
    """

    connect: float = 5.0
    """Until a connection is open, name resolution and TLS included."""
    first_byte: float = 60.0
    """From the start of a streamed call to its first event. Keep-alive comments do not count: TGI sends them to queued
    requests too. Calls without a stream ignore it, since their server sends nothing before the whole answer is done."""
    idle: float = 60.0
    """Silence between two reads of a stream after its first event. Comments end a silence: TGI sends one every 15 s."""
    total: float = 600.0
    """The whole call; for a stream this includes the time that its consumer takes."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            value = getattr(self, limit.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
                msg = f"Timeouts: {limit.name}={value!r} can't be used: give seconds above zero"
                raise ConfigurationError(msg)


class CallClock:
    """The limits of one call as times of the running loop's clock, each with the words for its error message.

    Args:
        timeouts: The limits.
        deadline: Seconds from now; it can only shorten `timeouts.total`.
        stream: Whether the answer is streamed, so that `first_byte` and `idle` count.

    Attributes:
        started: Whether the first event of a stream has come; set by the caller.
    """

    __slots__ = ("_first", "_idle", "_idle_message", "_loop", "_total", "started")

    def __init__(self, timeouts: Timeouts, deadline: float | None, *, stream: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        total = timeouts.total if deadline is None else min(deadline, timeouts.total)
        self._total = (now + total, f"has not finished within {total:g} s")
        self._first = (now + timeouts.first_byte, f"sends no event within {timeouts.first_byte:g} s")
        self._idle = timeouts.idle if stream else math.inf
        self._idle_message = f"is silent for {timeouts.idle:g} s"
        self.started = not stream

    def limit(self) -> tuple[float, str]:
        """The next time at which to give up, and what the error says then."""
        next_limit = (self._loop.time() + self._idle, self._idle_message) if self.started else self._first
        return min(next_limit, self._total)

    def seconds_left(self) -> float:
        """Seconds until the whole call must be over."""
        return self._total[0] - self._loop.time()

    def shorten(self, seconds: float) -> None:
        """Give up after `seconds` from now at the latest."""
        self._total = min(self._total, (self._loop.time() + seconds, f"has not finished within {seconds:g} s"))
