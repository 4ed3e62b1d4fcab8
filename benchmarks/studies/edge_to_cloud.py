"""A small model on the edge and a threshold: which share of the queries stays there, and what that costs and keeps.

    python -m benchmarks.studies.edge_to_cloud TABLES

The edge is the cheapest small expert of a table; medagents10 has no small one, so that its cheapest stands for it. What
leaves the edge goes to the best of the others ("one cloud expert") or to whichever the router likes best ("cloud
pool"). Thresholds for wanted shares are calibrated on the part of the train part that the router did not learn from,
and a `RoutingPolicy` with that threshold decides every query of the test part.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.study import Findings, Grid, Remembered, Series, Source, about, drawing, figures, fit, run
from torouter.evaluation import metrics
from torouter.evaluation.curves import PairCurve
from torouter.evaluation.metric_specs import MetricSpec
from torouter.evaluation.metrics import Floats
from torouter.evaluation.outcome_arrays import OutcomeArrays
from torouter.evaluation.pricing import CostPart
from torouter.experts import Expert, ExpertPool
from torouter.outcomes.table import OutcomeTable
from torouter.routers.kinds import TrainedKind
from torouter.routing.calibration import calibrate
from torouter.routing.policy import RoutingPolicy
from torouter.training.arguments import TrainingArguments
from torouter.training.data import training_data

TABLES = ("medagents10", "zeroeval28")
KINDS: tuple[TrainedKind, ...] = ("mlp", "knn")
CLOUDS = ("one cloud expert", "cloud pool")
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
EDGE = "edge"
POINT = (
    MetricSpec("kept", "kept at the edge", "{:.1%}", "Share of the test queries that did not leave the edge."),
    MetricSpec("quality", "quality", "{:.4f}", "Mean outcome on the test part."),
    MetricSpec("chance", "over chance", "{:+.4f}", "Quality minus that of sending as many queries away by chance."),
    MetricSpec("cost", "USD per 1,000", "{:.3f}", "Mean cost of 1,000 queries."),
    MetricSpec("seconds", "seconds", "{:.2f}", "Mean measured seconds of the chosen answers."),
    MetricSpec("seconds_95", "seconds, 95 %", "{:.2f}", "95th percentile of the same."),
)
CURVE = (
    MetricSpec("edge", "edge quality", "{:.4f}", "If nothing leaves the edge."),
    MetricSpec("cloud", "cloud quality", "{:.4f}", "If everything does."),
    MetricSpec(
        "apgr", "APGR", "{:.3f}", "Share of the gap between both recovered, mean over all shares; chance has 0.5."
    ),
    MetricSpec("cpt_50", "CPT(50%)", "{:.1%}", "Least share of cloud calls that recovers half of the gap."),
    MetricSpec("cpt_80", "CPT(80%)", "{:.1%}", "Likewise for four fifths."),
)


def priced(table: OutcomeTable) -> OutcomeTable:
    """The experts with known costs, on the queries where all of them have one."""
    part = OutcomeArrays.of(table)
    cost = CostPart.of(part, part)
    assert cost is not None, "the table has no costs"
    return table.subset(experts=cost.test.experts, query_ids=list(part.ids[cost.test_rows]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """An edge expert, the first of `names`, and what is in the cloud; all arrays have a column for each.

    Attributes:
        scores: The router's scores on the test part.
        quality: Outcomes on the test part; `costs` (USD per 1,000 queries) and `seconds` likewise.
        held_scores: The router's scores on the queries that thresholds are calibrated on.
        held_quality: Outcomes on these.
    """

    names: Sequence[str]
    scores: Floats
    quality: Floats
    costs: Floats
    seconds: Floats
    held_scores: Floats
    held_quality: Floats

    def points(self) -> list[dict[str, float]]:
        """One operating point per wanted share of cloud calls."""
        experts = self._pool()
        found = []
        for share in SHARES:
            policy = calibrate(
                RoutingPolicy(edge=EDGE),
                experts,
                self.names,
                scores=self.held_scores,
                quality=self.held_quality,
                cloud_share=share,
            ).policy
            choices = np.array([self._decided(policy, experts, row) for row in self.scores.tolist()])
            leave, quality = float((choices != 0).mean()), metrics.mean_of(self.quality, choices)
            point = {
                "kept": 1 - leave,
                "quality": quality,
                "chance": quality - float(np.interp(leave, [0, 1], self._ends())),
                "cost": metrics.mean_of(self.costs, choices),
            }
            if not np.isnan(self.seconds).any():
                seconds = metrics.chosen(self.seconds, choices)
                point |= {"seconds": float(seconds.mean()), "seconds_95": float(np.percentile(seconds, 95))}
            found.append(point)
        return found

    def curve(self) -> dict[str, float]:
        """Figures over all shares."""
        edge, cloud = self._ends()
        preference = self.scores[:, 1:].max(axis=1) - self.scores[:, 0]
        pair = PairCurve.of(preference, self.quality[:, 0], metrics.chosen(self.quality, self._cloud()))
        return {"edge": edge, "cloud": cloud, "apgr": pair.apgr(), "cpt_50": pair.cpt(0.5), "cpt_80": pair.cpt(0.8)}

    def _ends(self) -> tuple[float, float]:
        """Quality if nothing and if everything leaves the edge."""
        edge = np.zeros(len(self.quality), dtype=np.intp)
        return metrics.mean_of(self.quality, edge), metrics.mean_of(self.quality, self._cloud())

    def _cloud(self) -> NDArray[np.intp]:
        """The cloud's column for each query."""
        best: NDArray[np.intp] = 1 + self.scores[:, 1:].argmax(axis=1)
        return best

    def _pool(self) -> ExpertPool:
        """The experts as a policy sees them; nobody is asked, so that the address does not matter."""
        edge, *cloud = self.names
        experts = [Expert(name=edge, url="http://127.0.0.1:9", tags=frozenset({EDGE}))]
        return ExpertPool(experts + [Expert(name=name, url="http://127.0.0.1:9") for name in cloud])

    def _decided(self, policy: RoutingPolicy, experts: ExpertPool, row: Sequence[float]) -> int:
        decision = policy.decide(dict(zip(self.names, row, strict=True)), experts)
        return self.names.index(decision.ranking[0])


