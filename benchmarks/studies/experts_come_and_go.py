"""What a router is worth that gets an expert it was not trained with, or loses one, without being retrained.

    python -m benchmarks.studies.experts_come_and_go TABLES

For each expert: a router is trained without it and then told of it by `add_expert` from a few labelled queries. It is
compared with the router that was never told, and with the one that was trained on all outcomes of all experts. That
one after `remove_expert` is compared with the router that was trained without the expert.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

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
from torouter.training.arguments import TrainingArguments
from torouter.training.data import smooth

COUNTS = (50, 200, 400, 1000)
KINDS: tuple[TrainedKind, ...] = ("mlp", "knn")
WAYS: dict[str, TrainedKind] = {"mlp": "mlp", "mlp, mixed": "mlp", "knn": "knn"}
"""How a new expert is learnt, and by which router: "mixed" gives it outcomes that are mixed with the means of the
labelled queries' data sets, as those of the other experts were when the router was trained."""
ADDED = (
    MetricSpec("quality", "quality", "{:.4f}", "On the test part, mean over the experts that came last."),
    MetricSpec(
        "kept", "gain kept", "{:.1%}", "Gain over the best single expert, relative to the retrained router's gain."
    ),
    MetricSpec(
        "recovered",
        "recovered",
        "{:.1%}",
        "Of what retraining wins over the router that was never told, the part that adding wins; over all experts.",
    ),
)
EACH = (
    MetricSpec("single", "single", "{:.4f}", "The expert's own quality."),
    MetricSpec(
        "without", "without it", "{:.4f}", "The router that was trained without the expert and never told of it."
    ),
    MetricSpec("added", "added", "{:.4f}", "The same after `add_expert` with so many labelled queries."),
    MetricSpec("retrained", "retrained", "{:.4f}", "The router that was trained on all outcomes of all experts."),
    MetricSpec("removed", "removed", "{:.4f}", "The same after `remove_expert`; retraining would give `without it`."),
)

Rows = dict[str, dict[str, float]]


def replica(table: OutcomeTable, encoder: Remembered, seed: int, counts: Sequence[int]) -> dict[str, Rows]:
    """Qualities on one split, by way of learning and by expert that comes or goes."""
    train, test = table.split(f"standard:{seed}")
    outcomes, known, datasets = test.matrix(), train.matrix(), np.array(train.datasets)
    order = np.random.default_rng(seed).permutation(len(train))
    full = {kind: fit(train, TrainingArguments(router=kind, seed=seed), encoder) for kind in KINDS}
    best = float(outcomes.scores[:, metrics.best_single(known.scores)].mean(dtype=np.float64))
    found: dict[str, Rows] = {way: {} for way in WAYS}
    for name in table.experts:
        others = train.subset(experts=[expert for expert in table.experts if expert != name])
        fitted = {kind: fit(others, TrainingArguments(router=kind, seed=seed), encoder) for kind in KINDS}
        for way, kind in WAYS.items():
            row = {
                "best": best,
                "single": float(outcomes.column(name).mean(dtype=np.float64)),
                "without": quality(fitted[kind], outcomes),
                "retrained": quality(full[kind], outcomes),
                "removed": quality(full[kind].remove_expert(name), outcomes),
            }
            for count in counts:
                rows = order[:count]
                labelled = known.of((name,)).rows(rows)
                if way == "mlp, mixed":
                    mixed = smooth(labelled.scores, datasets[rows], TrainingArguments().outcome_weight)
                    labelled = OutcomeMatrix(labelled.queries, (name,), mixed)
                row[str(count)] = quality(fitted[kind].add_expert(name, labelled), outcomes)
            found[way][name] = row
    return found


def mean(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean row of one split over the experts."""
    return {key: float(np.mean([row[key] for row in rows.values()])) for key in next(iter(rows.values()))}


def worth(row: Mapping[str, float], key: str) -> dict[str, float]:
    """The figures of one of the row's routers."""
    return {
        "quality": row[key],
        "kept": _share(row[key] - row["best"], row["retrained"] - row["best"]),
        "recovered": _share(row[key] - row["without"], row["retrained"] - row["without"]),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def study(source: Source, options: argparse.Namespace) -> Findings:
    """Every expert of the table comes last once, and goes once."""
    table = source.table(options.table)
    encoder = source.embeddings(table)
    counts, shown = options.counts, str(options.shown)
    replicas = [replica(table, encoder, seed, sorted({*counts, options.shown})) for seed in options.seeds]
    keys = {"without it": "without", **{f"{n} labelled queries": str(n) for n in counts}, "retrained": "retrained"}
    ends = [counts[0], counts[-1]]
    grids, details, series = [], [], []
    for way in WAYS:
        means = [mean(found[way]) for found in replicas]
        rows = {title: figures([worth(row, key) for row in means]) for title, key in keys.items()}
        grids.append(Grid(caption=f"A new expert, {way}", columns=ADDED, rows=rows))
        each = {
            name: figures([{**row, "added": row[shown]} for row in of_expert])
            for name, of_expert in (
                *((name, [found[way][name] for found in replicas]) for name in table.experts),
                ("mean", means),
            )
        }
        details.append(Grid(caption=f"Each expert, {shown} labelled queries, {way}", columns=EACH, rows=each))
        series.append(Series(name=way, x=counts, y=[rows[f"{n} labelled queries"]["quality"] for n in counts]))
        if way in KINDS:
            for title in ("retrained", "without it"):
                level = rows[title]["quality"]
                series.append(Series(name=f"{way} {title}", x=ends, y=[level, level], style="--"))
    single = MeanStd.of([mean(found["mlp"])["best"] for found in replicas])
    series.append(Series(name="best single", x=ends, y=[single, single], style=":"))
    plot = drawing(
        "Quality against the new expert's labelled queries",
        series,
        x="labelled queries of the new expert",
        y="quality",
        log=True,
        ticks={float(count): str(count) for count in counts},
    )
    facts = [
        about(options.table, table),
        f"Each of the {len(table.experts)} experts comes last once.",
        f"Best single expert of all of them: {single.text('{:.4f}')}.",
    ]
    return Findings(
        title="Experts come and go", facts=facts, grids=[*grids, *details], plots={"experts_come_and_go": plot}
    )


def configure(parser: argparse.ArgumentParser) -> None:
    """The study's own arguments."""
    parser.add_argument("--table", default="llmrouter9", help="name of the outcome table")
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS), help="labelled queries")
    parser.add_argument("--shown", type=int, default=400, help="labelled queries in the tables that show each expert")


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    run(study, "experts_come_and_go", __doc__, argv, configure=configure)


if __name__ == "__main__":
    main()
