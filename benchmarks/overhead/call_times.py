"""Measures what a client costs per call, against a server that answers at once: ours, which route, and others.

    python -m benchmarks.overhead                                        # all contenders
    python -m benchmarks.overhead --only RoutedChat ChatOpenAI           # names that contain one of these
    python -m benchmarks.overhead --profile "RoutedChatModel fast"       # where its time goes

The server is a process on one core, each contender a process on another core; they are asked in turns, so that only
one works at a time. Contenders with other libraries have environments of their own, created on first use.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.decision.timed_routers import prepare
from benchmarks.harness.contenders import ROOT, Contender, Task, Worker, child_process, read_json_line, started
from benchmarks.harness.timing import Figures, in_turns, medians, ratio, table, write
from torouter.routers.encoders.pretrained import encoder_path

T = TypeVar("T")

CALLERS = (1, 32, 256)
BASE = "ChatOpenAI"
"""The contender by which the others' values are divided, if it takes part."""
ROUTERS = ("words", "fast", "bert")
"""Of our contenders; "words" replaces a trained router and costs almost nothing."""
OURS = "benchmarks.overhead.torouter_clients"
FAST, BERT = "RoutedChatModel fast", "RoutedChatModel bert int8"
PEERS = (
    Contender(BASE, "benchmarks.overhead.langchain_client", ("langchain-openai==1.7.3",)),
    Contender(
        "LlamaIndex OpenAILike", "benchmarks.overhead.llamaindex_client", ("llama-index-llms-openai-like==0.8.1",)
    ),
    Contender("LiteLLM Router", "benchmarks.overhead.litellm_client", ("litellm==1.106.2",)),
    Contender("AsyncOpenAI", "benchmarks.overhead.openai_client", ("openai==3.57.0",)),
    Contender("AsyncInferenceClient", "benchmarks.overhead.huggingface_client"),
    Contender("bare aiohttp", "benchmarks.overhead.raw_clients", arguments=("aiohttp",)),
    Contender("bare sockets", "benchmarks.overhead.raw_clients", arguments=("socket",)),
)
TARGETS = (
    ("whole, 1 caller", FAST, 0.6),
    ("whole, 1 caller", BERT, 1.6),
    ("stream, 1 caller", FAST, 0.3),
    ("whole, 32 callers", FAST, 1 / 2),
    ("whole, 256 callers", FAST, 1 / 2),
)
"""Case, contender, and the highest ratio of its time per call to ChatOpenAI's that is a success."""


def cases(seconds: float) -> dict[str, Task]:
    """The tasks, by the name of their case."""
    tasks: dict[str, Task] = {}
    for kind in ("whole", "stream"):
        for callers in CALLERS:
            name = f"{kind}, {callers} caller{'s' * (callers > 1)}"
            tasks[name] = {"kind": kind, "callers": callers, "seconds": seconds}
    tasks["whole, 1 caller, synchronous"] = {"kind": "sync", "callers": 1, "seconds": seconds}
    again = {"kind": "whole", "callers": 1, "seconds": seconds, "repeated": True}
    return {**tasks, "whole, 1 caller, the same query again": again}


def ours(routers: Iterable[str]) -> list[Contender]:
    """Our contenders, with a router of each of these kinds and without one."""
    contenders = []
    for framework, routed, plain in (
        ("langchain", "RoutedChatModel", "ChatTGI"),
        ("llamaindex", "RoutedLLM", "TGILLM"),
    ):
        names = {f"{routed} {router}{' int8' * (router == 'bert')}": router for router in routers} | {plain: "none"}
        contenders += [Contender(name, OURS, arguments=(framework, router)) for name, router in names.items()]
    return contenders


def measure(contenders: Iterable[Contender], tasks: Mapping[str, Task], repeats: int) -> dict[str, Any]:
    """`seconds` of a call, `cpu` seconds of the contender's process per call, and `versions` of its packages."""
    cpu: Figures = {}
    with running(contenders) as workers:
        versions = {worker.name: worker.ready["versions"] for worker in workers}
        seconds = in_turns(workers, tasks, repeats, further={"cpu": cpu})
    return {"seconds": seconds, "cpu": cpu, "versions": versions}


@contextmanager
def running(contenders: Iterable[Contender]) -> Iterator[list[Worker]]:
    """The contenders' processes, and the server that they call."""
    server, client = cores()
    with (
        tempfile.TemporaryFile("w+") as log,
        child_process(
            sys.executable, "-m", "benchmarks.overhead.instant_server", *server, log=log, limit=3600
        ) as child,
        started(contenders, (read_json_line(child, log)["url"], client)) as workers,
    ):
        yield workers


def cores() -> tuple[tuple[str, ...], str]:
    """The server's argument and the contenders' core: different cores, if the machine has two and can bind to them."""
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    return ((str(free[0]),), str(free[1])) if len(free) > 1 else ((), "")


