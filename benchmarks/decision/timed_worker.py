"""What the contenders of `benchmarks.decision` share: eight topics to tell apart, and the timing of a decision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.harness.contenders import Task, serve
from benchmarks.harness.timing import median_seconds

TOPICS: Mapping[str, tuple[str, ...]] = {
    "code": ("Write a function that reverses a list.", "Why does my loop never end?", "Explain this stack trace."),
    "math": ("What is the integral of x squared?", "Solve 3x + 5 = 20.", "How many primes are below 100?"),
    "law": ("Can my landlord keep the deposit?", "What does this clause mean?", "When does a contract end?"),
    "health": ("What helps against a headache?", "Is this dose too high?", "How is anaemia diagnosed?"),
    "travel": ("Plan three days in Lisbon.", "Which visa do I need?", "How far is the airport?"),
    "cooking": ("How long do I boil an egg?", "What can replace butter?", "Give me a soup recipe."),
    "history": ("Who built the pyramids?", "When did the war end?", "Why did the empire fall?"),
    "chat": ("Hello, how are you?", "Tell me a joke.", "What shall I do today?"),
}
"""Eight experts, each with a few sentences as examples for routers that need no training."""


def timed(decide: Callable[[list[str]], object], *, batches: bool = True) -> None:
    """Answer tasks `{"calls": [texts, ...], "cpu": bool}` with the median seconds of one call of `decide`.

    Each call has texts of its own. The answer is empty for calls with several texts if `batches` is false.
    """

    def answer(task: Task) -> Mapping[str, Any]:
        calls: list[list[str]] = task["calls"]
        if len(calls[0]) > 1 and not batches:
            return {}
        remaining, clock = iter(calls), time.process_time if task["cpu"] else time.perf_counter
        return {"seconds": median_seconds(lambda: decide(next(remaining)), len(calls), clock=clock)}

    serve(answer)
