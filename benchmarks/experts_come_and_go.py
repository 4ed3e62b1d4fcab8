"""What a router is worth that gets an expert it was not trained with, or loses one, without being retrained.

    python -m benchmarks.experts_come_and_go

For each expert: a router is trained without it and then told of it by `add_expert` from a few labelled queries. It is
compared with the router that was never told, and with the one that was trained on all outcomes of all experts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import cast

import numpy as np

from benchmarks.study import Findings, Grid, Remembered, Series, Source, about, drawing, figures, fit, quality, run
from torouter.evaluation import metrics
from torouter.evaluation.columns import Column, Figure
from torouter.pipeline.lessons import smoothed
from torouter.pipeline.outcomes import OutcomeTable
from torouter.pipeline.recipe import Recipe
from torouter.routing.matrix import OutcomeMatrix

COUNTS = (50, 200, 400, 1000)
WAYS = {"mlp": "mlp", "mlp, mixed": "mlp", "knn": "knn"}
"""How a new expert is learnt, and by which router: "mixed" gives it outcomes that are mixed with the means of the
labelled queries' data sets, as those of the other experts were when the router was trained."""
ADDED = (
    Column("quality", "quality", "{:.4f}", "On the test part, mean over the experts that came last."),
    Column("kept", "gain kept", "{:.1%}", "Gain over the best single expert, relative to the retrained router's gain."),
    Column(
        "recovered",
        "recovered",
        "{:.1%}",
        "Of what retraining wins over the router that was never told, the part that adding wins; over all experts.",
    ),
)
EACH = (
    Column("single", "single", "{:.4f}", "The expert's own quality."),
    Column("without", "without it", "{:.4f}", "The router that was never told of it."),
    Column("added", "added", "{:.4f}", "The router that got it from so many labelled queries."),
    Column("retrained", "retrained", "{:.4f}", "The router that was trained on all outcomes of all experts."),
    Column(
        "removed", "removed", "{:.4f}", "The retrained router after `remove_expert`: to be compared with without it."
    ),
)


def replica(
    table: OutcomeTable, encoder: Remembered, seed: int, counts: list[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """Qualities on one split by way of learning and expert that comes or goes."""
    train, test = table.split(f"standard:{seed}")
    outcomes, known, datasets = test.matrix(), train.matrix(), np.array(train.datasets)
    order = np.random.default_rng(seed).permutation(len(train))
    full = {kind: fit(train, Recipe(router=kind, seed=seed), encoder) for kind in ("mlp", "knn")}  # type: ignore[arg-type]
    best = float(outcomes.scores[:, metrics.best_single(known.scores)].mean(dtype=np.float64))
    found: dict[str, dict[str, dict[str, float]]] = {way: {} for way in WAYS}
    for name in table.experts:
        others = train.subset(experts=[expert for expert in table.experts if expert != name])
        fitted = {kind: fit(others, Recipe(router=kind, seed=seed), encoder) for kind in full}  # type: ignore[arg-type]
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
                    mixed = smoothed(labelled.scores, datasets[rows], Recipe().own_share)
                    labelled = OutcomeMatrix(labelled.queries, (name,), mixed)
                row[f"added {count}"] = quality(fitted[kind].add_expert(name, labelled), outcomes)
            found[way][name] = row
    return found


def summary(rows: Mapping[str, Mapping[str, float]], key: str) -> dict[str, float]:
    """One split's figures over all experts; `key` says which router is judged."""
    mean = {
        name: float(np.mean([row[name] for row in rows.values()])) for name in (key, "best", "without", "retrained")
    }
    return {
        "quality": mean[key],
        "kept": _share(mean[key] - mean["best"], mean["retrained"] - mean["best"]),
        "recovered": _share(mean[key] - mean["without"], mean["retrained"] - mean["without"]),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def study(source: Source, options: argparse.Namespace) -> Findings:
    """Every expert of the table comes last once, and goes once."""
    table = source.table(options.table)
    encoder = source.embeddings(table)
    counts = options.counts
    replicas = [replica(table, encoder, seed, counts) for seed in options.seeds]
    grids, series = [], []
    for way in WAYS:
        keys = {"without it": "without", **{f"{n} labelled queries": f"added {n}" for n in counts}}
        keys |= {"retrained": "retrained"}
        rows = {title: figures([summary(found[way], key) for found in replicas]) for title, key in keys.items()}
        grids.append(Grid(caption=f"A new expert, {way}", columns=ADDED, rows=rows))
        series.append(Series(name=way, x=counts, y=[rows[f"{n} labelled queries"]["quality"] for n in counts]))
        if "," not in way:
            ends = {"retrained": rows["retrained"]["quality"], "without": rows["without it"]["quality"]}
            series += [
                Series(name=f"{way} {t}", x=[counts[0], counts[-1]], y=[v, v], style="--") for t, v in ends.items()
            ]
    level = Figure.of([next(iter(found["mlp"].values()))["best"] for found in replicas])
    series.append(Series(name="best single", x=[counts[0], counts[-1]], y=[level, level], style=":"))
    shown = options.shown if options.shown in counts else counts[-1]
    for way in WAYS:
        each = {
            name: figures([{**found[way][name], "added": found[way][name][f"added {shown}"]} for found in replicas])
            for name in table.experts
        }
        each["mean"] = figures(
            [
                {
                    key: float(np.mean([row[key.replace("added", f"added {shown}")] for row in found[way].values()]))
                    for key in (column.key for column in EACH)
                }
                for found in replicas
            ]
        )
        grids.append(Grid(caption=f"Each expert with {shown} labelled queries, {way}", columns=EACH, rows=each))
    plot = drawing(
        "Quality against the new expert's labelled queries",
        series,
        x="labelled queries of the new expert",
        y="quality",
        log=True,
        ticks={float(count): str(count) for count in counts},
    )
    facts = [
        about(options.table, table, stripped=source.strip_options),
        f"Each of the {len(table.experts)} experts comes last once; the best single expert is that of all of them.",
        f"Best single expert: {level.text('{:.4f}')}.",
    ]
    return Findings(title="Experts come and go", facts=facts, grids=grids, plots={"experts_come_and_go": plot})


def configure(parser: argparse.ArgumentParser) -> None:
    """The study's own arguments."""
    parser.add_argument("--table", default="llmrouter9", help="name of the outcome table")
    parser.add_argument(
        "--counts", type=int, nargs="+", default=list(COUNTS), help="labelled queries of the new expert"
    )
    parser.add_argument("--shown", type=int, default=400, help="count of the table that shows each expert")


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    run(study, "experts_come_and_go", cast("str", __doc__), argv, configure=configure)


if __name__ == "__main__":
    main()
