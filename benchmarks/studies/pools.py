"""What routing is worth among small experts only, and among small and large ones.

    python -m benchmarks.studies.pools TABLES

For llmrouter9 and zeroeval28 the experts of at most 9 billion parameters, and all of them: best single expert, kNN,
MLP and oracle.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from benchmarks.studies.study import SMALL, Findings, Grid, Remembered, Series, Source, about, drawing, fit, run
from torouter.evaluation.evaluator import evaluate
from torouter.evaluation.metric_specs import COST, QUALITY, SAVED, MeanStd
from torouter.evaluation.summary import lines
from torouter.outcomes.table import OutcomeTable
from torouter.routers.kinds import TrainedKind
from torouter.training.arguments import TrainingArguments

TABLES = ("llmrouter9", "zeroeval28")
COLUMNS = (*QUALITY[:3], COST[0], *SAVED[:2])
KINDS: tuple[TrainedKind, ...] = ("knn", "mlp")
SHOWN = ("random", "best single", "knn", "mlp", "oracle")


def contenders(table: OutcomeTable, encoder: Remembered, seeds: list[int]) -> dict[str, Mapping[str, MeanStd]]:
    """Figures of routers and baselines over the splits."""
    splits = {f"standard:{seed}": seed for seed in seeds}
    routers = [
        (kind, fit(table.split(split)[0], TrainingArguments(router=kind, seed=seed), encoder))
        for split, seed in splits.items()
        for kind in KINDS
    ]
    found = lines(evaluate(table, routers, splits=list(splits)))
    by_name = {line.name: line.figures for line in found if line.role != "expert"}
    return {name: by_name[name] for name in SHOWN}


def study(source: Source, options: argparse.Namespace) -> Findings:
    """Every pool of every table."""
    facts, grids, pools = [], [], {}
    for name in TABLES:
        table = source.table(name)
        encoder = source.embeddings(table)
        facts.append(about(name, table))
        small = [expert for expert in table.experts if expert in source.small_experts(name)]
        for title, experts in ((f"{len(small)} small", small), (f"all {len(table.experts)}", table.experts)):
            rows = contenders(table.subset(experts=experts), encoder, options.seeds)
            caption = f"{name}, {title} experts"
            grids.append(Grid(caption=caption, columns=COLUMNS, rows=rows))
            pools[f"{name}\n{title}"] = rows
    facts.append(f"Small: at most {SMALL:g} billion parameters. Cost columns: on the queries that have costs.")
    places = list(range(len(pools)))
    series = [
        Series(name=contender, x=places, y=[rows[contender]["quality"] for rows in pools.values()], style="")
        for contender in SHOWN
    ]
    plot = drawing(
        "Quality by pool", series, x="pool", y="quality", ticks=dict(zip(map(float, places), pools, strict=True))
    )
    return Findings(title="Small and large experts", facts=facts, grids=grids, plots={"pools": plot})


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    run(study, "pools", __doc__, argv)


if __name__ == "__main__":
    main()
