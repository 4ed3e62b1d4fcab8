"""Thousands of calls over three experts that crash, stall, overload and come back: what is lost, ours and the peers'.

    python -m benchmarks.soak                 # torouter, 10,000 calls
    python -m benchmarks.soak --peers         # and LangChain's with_fallbacks, LiteLLM's Router, side by side

The experts are scripted servers on 127.0.0.1 in one process, each contender is another one, so that memory is its own.
All get the same calls and weather from the same seed; what the weather meets depends on time, so figures vary.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[1]
COLUMNS: tuple[str, ...] = ("contender", "calls", "failed", "broken off", "truncated", "mixed", "p50 calm/storm")
COLUMNS += ("p99 calm/storm", "p99 added", "RSS start/end", "seconds")


@dataclass(frozen=True)
class Contender:
    """Who is measured: a module of `benchmarks`, and what to install where it needs an environment of its own."""

    name: str
    module: str
    requirement: str | None = None

    def interpreter(self) -> str:
        """The Python that can import it; its environment is made on first use, beside the running one."""
        if self.requirement is None:
            return sys.executable
        python = Path(sys.prefix) / "peers" / self.requirement / "bin" / "python"
        if not python.exists():
            venv.create(python.parents[1], with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", self.requirement], check=True)
        return str(python)


OURS = Contender("torouter", "benchmarks.soak_torouter")
PEERS = (
    Contender("LangChain with_fallbacks", "benchmarks.soak_langchain", "langchain-openai==1.7.3"),
    Contender("LiteLLM Router", "benchmarks.soak_litellm", "litellm==1.106.2"),
)


@contextmanager
def process(*command: str, log: Any, limit: float) -> Iterator[subprocess.Popen[str]]:
    """A child that is ended with the block, and killed after `limit` seconds whatever happens."""
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
    )
    killer = threading.Timer(limit, child.kill)
    killer.start()
    try:
        yield child
    finally:
        cast("Any", child.stdin).close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
        killer.cancel()


def soak(contender: Contender, *, calls: int, concurrency: int, seed: int, seconds: float) -> dict[str, Any]:
    """One contender's figures; see `benchmarks.soak_load.main`."""
    python, limit = contender.interpreter(), 3 * seconds + 60
    with (
        tempfile.TemporaryFile("w+") as log,
        process(sys.executable, "-m", "benchmarks.soak_experts", str(seed), log=log, limit=limit) as experts,
    ):
        urls = _line(experts, log)
        arguments = (contender.module, json.dumps(urls), str(calls), str(concurrency), str(seconds))
        with process(python, "-m", "benchmarks.soak_load", *arguments, log=log, limit=limit) as load:
            _line(load, log)
            for child in (experts, load):
                cast("Any", child.stdin).write("storm\n")
            return _line(load, log)


def _line(child: subprocess.Popen[str], log: Any) -> dict[str, Any]:
    line = cast("Any", child.stdout).readline()
    if not line:
        log.seek(0)
        raise SystemExit(f"{child.args!r} ended without a result:\n{log.read()[-3000:]}")
    return cast("dict[str, Any]", json.loads(line))


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
    parser.add_argument("--seed", type=int, default=0, help="seed of the weather")
    parser.add_argument("--seconds", type=float, default=900, help="no call is begun after so many seconds")
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


if __name__ == "__main__":
    main()
