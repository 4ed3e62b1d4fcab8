"""What grows with scale on one machine: experts, message length, callers, remembered queries, outcome rows.

    python -m benchmarks.scale                                       # all but the rows: about half an hour
    python -m benchmarks.scale --parts rows --rows 1000000           # training and evaluation: hours, on one thread

Decisions are timed in processes of one thread each, all cases in turns; a figure is the median over the repeats of the
median of a few calls, each with a new text, from the query to the block that an answer's metadata hold. Searches and
commands run in processes of their own, whose peak of resident memory is told.
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
from benchmarks.harness.contenders import ONE_THREAD, ROOT, Asked, Contender, Worker, started
from benchmarks.harness.timing import Figures, in_turns, medians, table, write
from benchmarks.scale.outcome_rows import measured
from torouter.routers.encoders.pretrained import encoder_path

PARTS = ("experts", "lengths", "callers", "neighbours", "rows")
ROUTERS = {"BertRouter int8": ("bert", "int8"), "FastRouter": ("fast", "int8"), "MLPRouter int8": ("mlp", "int8")}
"""Kind and precision."""
POLICIES = ("default", "weighing")
MOST, SEARCH_MOST = 1.3, 5.0
"""What a decision over the most experts may take of one over `BASE_EXPERTS`, and milliseconds of a search."""
BASE_EXPERTS = 8
QUERY_CHARACTERS = 120

Result = dict[str, Any]


def experts(workers: Sequence[Worker], counts: Sequence[int], repeats: int, calls: int) -> tuple[Result, list[str]]:
    """Time of a decision by number of experts, and by how much it grows."""
    names = {(policy, count): f"{policy} policy, {count} experts" for policy in POLICIES for count in counts}
    cases: dict[str, Asked] = {
        name: {"way": "decide", "experts": count, "policy": policy, "calls": calls, "characters": QUERY_CHARACTERS}
        for (policy, count), name in names.items()
    }
    found = in_turns(workers, cases, repeats)
    base = BASE_EXPERTS if BASE_EXPERTS in counts else min(counts)
    by_base = {
        worker.name: {
            policy: {count: _share(found, names[policy, count], names[policy, base], worker.name) for count in counts}
            for policy in POLICIES
        }
        for worker in workers
    }
    middle = medians(found)
    rows = [
        (worker.name, policy, *(f"{1000 * middle[names[policy, count]][worker.name]:.3f}" for count in counts))
        for worker in workers
        for policy in POLICIES
    ]
    shares = [
        (worker.name, policy, *(f"{by_base[worker.name][policy][count]:.2f}" for count in counts))
        for worker in workers
        for policy in POLICIES
    ]
    head = ("router", "policy", *(f"{count} experts" for count in counts))
    page = [
        "## Experts",
        "Milliseconds of a decision by number of experts:",
        table(head, rows),
        f"The same by that over {base} experts (at most {MOST} is asked for):",
        table(head, shares),
    ]
    return {"seconds": found, "by_base": by_base, "base": base}, page


def by_case(
    title: str, text: str, workers: Sequence[Worker], cases: Mapping[str, Asked], repeats: int, *, per_second: bool
) -> tuple[Result, list[str]]:
    """A table of one column per case: milliseconds, or how many a second, and what the first case's figure grows to."""
    found = in_turns(workers, cases, repeats)
    middle, first = medians(found), next(iter(cases))

    def row(worker: Worker) -> tuple[str, ...]:
        values = [middle[case][worker.name] for case in cases]
        return (worker.name, *(f"{1 / v:.0f}" if per_second else f"{1000 * v:.3f}" for v in values))

    def grown(worker: Worker) -> tuple[str, ...]:
        shares = [_share(found, case, first, worker.name) for case in cases]
        return (worker.name, *(f"{1 / share if per_second else share:.2f}" for share in shares))

    page = [f"## {title}", text, table(("router", *cases), map(row, workers))]
    page += [f"The same by that of {first}:", table(("router", *cases), map(grown, workers))]
    return {"seconds": found}, page


def _share(figures: Figures, case: str, base: str, name: str) -> float:
    """Median over the repeats of a contender's figure for one case by its figure for another."""
    return statistics.median(a / b for a, b in zip(figures[case][name], figures[base][name], strict=True))


