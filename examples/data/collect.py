"""Collect the demo's outcomes anew: outcomes.parquet, scored by exact rules, and outcomes_bertsim.parquet.

Serves SmolLM2-135M on this machine, asks the three experts of experts.yaml all of queries.jsonl, and labels the answers
twice. It may be stopped and started again at any time. Needs port 8080 of loopback, torouter's `demo` extra and about
20 minutes on one core. The seconds in the tables that are here were taken on a machine busy with other work, too.
"""

from pathlib import Path

from torouter.cli import main
from torouter.demo import smollm2_server

HERE = Path(__file__).resolve().parent


def run(*arguments: str) -> None:
    if code := main(arguments):
        raise SystemExit(code)


if __name__ == "__main__":
    outcomes = str(HERE / "outcomes.parquet")
    with smollm2_server(parallel=3, port=8080):
        pool, queries = str(HERE / "experts.yaml"), str(HERE / "queries.jsonl")
        run("collect", "--experts", pool, "--queries", queries, "--out", outcomes, "--concurrency", "1")
    # The code that SmolLM2 writes is harmless; the scorer runs it in closed processes all the same.
    run("label", outcomes, "--scorer", "table", "--allow-code", "--out", outcomes)
    run("label", outcomes, "--scorer", "bertsim", "--out", str(HERE / "outcomes_bertsim.parquet"))
