"""Times all contenders of a benchmark in turns; medians and ratios over the repeats, as a table and as JSON."""

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

from benchmarks.harness.contenders import Task, Worker

Figures = dict[str, dict[str, list[float]]]
"""By case and contender: one value per repeat."""


def median_seconds(call: Callable[[], object], count: int, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median seconds of `count` calls, by `clock`."""
    seconds = []
    for _ in range(count):
        began = clock()
        call()
        seconds.append(clock() - began)
    return statistics.median(seconds)


def in_turns(
    workers: Iterable[Worker],
    tasks: Mapping[str, Task],
    repeats: int,
    *,
    further: Mapping[str, Figures] | None = None,
    progress: bool = True,
) -> Figures:
    """Give every worker every task, one worker after the other for each task, and repeat the whole.

    So other load on the machine affects all contenders of a case alike.

    Args:
        workers: The contenders; one that answers without `seconds` can't do the task and gets no value for it.
        tasks: By the name of the case.
        repeats: How often the whole is repeated.
        further: Figures to fill with further values of the answers, by the value's name.
        progress: Whether each repeat is reported on standard error.

    Returns:
        The seconds.
    """
    workers = list(workers)
    figures: Figures = {case: {} for case in tasks}
    by_value_name = {"seconds": figures, **(further or {})}
    for repeat in range(repeats):
        for case, task in tasks.items():
            for worker in workers[repeat % len(workers) :] + workers[: repeat % len(workers)]:
                answer = worker.ask(task)
                for name, values in by_value_name.items():
                    if answer.get(name) is not None:
                        values.setdefault(case, {}).setdefault(worker.name, []).append(answer[name])
        if progress:
            print(f"repeat {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
    return figures


def medians(figures: Figures) -> dict[str, dict[str, float]]:
    """By case and contender: the median over the repeats."""
    return {case: {name: statistics.median(v) for name, v in by.items()} for case, by in figures.items()}


def ratio(figures: Figures, case: str, name: str, base: str) -> float:
    """Median over the repeats of the ratio of two contenders' values in the same repeat."""
    pairs = zip(figures[case][name], figures[case][base], strict=True)
    return statistics.median(a / b for a, b in pairs)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine() -> dict[str, Any]:
    """The machine and its load, for the report."""
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
    """Print the page, and write it and the result as `name`.md and `name`.json into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n", encoding="utf-8")
    (out / f"{name}.md").write_text(page + "\n", encoding="utf-8")
    print(page, flush=True)
