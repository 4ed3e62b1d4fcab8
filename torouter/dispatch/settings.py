"""DispatchSettings: every limit of the dispatcher, with its default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from torouter.errors import ConfigurationError

Handshake = Literal["warn", "refuse", "off"]
HANDSHAKES: tuple[Handshake, ...] = ("warn", "refuse", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """Deadline, cool-downs, retries, concurrency limits and hedging of the dispatcher.

    Raises:
        ConfigurationError: A field has a value that can't work; the message names field, value and fix.
    """

    deadline: float | None = 180.0
    """Seconds for the whole call: waiting, all attempts, and a stream until its end. None: no limit."""
    attempt_share: float = 0.5
    """Share of the time left that one attempt may take to answer (a stream: to its first item) while another expert
    is ready, so that a stalled expert leaves time for the next. The last ready expert may take all of the time left."""
    cooldown: float = 1.0
    """Seconds that a replica is not called after a failure. Doubles with each failure in a row; a random part of up to
    one half is subtracted, so that callers don't return all at once."""
    max_cooldown: float = 30.0
    """Longest cool-down, except `access_cooldown`; seconds."""
    access_cooldown: float = 300.0
    """Cool-down after 401, 403 and 404, which last until the configuration is fixed; seconds."""
    retry_ratio: float = 0.1
    """Part of a retry that each call adds to the retry budget. A retry is a request to a replica that cools down
    (except a call's first attempt), to the same replica again, or to a second one at the same time (a hedge)."""
    retry_reserve: float = 20.0
    """Most retries that the budget holds; it starts full."""
    rounds: int = 1
    """Most passes of a call over its ranking. From the second on it calls no replica before its cool-down ends, which
    costs time and no load. More than one helps where all experts may be down or overloaded for a moment."""
    max_concurrency: int | None = 128
    """Most requests that a replica is sent at the same time where its expert states no limit; further calls wait. TGI
    refuses the 129th by default. None: no limit."""
    queue_seconds: float = 30.0
    """Seconds that a call waits for a slot of a fully loaded expert, at most half of the time left, before it goes to
    the next one with a free slot. If all are full it keeps waiting, until the deadline."""
    hedge_seconds: float | None = None
    """Seconds without an answer after which a call is also sent to the next replica in its ranking that is ready and
    has room; the first answer wins and the other request is cancelled. It costs one retry of the budget, and the
    price of both requests. Whole answers only, never streams. None: no hedging."""
    handshake: Handshake = "warn"
    """What to do where a server states (`/info`, `/v1/models`) that it serves another model than the router was trained
    for, or than the expert's `model`: "warn" once in the log, "refuse" to send it requests, or "off": do not ask."""

    def __post_init__(self) -> None:
        for name in ("cooldown", "max_cooldown", "access_cooldown", "retry_ratio", "retry_reserve", "queue_seconds"):
            self._check(name, 0 <= _number(getattr(self, name)) < math.inf, "give a number, zero or more")
        self._check("deadline", self.deadline is None or _number(self.deadline) > 0, "give seconds above zero, or None")
        hedge = self.hedge_seconds
        self._check("hedge_seconds", hedge is None or 0 < _number(hedge) < math.inf, "give seconds above zero, or None")
        self._check("attempt_share", 0 < _number(self.attempt_share) <= 1, "give a share above 0, up to 1")
        self._check("handshake", self.handshake in HANDSHAKES, f"use one of {', '.join(HANDSHAKES)}")
        self._check("rounds", _is_count(self.rounds), "give a whole number above zero")
        limit = self.max_concurrency
        self._check("max_concurrency", limit is None or _is_count(limit), "give a whole number above zero, or None")

    @classmethod
    def from_mapping(cls, entry: Mapping[str, Any]) -> DispatchSettings:
        """Build settings from plain data.

        Raises:
            ConfigurationError: An unknown key or a wrong value.
        """
        known = [f.name for f in fields(cls)]
        for key in entry:
            if key not in known:
                msg = f"DispatchSettings has no field {key!r}; known fields are {', '.join(known)}"
                raise ConfigurationError(msg)
        return cls(**entry)

    def _check(self, name: str, fine: bool, fix: str) -> None:
        if not fine:
            msg = f"DispatchSettings: {name}={getattr(self, name)!r} can't be used: {fix}"
            raise ConfigurationError(msg)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(value: object) -> float:
    """The value where it is a number, else NaN, which no comparison accepts."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
