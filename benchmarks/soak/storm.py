"""Counts the calls that are lost while three experts crash, stall, overload and recover: torouter and its peers.

    python -m benchmarks.soak                 # torouter, 10,000 calls
    python -m benchmarks.soak --peers         # and LangChain's with_fallbacks, LiteLLM's Router, side by side

The experts are scripted servers on 127.0.0.1 in one process; each contender is a process of its own, so that memory is
its own. All get the same calls and the same outages from one seed; which calls an outage hits depends on timing, so the
figures vary.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from typing import Any, cast

from benchmarks.harness.contenders import Contender, child_process, read_json_line

COLUMNS: tuple[str, ...] = ("contender", "calls", "failed", "broken off", "truncated", "mixed", "p50 calm/storm")
COLUMNS += ("p99 calm/storm", "p99 added", "RSS start/end", "seconds")
"""Calm: before the outages. Storm: during them."""

OURS = Contender("torouter", "benchmarks.soak.torouter_model")
PEERS = (
    Contender("LangChain with_fallbacks", "benchmarks.soak.langchain_fallbacks", ("langchain-openai==1.7.3",)),
    Contender("LiteLLM Router", "benchmarks.soak.litellm_router", ("litellm==1.106.2",)),
)


def soak(contender: Contender, *, calls: int, concurrency: int, seed: int, seconds: float) -> dict[str, Any]:
    """One contender's figures; see `benchmarks.soak.soak_load.main`."""
    python, limit = contender.interpreter(), 3 * seconds + 60
    with (
        tempfile.TemporaryFile("w+") as log,
        child_process(
            sys.executable, "-m", "benchmarks.soak.failing_experts", str(seed), log=log, limit=limit
        ) as experts,
    ):
        urls = read_json_line(experts, log)
        arguments = (contender.module, json.dumps(urls), str(calls), str(concurrency), str(seconds))
        with child_process(python, "-m", "benchmarks.soak.soak_load", *arguments, log=log, limit=limit) as load:
            read_json_line(load, log)
            for child in (experts, load):
                cast("Any", child.stdin).write("storm\n")
            return read_json_line(load, log)


def row(name: str, result: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table."""
    counts, calm, storm, rss = result["counts"], result["calm"], result["storm"], result["rss"]
    lost = [str(counts.get(kind, 0)) for kind in ("failed", "broken off", "truncated", "mixed")]
    return (
        *(name, str(sum(counts.values())), *lost),
        *(f"{calm[share]:.0f} / {storm[share]:.0f} ms" for share in ("p50", "p99")),
        *(f"{storm['p99'] - calm['p99']:+.0f} ms", f"{rss[0]:.0f} / {rss[1]:.0f} MiB", f"{result['seconds']:.0f}"),
    )


def main() -> None:
    """Run the contenders one after the other and print one table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=str(__doc__).split("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000, help="calls of each contender, every other one streamed")
    parser.add_argument("--concurrency", type=int, default=64, help="calls at the same time")
    parser.add_argument("--peers", action="store_true", help="measure the peers too, in environments of their own")
    parser.add_argument("--seed", type=int, default=0, help="seed of the outages")
    parser.add_argument("--seconds", type=float, default=900, help="no call is started after this many seconds")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    for contender in (OURS, *(PEERS if options.peers else ())):
        result = soak(
            contender,
            calls=options.calls,
            concurrency=options.concurrency,
            seed=options.seed,
            seconds=options.seconds,
        )
        print(f"| {' | '.join(row(contender.name, result))} |", flush=True)
        print(f"{contender.name}: {result['errors']}, calm: {result['calm']['counts']}", file=sys.stderr, flush=True)
