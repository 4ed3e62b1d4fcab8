"""Times and ratios of one benchmark: repeats of all contenders in turns, their medians, a table and JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.contenders import Asked, Worker

Figures = dict[str, dict[str, list[float]]]
"""By case and contender: one figure per repeat."""


def median_seconds(call: Callable[[], object], count: int, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of `count` calls, in the clock's seconds."""
    taken = []
    for _ in range(count):
        began = clock()
        call()
        taken.append(clock() - began)
    return statistics.median(taken)


def in_turns(
    workers: Iterable[Worker],
    cases: Mapping[str, Asked],
    repeats: int,
    *,
    beside: Mapping[str, Figures] | None = None,
    progress: bool = True,
) -> Figures:
    """Ask every worker every case, all workers of one case after each other, the whole so many times.

    What the machine does meanwhile meets all contenders of a case alike. A worker that answers without `seconds`
    can't do the case. Further figures of the same answers, by name, are put into those of `beside`.
    """
    workers = list(workers)
    figures: Figures = {case: {} for case in cases}
    kinds = {"seconds": figures, **(beside or {})}
    for repeat in range(repeats):
        for case, asked in cases.items():
            for worker in workers[repeat % len(workers) :] + workers[: repeat % len(workers)]:
                answer = worker.ask(asked)
                for name, kept in kinds.items():
                    if answer.get(name) is not None:
                        kept.setdefault(case, {}).setdefault(worker.name, []).append(answer[name])
        if progress:
            print(f"repeat {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
    return figures


def medians(figures: Figures) -> dict[str, dict[str, float]]:
    """By case and contender: the median over the repeats."""
    return {case: {name: statistics.median(v) for name, v in by.items()} for case, by in figures.items()}


def ratio(figures: Figures, case: str, name: str, base: str) -> float:
    """Median over the repeats of one contender's figure by another's of the same repeat."""
    pairs = zip(figures[case][name], figures[case][base], strict=True)
    return statistics.median(a / b for a, b in pairs)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": [round(load, 2) for load in os.getloadavg()],
    }


def write(out: Path, name: str, result: Mapping[str, Any], page: str) -> None:
    """Print the page and write it, and the result as JSON, into a directory."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(page + "\n", encoding="utf-8")
    print(page, flush=True)
