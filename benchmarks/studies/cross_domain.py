"""What a router is worth for queries unlike all it was trained on, and what it gains by knowing that it does not know.

    python -m benchmarks.studies.cross_domain TABLES

One data set is left out of the train part, and the router is judged on that data set's queries of the test part, beside
the router that learnt from it too. Where the router abstains, the best single expert of its train part is asked. It
abstains below a threshold of its best score ("confidence", the rule of `RoutingPolicy.min_confidence`), of its best
score's lead over that expert ("lead"), or of the cosine to the nearest query it learnt ("nearness"). Each threshold is
picked without the data set that is left out: on others, which are left out in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.study import Findings, Grid, Remembered, Series, Source, about, drawing, figures, fit, run
from torouter.evaluation import metrics
from torouter.evaluation.metric_specs import MetricSpec
from torouter.evaluation.metrics import Choices, Floats
from torouter.outcomes.table import OutcomeTable
from torouter.routers.kinds import TrainedKind
from torouter.training.arguments import TrainingArguments

TABLES = ("llmrouter9", "zeroeval28", "medagents10")
KINDS: tuple[TrainedKind, ...] = ("knn", "mlp")
FOLDS = 3
"""Parts in which the data sets are left out in turn where thresholds are picked."""
QUANTILES = np.linspace(0, 1, 21)
"""Shares of these queries that abstain, from none to all: the thresholds that are tried."""
COLUMNS = (
    MetricSpec("random", "random", "{:.3f}", "Mean of all experts."),
    MetricSpec("single", "best single", "{:.3f}", "The expert that is best on the other data sets."),
    MetricSpec("routed", "left out", "{:.3f}", "The router that learnt from the other data sets."),
    MetricSpec("in_domain", "in domain", "{:.3f}", "The router that learnt from all data sets."),
    MetricSpec("oracle", "oracle", "{:.3f}", "The best expert for each query."),
)
LINES = {"left out": "routed", "in domain": "in_domain"}
ABSTAINED = (
    MetricSpec("routed", "never", "{:.4f}", "The router that learnt from the other data sets, followed always."),
    MetricSpec("confidence", "confidence", "{:.4f}", "Abstains where its best score is low."),
    MetricSpec("lead", "lead", "{:.4f}", "Abstains where its best score is little above the best single expert's."),
    MetricSpec("nearness", "nearness", "{:.4f}", "Abstains where the nearest query it learnt is far."),
    MetricSpec("single", "always", "{:.4f}", "The best single expert of the other data sets."),
    *(
        MetricSpec(f"{rule}_share", f"{rule}, share", "{:.0%}", "Share of the queries on which it abstains.")
        for rule in ("confidence", "lead", "nearness")
    ),
)


@dataclass(frozen=True, slots=True)
class Foreign:
    """Queries of data sets that a router did not learn from.

    Attributes:
        outcomes: Shape (n, k).
        scores: The router's, shape (n, k).
        default: MetricSpec of the best single expert of what it learnt from.
        nearness: Cosine to the nearest query it learnt, shape (n,).
    """

    outcomes: Floats
    scores: Floats
    default: int
    nearness: Floats

    @classmethod
    def of(cls, learnt: OutcomeTable, judged: OutcomeTable, arguments: TrainingArguments, encoder: Remembered) -> Self:
        """Learn from one table, score the other."""
        router = fit(learnt, arguments, encoder)
        cosines = encoder.features(judged.queries) @ encoder.features(learnt.queries).T
        default = metrics.best_single(learnt.matrix().scores)
        return cls(judged.matrix().scores, router.scores(judged.queries), default, cosines.max(axis=1))

    @property
    def choices(self) -> NDArray[np.intp]:
        """The router's."""
        best: NDArray[np.intp] = self.scores.argmax(axis=1)
        return best

    def abstaining(self, rule: str, threshold: float) -> Choices:
        """The router's choices, the default's below the threshold."""
        return np.where(RULES[rule](self) < threshold, self.default, self.choices)


RULES: dict[str, Callable[[Foreign], Floats]] = {
    "confidence": lambda foreign: foreign.scores.max(axis=1),
    "lead": lambda foreign: foreign.scores.max(axis=1) - foreign.scores[:, foreign.default],
    "nearness": lambda foreign: foreign.nearness,
}


def threshold(rule: str, rehearsals: Sequence[Foreign]) -> float:
    """The threshold of the best mean outcome over all rehearsals' queries; of equals the one that abstains least."""
    signal = np.concatenate([RULES[rule](rehearsal) for rehearsal in rehearsals])
    tried = np.append(np.quantile(signal, QUANTILES), np.inf)
    totals = [
        sum(metrics.total_of(r.outcomes, r.abstaining(rule, float(value))) for r in rehearsals) for value in tried
    ]
    return float(tried[int(np.argmax(totals))])