def page(seconds: Figures, cpu: Figures) -> str:
    """The Markdown page: a table for each case, and the targets."""
    parts = [f"### {case}\n\n{of_case(case, seconds, cpu)}" for case, by in seconds.items() if by]
    return "\n\n".join([*parts, f"### Targets\n\n{targets(seconds, cpu)}"])


def of_case(case: str, seconds: Figures, cpu: Figures) -> str:
    """A case's table, the fastest contender first: milliseconds or requests per second, and CPU time per call."""
    by, cpu_seconds = medians(seconds)[case], medians(cpu)[case]
    base = BASE if BASE in by else next(iter(by))
    many = " callers" in case
    rows = [
        (
            *(name, f"{1 / by[name]:,.0f}" if many else f"{1000 * by[name]:.2f}", compared(seconds, case, name, base)),
            *(f"{1000 * cpu_seconds[name]:.2f}", f"{ratio(cpu, case, name, base):.2f}"),
        )
        for name in sorted(by, key=by.__getitem__)
    ]
    unit = "requests/s" if many else "ms"
    return table(("contender", unit, f"time by {base} (range)", "CPU ms", f"CPU by {base}"), rows)


def compared(figures: Figures, case: str, name: str, base: str) -> str:
    """The ratio of two contenders' times with its range over the repeats."""
    pairs = [a / b for a, b in zip(figures[case][name], figures[case][base], strict=True)]
    return f"{ratio(figures, case, name, base):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def targets(seconds: Figures, cpu: Figures) -> str:
    """The table of targets, and whether each is met."""
    rows = []
    for case, name, highest in TARGETS:
        if {name, BASE} <= seconds.get(case, {}).keys():
            value = ratio(seconds, case, name, BASE)
            result = (f"{value:.2f}", "met" if value <= highest else "missed", f"{ratio(cpu, case, name, BASE):.2f}")
        else:
            result = ("", "not measured", "")
        rows.append((case, name, f"{highest:.2f}", *result))
    return table(("case", "contender", f"time by {BASE}, at most", "measured", "", "CPU"), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=str(__doc__).split("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", help="contenders whose names contain one of these; default: all")
    add("--cases", nargs="+", metavar="CASE", help="cases whose names contain one of these; default: all")
    add("--repeats", type=int, default=5)
    add("--seconds", type=float, default=0.3, help="of one measurement, after which no call is started")
    add("--routers", nargs="+", default=["fast", "bert"], choices=ROUTERS, help="of our contenders")
    add("--bert", type=Path, metavar="DIR", help="checkpoint of a BertRouter")
    add("--fast", type=Path, metavar="DIR", help="checkpoint of a fast router")
    add(
        "--cache",
        type=Path,
        default=ROOT / "build" / "routers",
        help="where the other checkpoints are; missing ones are trained",
    )
    add("--out", type=Path, default=ROOT / "reports", help="where overhead.json and overhead.md go")
    add(
        "--profile",
        metavar="NAME",
        help="print where this contender's time goes (needs pyinstrument), and measure nothing",
    )
    options = parser.parse_args(argv)
    contenders = {contender.name: contender for contender in (*ours(options.routers), *PEERS)}
    tasks = _containing(cases(options.seconds), options.cases or (options.profile and ["whole, 32 callers"]))
    if options.profile:
        if options.profile not in contenders:
            parser.error(f"--profile {options.profile!r}: use one of {', '.join(contenders)}")
        with running([_with_router(contenders[options.profile], options)]) as (worker,):
            for case, task in tasks.items():
                answer = worker.ask({**task, "profile": True})
                print(f"{case}\n{answer.get('profile', 'has no such calls')}", flush=True)
        return
    chosen = [_with_router(contender, options) for contender in _containing(contenders, options.only).values()]
    if not tasks or not chosen:
        parser.error("--only and --cases leave nothing to measure")
    result = measure(chosen, tasks, options.repeats)
    write(options.out, "overhead", result, page(result["seconds"], result["cpu"]))


def _containing(named: Mapping[str, T], parts: Sequence[str] | None) -> dict[str, T]:
    """The entries whose names contain one of `parts`; all of them without parts."""
    return {name: value for name, value in named.items() if not parts or any(part in name for part in parts)}


def _with_router(contender: Contender, options: argparse.Namespace) -> Contender:
    """The contender with its router's checkpoint instead of the router's kind in its arguments."""
    if contender.module != OURS or contender.arguments[1] in ("none", "words"):
        return contender
    framework, kind = contender.arguments
    directory = getattr(options, kind) or prepare(kind, options.cache.resolve(), Path(encoder_path(None)).resolve())
    return replace(contender, arguments=(framework, f"{directory.resolve()}{'@int8' * (kind == 'bert')}"))
