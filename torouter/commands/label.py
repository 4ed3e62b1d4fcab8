"""Scores the answers in an outcome table with one scorer, or with one for each data set."""

from __future__ import annotations

import argparse

HELP = "score collected answers"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    names = "bertsim, bertsim-precision, bertsim-recall, exact, contains, choice, number, code; table: each row's own"
    add = parser.add_argument
    add("table", metavar="TABLE", help="outcomes with answers and references: .parquet, .csv or .jsonl")
    add("--scorer", action="append", required=True, metavar="[DATASET=]NAME", help=names)
    add("--out", required=True, metavar="TABLE", help="the scored table, .parquet")
    add("--encoder", metavar="DIR", help="BERTSim's encoder, a directory or Hub id; default: all-MiniLM-L6-v2")
    add("--allow-code", action="store_true", help="let the scorer code run the code that experts wrote")


def run(arguments: argparse.Namespace) -> int:
    """Label, and print each expert's mean score."""
    from torouter.errors import ConfigurationError
    from torouter.outcomes.labeller import label
    from torouter.outcomes.table import OutcomeTable

    scorers = [text.rpartition("=") for text in arguments.scorer]
    default = [name for _, equals, name in scorers if not equals]
    if len(default) != 1:
        msg = f"--scorer: give one without a data set, not {len(default)}; it scores the data sets without their own"
        raise ConfigurationError(msg)
    table = label(
        OutcomeTable.read(arguments.table, labelled=False),
        default[0],
        by_dataset={dataset: name for dataset, equals, name in scorers if equals},
        encoder=arguments.encoder,
        allow_code=arguments.allow_code,
    )
    table.write(arguments.out)
    print(f"{arguments.out}: {len(table)} queries")
    for expert, score in table.frame.groupby("expert")["score"].mean().items():
        print(f"{expert}: mean score {score:.3f}")
    return 0