def lengths(workers: Sequence[Worker], characters: Sequence[int], repeats: int, calls: int) -> tuple[Result, list[str]]:
    """Time of `RoutedChatModel.route` by length of the message."""
    cases: dict[str, Asked] = {
        f"{count:,} characters": {"way": "route", "characters": count, "calls": calls} for count in characters
    }
    text = "Milliseconds of `RoutedChatModel.route`, tokens counted and messages converted, by length of the message:"
    return by_case("Message length", text, workers, cases, repeats, per_second=False)


def callers(workers: Sequence[Worker], counts: Sequence[int], repeats: int, calls: int) -> tuple[Result, list[str]]:
    """Decisions per second by number of callers, threads and tasks."""
    cases: dict[str, Asked] = {
        f"{count} {way}": {"way": way, "callers": count, "calls": calls * 8, "characters": QUERY_CHARACTERS}
        for way in ("threads", "tasks")
        for count in counts
    }
    text = (
        f"Decisions per second by callers, threads with `decide` and tasks with `adecide`, on {os.cpu_count()} cores:"
    )
    return by_case("Callers", text, workers, cases, repeats, per_second=True)


def neighbours(counts: Sequence[int], repeats: int) -> tuple[Result, list[str]]:
    """A KNNRouter's search by number of remembered queries."""
    found: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
    for repeat in range(repeats):
        for count in counts:
            print(f"search among {count:,}, {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "benchmarks.scale.search_times", str(count)]
            done = subprocess.run(
                command, cwd=ROOT, env={**os.environ, **ONE_THREAD}, stdout=subprocess.PIPE, text=True, check=True
            )
            found[count].append(json.loads(done.stdout))
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
        for count, ones in found.items()
    ]
    page = [
        "## Remembered queries",
        f"A KNNRouter's search for 100 neighbours of one query (at most {SEARCH_MOST:.0f} ms is asked for):",
        table(("queries", *columns), rows),
    ]
    return {"searches": found}, page


def rows(found: Mapping[str, Mapping[str, Any]], count: int) -> list[str]:
    """The page of training and evaluation."""
    cells = [
        (
            name,
            f"{one['seconds']:.0f}",
            f"{one['cpu_seconds']:.0f}",
            f"{one['peak_gigabytes']:.2f}",
            f"{one['megabytes']:.0f}" if "megabytes" in one else "",
            one["ended"],
        )
        for name, one in found.items()
    ]
    head = ("command", "seconds", "CPU seconds", "peak GB", "MB on disk", "end")
    return ["## Outcome rows", f"`torouter` on a table of {count:,} rows, one thread:", table(head, cells)]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is asked for."""
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
    add("--bert-seconds", type=float, default=600, help="after which the training of a BertRouter on the rows is ended")
    add("--repeats", type=int, default=15)
    add("--calls", type=int, default=20)
    add("--max-length", type=int, default=256, help="tokens of a query that the routers read")
    add("--encoder", help="directory of the encoder; default: all-MiniLM-L6-v2")
    add("--work", type=Path, default=ROOT / "build" / "scale", help="where routers and tables are made and kept")
    add("--out", type=Path, default=ROOT / "reports", help="where scale.json and scale.md go")
    given = parser.parse_args(argv)
    encoder = Path(encoder_path(given.encoder))
    result: Result = {}
    page = [f"`python -m benchmarks.scale {' '.join(sys.argv[1:] if argv is None else argv)}`"]

    def note(name: str, found: tuple[Result, list[str]]) -> None:
        result[name] = found[0]
        page.extend(found[1])

    if {"experts", "lengths", "callers"}.intersection(given.parts):
        counts = sorted(given.counts)
        contenders = []
        for name in given.routers:
            kind, precision = ROUTERS[name]
            directory = prepare(kind, given.work / "routers", encoder, max_length=given.max_length)
            contenders.append(Contender(name, "benchmarks.scale.pool_worker", arguments=(str(directory), precision)))
        with started(contenders, ["--counts", *map(str, counts)]) as workers:
            if "experts" in given.parts:
                note("experts", experts(workers, counts, given.repeats, given.calls))
            if "lengths" in given.parts:
                note("lengths", lengths(workers, given.characters, max(1, given.repeats // 3), given.calls))
            if "callers" in given.parts:
                note("callers", callers(workers, given.callers, max(1, given.repeats // 3), given.calls))
    if "neighbours" in given.parts:
        note("neighbours", neighbours(given.vectors, given.searches))
    if "rows" in given.parts:
        options = {"encoder": encoder, "max_length": given.max_length, "bert_seconds": given.bert_seconds}
        found = measured(given.rows, given.kinds, given.work, **options)
        note("rows", (found, rows(found, given.rows)))
    write(given.out, "scale", result, "\n\n".join(page))
