"""What a client costs per call: ours, which route, and others, which don't, against a server that answers at once.

    python -m benchmarks.overhead                                        # all contenders
    python -m benchmarks.overhead --only words ChatOpenAI aiohttp        # those whose names hold one of these
    python -m benchmarks.overhead --profile "RoutedChatModel fast"       # where its time goes

The server is a process on one core, each contender one on another core; they are asked in turns, so that at any time
one of them works. Contenders whose libraries are not ours live in environments of their own, made on first use.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.contenders import Asked, Contender, process, started, told
from benchmarks.prepared_routers import prepared
from benchmarks.timing import Figures, in_turns, medians, ratio, table, write

CALLERS = (1, 32, 256)
BASE = "ChatOpenAI"
"""Whose figure the ratios are by, where it takes part."""
FAST, BERT = "RoutedChatModel fast", "RoutedChatModel bert int8"
PEERS = (
    Contender(BASE, "benchmarks.overhead_langchain", ("langchain-openai==1.7.3",)),
    Contender("aiohttp", "benchmarks.overhead_raw", arguments=("aiohttp",)),
    Contender("socket", "benchmarks.overhead_raw", arguments=("socket",)),
)
TARGETS = (
    ("whole, 1 caller", FAST, 0.6),
    ("whole, 1 caller", BERT, 1.6),
    ("stream, 1 caller", FAST, 0.3),
    ("whole, 32 callers", FAST, 1 / 2),
    ("whole, 256 callers", FAST, 1 / 2),
)
"""Case, contender, and the most that its time per call may be of ChatOpenAI's."""


def cases(seconds: float) -> dict[str, Asked]:
    """What each contender is asked, by name."""
    found: dict[str, Asked] = {}
    for kind in ("whole", "stream"):
        for callers in CALLERS:
            name = f"{kind}, {callers} caller{'s' * (callers > 1)}"
            found[name] = {"kind": kind, "callers": callers, "seconds": seconds}
    found["whole, 1 caller, synchronous"] = {"kind": "sync", "callers": 1, "seconds": seconds}
    again = {"kind": "whole", "callers": 1, "seconds": seconds, "repeated": True}
    return {**found, "whole, 1 caller, the same query again": again}


def ours(routers: dict[str, str]) -> list[Contender]:
    """Our contenders, with these routers by name."""
    found = []
    for framework, routed, plain in (
        ("langchain", "RoutedChatModel", "ChatTGI"),
        ("llamaindex", "RoutedLLM", "TGILLM"),
    ):
        kinds = {f"{routed} {name}": router for name, router in routers.items()} | {plain: "none"}
        found += [
            Contender(name, "benchmarks.overhead_torouter", arguments=(framework, router))
            for name, router in kinds.items()
        ]
    return found


def measured(contenders: Iterable[Contender], asked: dict[str, Asked], repeats: int) -> Figures:
    """Seconds per call, by case and contender."""
    server, client = cores()
    with (
        tempfile.TemporaryFile("w+") as log,
        process(sys.executable, "-m", "benchmarks.overhead_server", *server, log=log, limit=3600) as child,
        started(contenders, (told(child, log)["url"], client)) as workers,
    ):
        return in_turns(workers, asked, repeats)


def profile(contender: Contender, kind: str, callers: int, seconds: float) -> str:
    """Where a contender's time goes, as pyinstrument's tree."""
    server, client = cores()
    asked = {"kind": kind, "callers": callers, "seconds": seconds, "profile": True}
    with (
        tempfile.TemporaryFile("w+") as log,
        process(sys.executable, "-m", "benchmarks.overhead_server", *server, log=log, limit=3600) as child,
        started([contender], (told(child, log)["url"], client)) as (worker,),
    ):
        return str(worker.ask(asked)["profile"])


def cores() -> tuple[tuple[str, ...], str]:
    """The server's argument and the contenders' core: one each, where the machine has two and can bind them."""
    free = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    return ((str(free[0]),), str(free[1])) if len(free) > 1 else ((), "")


