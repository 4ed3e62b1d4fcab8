"""Measures growth on one machine: with experts, message length, callers, remembered queries and outcome rows.

    python -m benchmarks.scale                                       # everything except the rows: about half an hour
    python -m benchmarks.scale --parts rows --rows 1000000           # training and evaluation: hours, on one thread

Decisions are timed in processes of one thread each, all cases in turns; a value is the median over the repeats of the
median of a few calls, each with a new text, from the query to the routing block in an answer's metadata. Searches and
commands run in processes of their own, whose peak of resident memory is reported.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.decision.timed_routers import prepare
from benchmarks.harness.contenders import ONE_THREAD, ROOT, Contender, Task, Worker, started
from benchmarks.harness.timing import Figures, in_turns, medians, table, write
from benchmarks.scale.outcome_rows import measure_commands
from torouter.routers.encoders.pretrained import encoder_path

PARTS = ("experts", "lengths", "callers", "neighbours", "rows")
ROUTERS = {"BertRouter int8": ("bert", "int8"), "FastRouter": ("fast", "int8"), "MLPRouter int8": ("mlp", "int8")}
"""Kind and precision."""
POLICIES = ("default", "weighing")
MOST, SEARCH_MOST = 1.3, 5.0
"""Targets: the highest ratio of a decision's time to that with `BASE_EXPERTS`, and milliseconds of a search."""
BASE_EXPERTS = 8
QUERY_CHARACTERS = 120

Result = dict[str, Any]


def experts(workers: Sequence[Worker], counts: Sequence[int], repeats: int, calls: int) -> tuple[Result, list[str]]:
    """Time of a decision by number of experts, and its growth."""
    names = {(policy, count): f"{policy} policy, {count} experts" for policy in POLICIES for count in counts}
    cases: dict[str, Task] = {
        name: {"way": "decide", "experts": count, "policy": policy, "calls": calls, "characters": QUERY_CHARACTERS}
        for (policy, count), name in names.items()
    }
    seconds = in_turns(workers, cases, repeats)
    base = BASE_EXPERTS if BASE_EXPERTS in counts else min(counts)
    by_base = {
        worker.name: {
            policy: {
                count: _growth(seconds, names[policy, count], names[policy, base], worker.name) for count in counts
            }
            for policy in POLICIES
        }
        for worker in workers
    }
    middle = medians(seconds)
    rows = [
        (worker.name, policy, *(f"{1000 * middle[names[policy, count]][worker.name]:.3f}" for count in counts))
        for worker in workers
        for policy in POLICIES
    ]
    growths = [
        (worker.name, policy, *(f"{by_base[worker.name][policy][count]:.2f}" for count in counts))
        for worker in workers
        for policy in POLICIES
    ]
    head = ("router", "policy", *(f"{count} experts" for count in counts))
    page = [
        "## Experts",
        "Milliseconds of a decision by number of experts:",
        table(head, rows),
        f"The same divided by that with {base} experts (target: at most {MOST}):",
        table(head, growths),
    ]
    return {"seconds": seconds, "by_base": by_base, "base": base}, page


def by_case(
    title: str, text: str, workers: Sequence[Worker], cases: Mapping[str, Task], repeats: int, *, per_second: bool
) -> tuple[Result, list[str]]:
    """A table with one column per case, of milliseconds or decisions per second, and one of the growth."""
    seconds = in_turns(workers, cases, repeats)
    middle, first = medians(seconds), next(iter(cases))

    def row(worker: Worker) -> tuple[str, ...]:
        values = [middle[case][worker.name] for case in cases]
        return (worker.name, *(f"{1 / v:.0f}" if per_second else f"{1000 * v:.3f}" for v in values))

    def grown(worker: Worker) -> tuple[str, ...]:
        growths = [_growth(seconds, case, first, worker.name) for case in cases]
        return (worker.name, *(f"{1 / growth if per_second else growth:.2f}" for growth in growths))

    page = [f"## {title}", text, table(("router", *cases), map(row, workers))]
    page += [f"The same divided by that of {first}:", table(("router", *cases), map(grown, workers))]
    return {"seconds": seconds}, page


def _growth(figures: Figures, case: str, base: str, name: str) -> float:
    """Median over the repeats of the ratio of a contender's values for two cases."""
    return statistics.median(a / b for a, b in zip(figures[case][name], figures[base][name], strict=True))


def lengths(workers: Sequence[Worker], characters: Sequence[int], repeats: int, calls: int) -> tuple[Result, list[str]]:
    """Time of `RoutedChatModel.route` by length of the message."""
    cases: dict[str, Task] = {
        f"{count:,} characters": {"way": "route", "characters": count, "calls": calls} for count in characters
    }
    text = "Milliseconds of `RoutedChatModel.route`, tokens counted and messages converted, by length of the message:"
    return by_case("Message length", text, workers, cases, repeats, per_second=False)


def callers(workers: Sequence[Worker], counts: Sequence[int], repeats: int, calls: int) -> tuple[Result, list[str]]:
    """Decisions per second by number of callers, threads and tasks."""
    cases: dict[str, Task] = {
        f"{count} {way}": {"way": way, "callers": count, "calls": calls * 8, "characters": QUERY_CHARACTERS}
        for way in ("threads", "tasks")
        for count in counts
    }
    text = (
        f"Decisions per second by callers, threads with `decide` and tasks with `adecide`, on {os.cpu_count()} cores:"
    )
    return by_case("Callers", text, workers, cases, repeats, per_second=True)


