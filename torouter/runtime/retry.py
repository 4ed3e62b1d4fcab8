"""Retry: another try after a passing failure, after jittered exponential waits that never outlast the call's time."""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from torouter.errors import DeadlineExceededError, ExpertUnavailableError, NoExpertLeftError

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often and how soon a call is tried again while it fails for a passing reason.

    The wait before try n is a random part of min(`longest`, `first` * 2 ** n) seconds ("full jitter", AWS Architecture
    Blog 2015). `clock`, `sleep` and `draw` (a number in 0..1) are there for tests.
    """

    retries: int = 2
    first: float = 0.25
    longest: float = 8.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    draw: Callable[[], float] = random.random

    async def __call__(self, ask: Callable[[], Awaitable[T]], *, seconds: float | None = None) -> T:
        """The result of `ask`.

        Args:
            ask: Makes one try.
            seconds: What all tries may take; no wait goes beyond it.

        Raises:
            ExpertUnavailableError, NoExpertLeftError: The last try's, or what else `ask` raises at once.
        """
        end = math.inf if seconds is None else self.clock() + seconds
        for tries in itertools.count():
            try:
                return await ask()
            except (ExpertUnavailableError, NoExpertLeftError) as error:
                wait = self.draw() * min(self.longest, self.first * 2**tries)
                spent = isinstance(error, DeadlineExceededError) or self.clock() + wait >= end
                if spent or tries >= self.retries:
                    raise
                logger.info("try %d failed and is repeated: %s", tries + 1, error)
            await self.sleep(wait)
        raise AssertionError