def page(figures: Figures) -> str:
    """The tables: milliseconds or requests per second with ratios, and what was to be reached."""
    parts = [f"### {case}\n\n{of_case(figures, case)}" for case in figures]
    return "\n\n".join([*parts, f"### Targets\n\n{targets(figures)}"])


def of_case(figures: Figures, case: str) -> str:
    """One table, the fastest contender first."""
    by = medians({case: figures[case]})[case]
    base = BASE if BASE in by else next(iter(by), "")
    many = " callers" in case
    rows = [
        (name, f"{1 / seconds:,.0f}" if many else f"{1000 * seconds:.2f}", ratios(figures, case, name, base))
        for name, seconds in sorted(by.items(), key=lambda item: item[1])
    ]
    return table(("contender", "requests/s" if many else "ms per call", f"time by {base}"), rows)


def ratios(figures: Figures, case: str, name: str, base: str) -> str:
    """The ratio of two contenders' times with its range over the repeats."""
    pairs = [a / b for a, b in zip(figures[case][name], figures[case][base], strict=True)]
    return f"{ratio(figures, case, name, base):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def targets(figures: Figures) -> str:
    """What was to be reached, and whether it was."""
    rows = []
    for case, name, most in TARGETS:
        by = figures.get(case, {})
        if name in by and BASE in by:
            found = ratio(figures, case, name, BASE)
            rows.append((case, name, f"{most:.2f}", f"{found:.2f}", "met" if found <= most else "missed"))
        else:
            rows.append((case, name, f"{most:.2f}", "", "not measured"))
    return table(("case", "contender", f"time by {BASE}, at most", "measured", ""), rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=str(__doc__).split("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", help="contenders whose names hold one of these; default: all")
    add("--cases", nargs="+", metavar="CASE", help="cases whose names hold one of these; default: all")
    add("--repeats", type=int, default=5)
    add("--seconds", type=float, default=0.7, help="of one measurement, after which no call is begun")
    add("--routers", nargs="+", default=["words"], choices=("words", "fast", "bert"))
    add("--bert", type=Path, metavar="DIR", help="checkpoint of a BertRouter over the benchmark's experts")
    add("--fast", type=Path, metavar="DIR", help="checkpoint of a fast router over the benchmark's experts")
    add("--cache", type=Path, default=Path("build/routers"), help="where routers are trained into that are not given")
    add("--out", type=Path, default=Path("build/benchmarks"), help="where overhead.json and overhead.md go")
    add("--profile", metavar="NAME", help="print where this contender's time goes, and measure nothing")
    options = parser.parse_args(argv)
    contenders = [*ours(_routers(options)), *PEERS]
    if options.profile:
        chosen = [contender for contender in contenders if contender.name == options.profile]
        if not chosen:
            parser.error(f"--profile {options.profile!r}: use one of {', '.join(one.name for one in contenders)}")
        for case, asked in _chosen(cases(2), options.cases or ["1 caller"]).items():
            print(f"{case}\n{profile(chosen[0], asked['kind'], asked['callers'], asked['seconds'])}", flush=True)
        return
    by_name = {contender.name: contender for contender in contenders}
    figures = measured(
        _chosen(by_name, options.only).values(), _chosen(cases(options.seconds), options.cases), options.repeats
    )
    write(options.out, "overhead", {"seconds_per_call": figures}, page(figures))


def _chosen(named: dict, holding: Sequence[str] | None) -> dict:  # type: ignore[type-arg]
    return {name: value for name, value in named.items() if not holding or any(part in name for part in holding)}


def _routers(options: argparse.Namespace) -> dict[str, str]:
    found = {"words": "words"}
    if "fast" in options.routers:
        found["fast"] = str(options.fast or prepared("fast", options.cache))
    if "bert" in options.routers:
        found["bert int8"] = f"{options.bert or prepared('bert', options.cache)}@int8"
    return found


if __name__ == "__main__":
    main()