def replica(
    table: OutcomeTable, seed: int, encoder: Remembered, kinds: Sequence[TrainedKind]
) -> dict[TrainedKind, dict[str, dict[str, float]]]:
    """One split's figures by router and by the data set that is left out."""
    train, test = table.split(f"standard:{seed}")
    training_arguments = {kind: TrainingArguments(router=kind, seed=seed) for kind in kinds}
    everything = {kind: fit(train, arguments, encoder) for kind, arguments in training_arguments.items()}
    found: dict[TrainedKind, dict[str, dict[str, float]]] = {kind: {} for kind in kinds}
    for dataset in sorted(set(test.datasets)):
        others = [name for name in sorted(set(train.datasets)) if name != dataset]
        learnt, judged = train.subset(datasets=others), test.subset(datasets=[dataset])
        order = np.random.default_rng(seed).permutation(others).tolist()
        groups = [order[fold::FOLDS] for fold in range(min(FOLDS, len(others)))]
        rehearsed = [
            (learnt.subset(datasets=sorted(set(others) - set(group))), learnt.subset(datasets=group))
            for group in groups
        ]
        for kind, arguments in training_arguments.items():
            foreign = Foreign.of(learnt, judged, arguments, encoder)
            rehearsals = [Foreign.of(*tables, arguments, encoder) for tables in rehearsed]
            own = everything[kind].scores(judged.queries).argmax(axis=1)
            found[kind][dataset] = worth(foreign, rehearsals) | {"in_domain": metrics.mean_of(foreign.outcomes, own)}
    for rows in found.values():
        rows["mean"] = {key: float(np.mean([row[key] for row in rows.values()])) for key in next(iter(rows.values()))}
    return found


def worth(foreign: Foreign, rehearsals: Sequence[Foreign]) -> dict[str, float]:
    """Mean outcomes of the router, of each rule of abstaining, and of the baselines."""
    outcomes = foreign.outcomes
    row = {
        "random": metrics.random_mean(outcomes),
        "single": float(outcomes[:, foreign.default].mean(dtype=np.float64)),
        "routed": metrics.mean_of(outcomes, foreign.choices),
        "oracle": metrics.mean_of(outcomes, metrics.oracle_choices(outcomes)),
    }
    for rule, signal in RULES.items():
        value = threshold(rule, rehearsals)
        row[rule] = metrics.mean_of(outcomes, foreign.abstaining(rule, value))
        row[f"{rule}_share"] = float((signal(foreign) < value).mean())
    return row


def study(source: Source, options: argparse.Namespace) -> Findings:
    """Every data set of every table is left out once, for every router."""
    facts, grids, plots = [], [], {}
    for name in options.table:
        table = source.table(name)
        encoder = source.embeddings(table)
        facts.append(about(name, table))
        replicas = [replica(table, seed, encoder, options.router) for seed in options.seeds]
        series = []
        for kind in options.router:
            rows = {dataset: figures([found[kind][dataset] for found in replicas]) for dataset in replicas[0][kind]}
            grids.append(Grid(caption=f"{name}, {kind}", columns=COLUMNS, rows=rows))
            grids.append(Grid(caption=f"{name}, {kind}, abstaining", columns=ABSTAINED, rows=rows))
            places = list(range(len(rows)))
            for title, key in LINES.items():
                points = [row[key] for row in rows.values()]
                series.append(Series(name=f"{kind}, {title}", x=places, y=points, style=""))
        singles = [row["single"] for row in rows.values()]
        series.append(Series(name="best single", x=places, y=singles, style=""))
        ticks = {float(place): dataset for place, dataset in enumerate(rows)}
        plots[f"cross_domain_{name}"] = drawing(
            f"{name}: quality on the data set that was left out", series, x="", y="quality", ticks=ticks
        )
    facts.append("Mean: over the data sets, each with the same weight.")
    return Findings(title="Cross-domain", facts=facts, grids=grids, plots=plots)


def configure(parser: argparse.ArgumentParser) -> None:
    """The study's own arguments."""
    parser.add_argument("--table", nargs="+", default=list(TABLES), help="names of outcome tables")
    parser.add_argument("--router", nargs="+", choices=KINDS, default=list(KINDS), help="the MLP takes longer")


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    run(study, "cross_domain", __doc__, argv, configure=configure)


if __name__ == "__main__":
    main()