def deployments(table: OutcomeTable, small: Sequence[str], encoder: Remembered, seed: int) -> dict[str, Deployment]:
    """By router and kind of cloud, on one split."""
    train, test = table.split(f"standard:{seed}")
    known, judged = OutcomeArrays.of(train), OutcomeArrays.of(test)
    costs = dict(zip(table.experts, known.costs.mean(axis=0), strict=True))
    edge = min([name for name in small if name in costs] or table.experts, key=costs.__getitem__)
    others = [name for name in table.experts if name != edge]
    best = others[metrics.best_single(train.matrix().of(others).scores)]
    found = {}
    for kind in KINDS:
        arguments = TrainingArguments(router=kind, seed=seed)
        router = fit(train, arguments, encoder)
        held = training_data(train, arguments)[1].outcomes
        scores, held_scores = router.scores(test.queries), router.scores(held.queries)
        for cloud, elsewhere in zip(CLOUDS, ([best], others), strict=True):
            names = (edge, *elsewhere)
            columns = [table.experts.index(name) for name in names]
            found[f"{kind}, {cloud}"] = Deployment(
                names=names,
                scores=scores[:, columns],
                quality=judged.scores[:, columns],
                costs=judged.costs[:, columns],
                seconds=judged.seconds[:, columns],
                held_scores=held_scores[:, columns],
                held_quality=held.scores[:, columns],
            )
    return found


def study(source: Source, options: argparse.Namespace) -> Findings:
    """Every router with every kind of cloud on every table."""
    facts, grids, plots = [], [], {}
    for name in options.table:
        table = priced(source.table(name))
        encoder = source.embeddings(table)
        small = source.small_experts(name)
        replicas = [deployments(table, small, encoder, seed) for seed in options.seeds]
        pair = replicas[0][f"{KINDS[0]}, {CLOUDS[0]}"].names
        facts += [
            about(name, table),
            f"{name}: on the edge {pair[0]}; in the cloud {pair[1]}, or any of {len(table.experts) - 1} experts.",
        ]
        curves = {way: figures([replica[way].curve() for replica in replicas]) for way in replicas[0]}
        grids.append(Grid(caption=f"{name}, over all shares", columns=CURVE, rows=curves))
        series = []
        for way in replicas[0]:
            found = [replica[way].points() for replica in replicas]
            rows = {
                f"{share:.0%} wanted": figures(points)
                for share, points in zip(SHARES, zip(*found, strict=True), strict=True)
            }
            columns = [column for column in POINT if column.key in next(iter(rows.values()))]
            grids.append(Grid(caption=f"{name}, {way}: wanted share of cloud calls", columns=columns, rows=rows))
            kept, quality = ([row[key] for row in rows.values()] for key in ("kept", "quality"))
            series.append(Series(name=way, x=[100 * figure.mean for figure in kept], y=quality))
        for cloud in CLOUDS:
            ends = [curves[f"{KINDS[0]}, {cloud}"][key] for key in ("cloud", "edge")]
            series.append(Series(name=f"chance, {cloud}", x=[0, 100], y=ends, style="--"))
        plots[f"edge_{name}"] = drawing(
            f"{name}: quality against the share kept at the edge", series, x="% kept at the edge", y="quality"
        )
    return Findings(title="Edge to cloud", facts=facts, grids=grids, plots=plots)


def configure(parser: argparse.ArgumentParser) -> None:
    """The study's own arguments."""
    parser.add_argument("--table", nargs="+", default=list(TABLES), help="names of outcome tables with costs")


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    run(study, "edge_to_cloud", __doc__, argv, configure=configure)


if __name__ == "__main__":
    main()
