"""Trains a router on outcome tables and writes its checkpoint."""

from __future__ import annotations

import argparse
import os
from typing import Any

from torouter.routers.kinds import TRAINED_KINDS

HELP = "train a router on outcomes"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments; a flag of training that is left out is the default of `TrainingArguments`."""
    add = parser.add_argument
    add("tables", nargs="+", metavar="TABLE", help="outcome tables of the same experts: .parquet, .csv or .jsonl")
    add("--out", required=True, metavar="DIR", help="where the checkpoint goes; an older one there is replaced")
    add("--split", metavar="standard:SEED", help="train on the train part of this split only")
    add("--experts", metavar="YAML", help="a pool whose prices and context windows the checkpoint remembers")
    parser.set_defaults(training_fields=_add_training(parser))


def _add_training(parser: argparse.ArgumentParser) -> tuple[str, ...]:
    """Add a flag for each field of `TrainingArguments`, and return the fields."""
    group = parser.add_argument_group("training", argument_default=argparse.SUPPRESS)
    names = []

    def add(flag: str, **options: Any) -> None:
        names.append(group.add_argument(flag, **options).dest)

    add("--router", choices=TRAINED_KINDS, help="default: bert")
    add("--objective", choices=("soft", "bce"), help="the paper's soft labels, or each expert's own score (default)")
    add("--label-form", choices=("multiply", "divide", "hard"), help="soft labels: softmax(T*s), softmax(s/T), or best")
    add("--temperature", type=float, metavar="T", help="of the soft labels; default: 10")
    add(
        "--own-share",
        dest="outcome_weight",
        type=float,
        metavar="SHARE",
        help="weight of a query's own outcome against its data set's mean",
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
        help="of a BERT layer's learning rate that the layer below gets",
    )
    add("--head-learning-rate", type=float, help="of the BERT's last linear layer, of the fast router's layers")
    add("--batch-size", type=int)
    add("--patience", type=int, metavar="EPOCHS", help="without a gain after which training stops")
    add("--frozen-layers", type=int, metavar="N", help="lower layers of the BERT that are not trained")
    add("--hidden", type=int, metavar="UNITS", help="of the MLP and the fast router")
    add("--teacher", metavar="DIR", help="directory or Hub id of a router whose scores the fast router learns")
    add("--teacher-share", type=float, metavar="SHARE", help="of the teacher's scores in the training target")
    add("--neighbours", type=int, metavar="K", help="of the KNN; 1 is the paper's")
    add("--weights", choices=("uniform", "distance"), help="of the KNN's neighbours")
    add("--resume", action="store_true", help="continue a run that was stopped")
    add("--no-progress", dest="progress", action="store_false", help="no progress bar")
    return tuple(names)


def run(arguments: argparse.Namespace) -> int:
    """Train, and print what the router is worth on the validation part."""
    from torouter.experts import ExpertPool
    from torouter.outcomes.table import OutcomeTable
    from torouter.training.arguments import TrainingArguments
    from torouter.training.trainer import train

    given = vars(arguments)
    training = TrainingArguments(**{name: given[name] for name in arguments.training_fields if name in given})
    experts = ExpertPool.from_yaml(arguments.experts) if arguments.experts else None
    table = OutcomeTable.concat([OutcomeTable.read(path) for path in arguments.tables])
    if arguments.split:
        table, _ = table.split(arguments.split)
    router = train(table, out=arguments.out, arguments=training, experts=experts)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts this in every process
        record = router.config.training
        print(f"{arguments.out}: {router.config.kind} router over {len(router.experts)} experts")
        print(f"trained on {record['queries']} queries, served in {router.config.precision}")
        print(
            f"quality on the {record['validation_queries']} validation queries: {record['validation_quality']:.3f} "
            f"(best single expert {record['validation_best_single']:.3f})"
        )
    return 0
