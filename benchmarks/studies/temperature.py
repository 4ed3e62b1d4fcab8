"""Does the paper's T = 10 matter, which way it is meant, and do soft labels beat hard ones?

    python -m benchmarks.studies.temperature TABLES  # heads on frozen embeddings
    python -m benchmarks.studies.temperature TABLES --router bert --seeds 0 --labels multiply:10 divide:10  # slow

One router per form of the label, all else equal: softmax(T * s), softmax(s / T), all on the best expert ("hard"), and
beside them the per-expert objective ("bce"). Each is learnt from the outcomes as they are, as the paper did, and from
outcomes that are mixed with the means of their data sets, as `torouter train` does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.studies.study import (
    Findings,
    Grid,
    Remembered,
    Series,
    Source,
    about,
    drawing,
    figures,
    fit,
    quality,
    run,
)
from torouter.evaluation import metrics
from torouter.evaluation.metric_specs import MeanStd, MetricSpec
from torouter.outcomes.table import OutcomeTable
from torouter.routers.kinds import TrainedKind
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.router import Router
from torouter.training.arguments import TrainingArguments
from torouter.training.data import training_data
from torouter.training.trainer import train

TEMPERATURES = (1, 5, 10, 20, 50)
LABELS = (
    "hard",
    *(f"multiply:{t}" for t in reversed(TEMPERATURES)),
    *(f"divide:{t}" for t in TEMPERATURES),
    "bce",
)
"""From the sharpest label to the flattest; T = 1 is the same label in both forms."""
COLUMNS = (
    MetricSpec("quality", "quality", "{:.4f}", "Mean outcome of the chosen experts on the test part."),
    MetricSpec("gain", "gain", "{:+.4f}", "Quality minus that of the best single expert of the train part."),
    MetricSpec("gap_closed", "gap closed", "{:.1%}", "(router - best single) / (oracle - best single)."),
    MetricSpec("sharpness", "KL", "{:.2g}", "How far the labels are from saying nothing: mean KL to uniform, in nats."),
    MetricSpec("epoch", "epoch", "{:.0f}", "Epoch of least validation loss, which is the one that is kept."),
)


def arguments_for(label: str, outcome_weight: float, seed: int, router: TrainedKind) -> TrainingArguments:
    """The arguments that differs from the default in the label alone."""
    form, _, temperature = label.partition(":")
    arguments = TrainingArguments(router=router, outcome_weight=outcome_weight, seed=seed, progress=False)
    if form == "bce":
        return arguments
    return replace(arguments, objective="soft", label_form=form, temperature=float(temperature or 1))  # type: ignore[arg-type]


def trained(table: OutcomeTable, arguments: TrainingArguments, encoder: Remembered, source: Source) -> Router:
    """A router of either kind; a BERT is fine-tuned in full."""
    if arguments.router == "mlp":
        return fit(table, arguments, encoder)
    with tempfile.TemporaryDirectory() as folder:
        return train(table, out=Path(folder) / "bert", arguments=replace(arguments, encoder=source.encoder))


def worth(router: Router, arguments: TrainingArguments, learnt: OutcomeTable, test: OutcomeMatrix) -> dict[str, float]:
    """The figures of one router on one split."""
    single = float(test.scores[:, metrics.best_single(learnt.matrix().scores)].mean(dtype=np.float64))
    top = metrics.mean_of(test.scores, metrics.oracle_choices(test.scores))
    reached = quality(router, test)
    found = {"quality": reached, "gain": reached - single, "gap_closed": metrics.gap_closed(reached, single, top)}
    if arguments.objective == "soft":
        labels = training_data(learnt, arguments)[0].targets.astype(np.float64)
        information = labels * np.log(np.maximum(labels, 1e-300) * labels.shape[1])
        found["sharpness"] = float(information.sum(axis=1).mean())
    if "best_epoch" in router.config.training:
        found["epoch"] = float(router.config.training["best_epoch"])
    return found


def study(source: Source, options: argparse.Namespace) -> Findings:
    """All labels on all splits."""
    table = source.table(options.table)
    encoder = source.embeddings(table)
    splits = {seed: table.split(f"standard:{seed}") for seed in options.seeds}
    grids, series = [], []
    for outcome_weight in options.outcome_weight:
        rows = {}
        for label in options.labels:
            replicas = []
            for seed, (learnt, test) in splits.items():
                arguments = arguments_for(label, outcome_weight, seed, options.router)
                router = trained(learnt, arguments, encoder, source)
                replicas.append(worth(router, arguments, learnt, test.matrix()))
            rows[label] = figures(replicas)
        grids.append(Grid(caption=f"Share of a query's own outcome: {outcome_weight:g}", columns=COLUMNS, rows=rows))
        series += _lines(f"own share {outcome_weight:g}", rows)
    plot = drawing(
        "Quality against the factor before the softmax", series, x="factor f of softmax(f * s)", y="quality", log=True
    )
    return Findings(
        title="Temperature and direction of soft labels, and hard labels",
        facts=[about(options.table, table), f"Router: {options.router}."],
        grids=grids,
        plots={"temperature": plot},
    )


def _lines(name: str, rows: Mapping[str, Mapping[str, MeanStd]]) -> list[Series]:
    """Quality over the factor: T where the label multiplies by it, 1 / T where it divides; others are level lines."""
    points = sorted((_factor(label), label) for label in rows if ":" in label)
    if not points:
        return []
    factors = [factor for factor, _ in points]
    lines = [Series(name=name, x=factors, y=[rows[label]["quality"] for _, label in points])]
    for label, style in (("hard", "--"), ("bce", ":")):
        if label in rows:
            level = rows[label]["quality"]
            lines.append(Series(name=f"{label}, {name}", x=[factors[0], factors[-1]], y=[level, level], style=style))
    return lines


def _factor(label: str) -> float:
    form, _, temperature = label.partition(":")
    return float(temperature) if form == "multiply" else 1 / float(temperature)


def configure(parser: argparse.ArgumentParser) -> None:
    """The study's own arguments."""
    parser.add_argument("--table", default="llmrouter9", help="name of the outcome table")
    parser.add_argument("--router", choices=("mlp", "bert"), default="mlp")
    parser.add_argument("--labels", nargs="+", choices=LABELS, default=LABELS, metavar="FORM:T", help=", ".join(LABELS))
    parser.add_argument(
        "--own-share",
        dest="outcome_weight",
        type=float,
        nargs="+",
        default=[1.0, TrainingArguments().outcome_weight],
        metavar="SHARE",
    )


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    run(study, "temperature", __doc__, argv, configure=configure)


if __name__ == "__main__":
    main()
