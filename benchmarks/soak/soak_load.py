"""Makes many concurrent calls through one contender, checks every answer, and prints the counts as a line of JSON.

Started by `benchmarks.soak` under the contender's own interpreter, so it imports only the standard library and that
contender.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

ATTEMPT_SECONDS = 5.0
"""How long each contender waits for a silent expert."""
ANSWERS = {name: tuple(f"{' ' * (i > 0)}{name}{i}" for i in range(20)) for name in ("code", "facts", "math")}
"""Each expert's answer, token by token."""
WHOLE = {"".join(tokens) for tokens in ANSWERS.values()}
RANKINGS = tuple((first, *(name for name in ANSWERS if name != first)) for first in ANSWERS)


class Contender(Protocol):
    """Asks the experts in the order of `ranking`."""

    async def call(self, ranking: tuple[str, ...]) -> str:
        """The whole answer."""

    def stream(self, ranking: tuple[str, ...]) -> AsyncIterator[str]:
        """The answer piece by piece."""


@dataclass
class Tally:
    """How the calls of one phase ended."""

    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """Percentile of an answered call's milliseconds."""
        ordered = sorted(self.seconds)
        return round(1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else 0.0


async def one_call(contender: Contender, number: int, tally: Tally) -> None:
    """Make call `number` and note how it ended."""
    ranking = RANKINGS[number % len(RANKINGS)]
    text, began = "", time.monotonic()
    try:
        if number % 2:
            async for piece in contender.stream(ranking):
                text += piece
        else:
            text = await contender.call(ranking)
    except Exception as error:  # noqa: BLE001 - each contender raises its own
        tally.errors[type(error).__name__] += 1
        tally.counts["broken off" if text else "failed"] += 1
        return
    tally.seconds.append(time.monotonic() - began)
    if text in WHOLE:
        tally.counts["answered"] += 1
    elif any(whole.startswith(text) for whole in WHOLE):
        tally.counts["truncated"] += 1
    else:
        tally.counts["mixed"] += 1


async def many_calls(contender: Contender, calls: int, at_once: int, until: float) -> Tally:
    """Make `calls` calls, or those that can be started before `until` on the monotonic clock."""
    tally, numbers = Tally(), iter(range(calls))

    async def worker() -> None:
        for number in numbers:
            if time.monotonic() >= until:
                return
            await one_call(contender, number, tally)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return tally


def resident_mib() -> float:
    """Resident memory of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


async def main(module: str, urls: dict[str, str], calls: int, at_once: int, seconds: float) -> dict[str, object]:
    """Warm up and measure with healthy experts (calm), then measure during outages (storm)."""
    contender: Contender = importlib.import_module(module).Routed(urls)
    await many_calls(contender, 2 * at_once, at_once, time.monotonic() + seconds)
    calm = await many_calls(contender, max(calls // 10, 2 * at_once), at_once, time.monotonic() + seconds)
    start = resident_mib()
    print(json.dumps({"calm": True}), flush=True)
    sys.stdin.readline()
    began = time.monotonic()
    storm = await many_calls(contender, calls, at_once, began + seconds)
    return {
        "seconds": round(time.monotonic() - began, 1),
        "counts": dict(storm.counts),
        "errors": dict(storm.errors.most_common(5)),
        "calm": {"p50": calm.percentile(0.5), "p99": calm.percentile(0.99), "counts": dict(calm.counts)},
        "storm": {"p50": storm.percentile(0.5), "p99": storm.percentile(0.99)},
        "rss": [start, resident_mib()],
    }


if __name__ == "__main__":
    module, urls, calls, at_once, seconds = sys.argv[1:]
    print(json.dumps(asyncio.run(main(module, json.loads(urls), int(calls), int(at_once), float(seconds)))))
