"""Trains a router on outcome tables and writes its checkpoint."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields

HELP = "train a router on outcomes"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments; what is left out is the default of `TrainingArguments`."""
    parser.set_defaults(progress=True)
    add = parser.add_argument
    add("tables", nargs="+", metavar="TABLE", help="outcome tables of the same experts: .parquet, .csv or .jsonl")
    add("--out", required=True, metavar="DIR", help="where the checkpoint goes; an older one there is replaced")
    add("--split", metavar="standard:SEED", help="learn from the train part of this split only")
    add("--experts", metavar="YAML", help="a pool whose prices and windows the checkpoint shall remember")
    training = parser.add_argument_group("training", argument_default=argparse.SUPPRESS)
    add = training.add_argument
    add("--router", choices=("bert", "mlp", "knn", "fast"), help="default: bert")
    add("--objective", choices=("soft", "bce"), help="the paper's soft labels, or each expert's own score (default)")
    add("--label-form", choices=("multiply", "divide", "hard"), help="soft labels: softmax(T*s), softmax(s/T), or best")
    add("--temperature", type=float, metavar="T", help="of the soft labels; default: 10")
    add(
        "--own-share",
        dest="outcome_weight",
        type=float,
        metavar="SHARE",
        help="of a query's own outcome beside its data set's mean",
    )
    add("--encoder", metavar="DIR", help="directory or Hub id; default: all-MiniLM-L6-v2")
    add("--seed", type=int)
    add("--max-length", type=int, metavar="TOKENS", help="tokens of a query that are read")
    add("--validation", type=float, metavar="SHARE", help="of the queries, kept back to pick the best epoch")
    add("--epochs", type=int)
    add("--learning-rate", type=float)
    add(
        "--layer-decay",
        type=float,
        metavar="SHARE",
        help="of a BERT layer's learning rate that the one below gets",
    )
    add("--head-learning-rate", type=float, help="of the BERT's last linear layer, of the fast router's layers")
    add("--batch-size", type=int)
    add("--patience", type=int, metavar="EPOCHS", help="without a gain after which training stops")
    add("--frozen-layers", type=int, metavar="N", help="lower layers of the BERT that are not trained")
    add("--hidden", type=int, metavar="UNITS", help="of the MLP and the fast router")
    add("--teacher", metavar="DIR", help="directory or Hub id of a router whose scores the fast router learns")
    add("--teacher-share", type=float, metavar="SHARE", help="of the teacher's scores beside the outcomes")
    add("--neighbours", type=int, metavar="K", help="of the KNN; 1 is the paper's")
    add("--weights", choices=("uniform", "distance"), help="of the KNN's neighbours")
    add("--resume", action="store_true", help="go on with a run that was stopped")
    add("--no-progress", dest="progress", action="store_false", help="no progress bar")


def run(arguments: argparse.Namespace) -> int:
    """Train, and say what came of it."""
    from torouter.experts import ExpertPool
    from torouter.outcomes.table import OutcomeTable
    from torouter.training.arguments import TrainingArguments
    from torouter.training.trainer import train

    given = vars(arguments)
    training = TrainingArguments(
        **{field.name: given[field.name] for field in fields(TrainingArguments) if field.name in given}
    )
    experts = ExpertPool.from_yaml(arguments.experts) if arguments.experts else None
    table = OutcomeTable.concat([OutcomeTable.read(path) for path in arguments.tables])
    if arguments.split:
        table, _ = table.split(arguments.split)
    router = train(table, out=arguments.out, arguments=training, experts=experts)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts this in every process
        found = router.config.training
        print(f"{arguments.out}: {router.config.kind} router over {len(router.experts)} experts")
        print(f"learnt from {found['queries']} queries, served in {router.config.precision}")
        print(
            f"quality on the {found['validation_queries']} queries kept back: {found['validation_quality']:.3f} "
            f"(best single expert {found['validation_best_single']:.3f})"
        )
    return 0
