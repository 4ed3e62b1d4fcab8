"""Replays routers on the test part of outcome tables and writes a report: page, JSON and Markdown."""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torouter.routers.kinds import TRAINED_KINDS

if TYPE_CHECKING:
    from torouter.outcomes.table import OutcomeTable
    from torouter.routers.router import Router

HELP = "evaluate routers on recorded outcomes"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("tables", nargs="+", metavar="TABLE", help="outcome tables of the same experts: .parquet, .csv or .jsonl")
    add(
        "--router",
        action="append",
        required=True,
        metavar="[NAME=]DIR",
        help="a router's directory, or its id on the Hub; those of one name (default: the directory's) share one line "
        "of the report, with mean and standard deviation",
    )
    add("--report", required=True, metavar="DIR", help="where report.html, report.json and report.md go")
    add(
        "--split",
        action="append",
        default=[],
        metavar="standard:SEED",
        help="evaluate on the test part of this split; if given several times, each router on that of the split it was "
        "trained on",
    )
    add(
        "--pair",
        nargs=2,
        metavar=("WEAK", "STRONG"),
        help="experts of APGR and CPT; default: the cheapest and the best",
    )
    add(
        "--leave-one-out",
        action="append",
        default=[],
        choices=TRAINED_KINDS,
        help="train a router of this kind on all data sets but one and evaluate it on that one, for each",
    )
    add(
        "--cross-fit",
        action="store_true",
        help="pick the weight of cost on the whole train part, by five routers of the same kind, each "
        "trained with default arguments on four fifths of it, and not on the router's small validation part",
    )
    add("--card", action="store_true", help="write the results into README.md of each router's directory too")
    add("--no-progress", dest="progress", action="store_false", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write the report and print its tables."""
    from torouter.evaluation.card_results import card_results
    from torouter.evaluation.evaluator import evaluate, leave_one_dataset_out
    from torouter.evaluation.report import prepare, write_report
    from torouter.evaluation.sections import facts, sections
    from torouter.outcomes.table import OutcomeTable
    from torouter.routers.model_card import model_card, write_card
    from torouter.routers.router import AutoRouter

    prepare(arguments.report)
    table = OutcomeTable.concat([OutcomeTable.read(path) for path in arguments.tables])
    named = [_named(text) for text in arguments.router]
    routers = [(name, AutoRouter.from_pretrained(path)) for name, path in named]
    left_out = [
        row
        for kind in arguments.leave_one_out
        for row in leave_one_dataset_out(table, kind, partial(_train, kind), progress=arguments.progress)
    ]
    evaluation = evaluate(
        table,
        routers,
        splits=arguments.split,
        pair=tuple(arguments.pair) if arguments.pair else None,
        refits={name: partial(_train, router.config.kind) for name, router in routers} if arguments.cross_fit else {},
        left_out=left_out,
        progress=arguments.progress,
    )
    out = write_report(evaluation, arguments.report)
    for (name, path), (_, router) in zip(named, routers, strict=True):
        if arguments.card and Path(path).is_dir():
            write_card(path, model_card(router.config, card_results(evaluation, name)))
    print("\n".join(facts(evaluation)))
    for section in sections(evaluation):
        print(f"\n{section.title}")
        for shown in section.tables:
            print("\n".join(filter(None, (shown.caption, shown.markdown()))))
    print(f"\n{out / 'report.html'}")
    return 0


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    return (name, path) if equals else (Path(text).resolve().name if Path(text).exists() else text, text)


def _train(kind: Any, table: OutcomeTable) -> Router:
    from torouter.training.arguments import TrainingArguments
    from torouter.training.trainer import train

    with tempfile.TemporaryDirectory() as folder:
        return train(table, out=Path(folder) / kind, arguments=TrainingArguments(router=kind, progress=False))
