"""Retry: repeats a call after temporary failures, with jittered exponential waits within the call's time limit."""

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
    """How often and how soon a call is repeated after temporary failures.

    The wait after attempt n (from 0) is a random part of min(`longest`, `first` * 2 ** n) seconds ("full jitter", AWS
    Architecture Blog 2015). `clock`, `sleep` and `draw` (a number in 0..1) are injected by tests.
    """

    retries: int = 2
    first: float = 0.25
    longest: float = 8.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    draw: Callable[[], float] = random.random

    async def __call__(self, attempt: Callable[[], Awaitable[T]], *, seconds: float | None = None) -> T:
        """The result of the first attempt that succeeds.

        Args:
            attempt: Makes one attempt. Errors other than those below are not retried.
            seconds: Time limit of all attempts; no wait goes beyond it.

        Raises:
            ExpertUnavailableError, NoExpertLeftError: The last attempt has failed.
        """
        end = math.inf if seconds is None else self.clock() + seconds
        for number in itertools.count():
            try:
                return await attempt()
            except (ExpertUnavailableError, NoExpertLeftError) as error:
                wait = self.draw() * min(self.longest, self.first * 2**number)
                spent = isinstance(error, DeadlineExceededError) or self.clock() + wait >= end
                if spent or number >= self.retries:
                    raise
                logger.info("attempt %d failed and is repeated: %s", number + 1, error)
            await self.sleep(wait)
        raise AssertionError
