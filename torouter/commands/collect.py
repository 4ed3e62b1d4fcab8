"""Asks every expert every query and writes an outcome table; a stopped run continues where it was."""

from __future__ import annotations

import argparse

HELP = "ask every expert every query"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--experts", required=True, metavar="YAML", help="the pool of experts")
    add("--queries", required=True, metavar="FILE", help=".jsonl, .csv or .parquet, or the Hub id of a data set")
    add("--out", required=True, metavar="TABLE", help="the outcome table, .parquet; an existing one is extended")
    add(
        "--column",
        action="append",
        type=_column_mapping,
        default=[],
        metavar="OURS=THEIRS",
        help="a column's other name in FILE, such as query=question",
    )
    add("--subset", help="configuration of a Hub data set")
    add("--split", default="train", help="of a Hub data set; default: train")
    add("--concurrency", type=int, default=4, metavar="N", help="queries per replica at a time; default: 4")
    add("--deadline", type=float, default=300.0, metavar="SECONDS", help="time limit of one answer; default: 300")
    add("--nll", action="store_true", help="measure the references' likelihood too, where TGI returns prefill logprobs")


def run(arguments: argparse.Namespace) -> int:
    """Collect the answers and print how many there are."""
    import asyncio

    from torouter.experts import ExpertPool
    from torouter.outcomes.collector import Pace, collect
    from torouter.outcomes.queries import read_queries

    experts = ExpertPool.from_yaml(arguments.experts)
    queries = read_queries(
        arguments.queries, columns=dict(arguments.column), split=arguments.split, subset=arguments.subset
    )
    pace = Pace(concurrency=arguments.concurrency, deadline=arguments.deadline)
    table = asyncio.run(collect(experts, queries, arguments.out, nll=arguments.nll, pace=pace))
    failed = int(table.frame["error"].notna().sum())
    print(f"{arguments.out}: {len(table)} queries, {len(table.experts)} experts")
    if failed:
        print(f"{failed} cells failed (column error); the same command asks them again")
    return 0


def _column_mapping(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not (ours and equals and theirs):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form OURS=THEIRS, such as query=question")
    return ours, theirs