def neighbours(counts: Sequence[int], repeats: int) -> tuple[Result, list[str]]:
    """Time and memory of a KNNRouter's search by number of remembered queries."""
    searches: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for repeat in range(repeats):
        for count in counts:
            print(f"search among {count:,}, {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.scale.search_times", str(count)]
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True, check=True
            )
            searches[count].append(json.loads(done.stdout))
    columns = {
        "ms": ("loaded_milliseconds", "{:.2f}"),
        "ms, all compared": ("exact_milliseconds", "{:.2f}"),
        "recall": ("recall", "{:.4f}"),
        "s to build": ("build_seconds", "{:.1f}"),
        "s to load": ("load_seconds", "{:.2f}"),
        "MB of vectors": ("megabytes_of_vectors", "{:.0f}"),
        "MB of index": ("index_megabytes", "{:.0f}"),
        "peak GB": ("peak_gigabytes", "{:.2f}"),
    }
    rows = [
        (f"{count:,}", *(form.format(statistics.median(one[key] for one in ones)) for key, form in columns.values()))
        for count, ones in searches.items()
    ]
    page = [
        "## Remembered queries",
        f"A KNNRouter's search for 100 neighbours of one query (target: at most {SEARCH_MOST:.0f} ms):",
        table(("queries", *columns), rows),
    ]
    return {"searches": searches}, page


def rows(commands: Mapping[str, Mapping[str, Any]], count: int) -> list[str]:
    """The part of the page about training and evaluation."""
    cells = [
        (
            name,
            f"{one['seconds']:.0f}",
            f"{one['cpu_seconds']:.0f}",
            f"{one['peak_gigabytes']:.2f}",
            f"{one['megabytes']:.0f}" if "megabytes" in one else "",
            one["ended"],
        )
        for name, one in commands.items()
    ]
    head = ("command", "seconds", "CPU seconds", "peak GB", "MB on disk", "end")
    return ["## Outcome rows", f"`torouter` on a table of {count:,} rows, one thread:", table(head, cells)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the chosen parts and write `scale.json` and `scale.md`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, default=PARTS[:-1])
    add("--routers", nargs="+", choices=ROUTERS, default=list(ROUTERS), help="whose decisions are timed")
    add("--counts", type=int, nargs="+", default=[2, 8, 32, 128, 256], help="of experts")
    add("--characters", type=int, nargs="+", default=[100, 1000, 10_000, 100_000, 1_000_000], help="of a message")
    add("--callers", type=int, nargs="+", default=[1, 8, 64])
    add("--vectors", type=int, nargs="+", default=[125, 1250, 12_500, 125_000, 1_000_000], help="remembered queries")
    add("--searches", type=int, default=1, help="repeats of each search, index included")
    add("--rows", type=int, default=1_000_000, help="of the outcome table of the part `rows`")
    add("--kinds", nargs="+", default=["knn", "mlp", "fast", "bert"], help="routers of the part `rows`")
    add(
        "--bert-seconds",
        type=float,
        default=600,
        help="after which the training of a BertRouter on the rows is stopped",
    )
    add("--repeats", type=int, default=15)
    add("--calls", type=int, default=20)
    add("--max-length", type=int, default=256, help="tokens of a query that the routers read")
    add("--encoder", help="directory of the encoder; default: all-MiniLM-L6-v2")
    add("--work", type=Path, default=ROOT / "build" / "scale", help="where routers and tables are created and kept")
    add("--out", type=Path, default=ROOT / "reports", help="where scale.json and scale.md go")
    options = parser.parse_args(argv)
    encoder = Path(encoder_path(options.encoder))
    result: Result = {}
    page = [f"`python -m benchmarks.scale {' '.join(sys.argv[1:] if argv is None else argv)}`"]

    def add_part(name: str, part: tuple[Result, list[str]]) -> None:
        result[name] = part[0]
        page.extend(part[1])

    if {"experts", "lengths", "callers"}.intersection(options.parts):
        counts = sorted(options.counts)
        contenders = []
        for name in options.routers:
            kind, precision = ROUTERS[name]
            directory = prepare(kind, options.work / "routers", encoder, max_length=options.max_length)
            contenders.append(Contender(name, "benchmarks.scale.pool_worker", arguments=(str(directory), precision)))
        with started(contenders, ["--counts", *map(str, counts)]) as workers:
            if "experts" in options.parts:
                add_part("experts", experts(workers, counts, options.repeats, options.calls))
            if "lengths" in options.parts:
                add_part("lengths", lengths(workers, options.characters, max(1, options.repeats // 3), options.calls))
            if "callers" in options.parts:
                add_part("callers", callers(workers, options.callers, max(1, options.repeats // 3), options.calls))
    if "neighbours" in options.parts:
        add_part("neighbours", neighbours(options.vectors, options.searches))
    if "rows" in options.parts:
        limits = {"max_length": options.max_length, "bert_seconds": options.bert_seconds}
        commands = measure_commands(options.rows, options.kinds, options.work, encoder=encoder, **limits)
        add_part("rows", (commands, rows(commands, options.rows)))
    write(options.out, "scale", result, "\n\n".join(page))
