"""The figures that the routers are held to, each beside its target.

    python -m benchmarks.studies.targets TABLES --routers knn mlp bert

KNN and MLP routers are fitted on embeddings that are computed once. Each BertRouter is trained by `torouter train` in a
process of its own, whose seconds and memory are measured; its checkpoint is kept, and a run that is started again
goes on with those that are missing.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies.study import Findings, Grid, Remembered, Source, about, figures, fit, quality, run
from torouter.evaluation import metrics
from torouter.evaluation.evaluator import evaluate
from torouter.evaluation.metric_specs import QUALITY, SAVED, MeanStd, MetricSpec
from torouter.evaluation.summary import lines
from torouter.outcomes.table import OutcomeTable
from torouter.routers.kinds import TrainedKind
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.router import AutoRouter, Router
from torouter.training.arguments import TrainingArguments

BERT = "--max-length 64 --frozen-layers 3 --own-share 0.15"
"""What the BertRouters are trained with beyond the defaults."""
QUALITY_TARGETS = {"all": {"bert": 0.708, "mlp": 0.692, "knn": 0.688}, "small": {"bert": 0.652}}
COST_TARGETS = {"zeroeval28": 0.30, "medagents10": 0.25}
COST_DATASETS = {"zeroeval28": ("gsm8k", "math_l5", "cruxeval_o"), "medagents10": None}
UNPARSED = "mmlu"
"""The data set of llmrouter9 in which the answers of four experts were not parsed."""
TARGET = (
    MetricSpec("target", "target", "{:.3f}", "What is asked for."),
    MetricSpec("over", "over target", "{:+.3f}", "Quality minus target."),
)
SAVED_TARGET = MetricSpec("target", "target", "{:.0%}", "What shall be saved while 99 % of the quality is kept.")
TRAINING = (
    MetricSpec("seconds", "seconds", "{:.0f}", "Of one training on a shared machine, from start to end."),
    MetricSpec("cpu", "CPU seconds", "{:.0f}", "Of one training, on one thread."),
    MetricSpec("gigabytes", "GB", "{:.2f}", "Peak of its resident memory."),
)
KIND_TITLES = {"knn": "KNNRouter", "mlp": "MLPRouter", "bert": "BertRouter"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Where routers come from: fitted on the spot, or trained once and kept.

    Attributes:
        runs: Directory of the checkpoints.
        bert: Options of `torouter train` for BertRouters.
        costs: What each training of a BertRouter took.
    """

    source: Source
    runs: Path
    encoder: Remembered
    bert: str
    costs: list[dict[str, float]] = field(default_factory=list)

    def router(self, kind: TrainedKind, name: str, train: OutcomeTable, seed: int) -> Router:
        """A router trained on `train`; `name` is the table's."""
        if kind != "bert":
            return fit(train, TrainingArguments(router=kind, seed=seed), self.encoder)
        out = self.runs / f"{name}-bert-{seed}"
        record = out.with_suffix(".json")
        if not record.is_file():
            record.write_text(json.dumps(self._trained(out, train, seed)), encoding="utf-8")
        self.costs.append(json.loads(record.read_text(encoding="utf-8")))
        return AutoRouter.from_pretrained(out)

    def _trained(self, out: Path, train: OutcomeTable, seed: int) -> dict[str, float]:
        table = train.write(out.with_suffix(".parquet"))
        command = [str(Path(sys.executable).with_name("torouter")), "train", str(table), "--out", str(out)]
        command += [*shlex.split(self.bert), "--seed", str(seed), "--resume"]
        command += ["--encoder", self.source.encoder] if self.source.encoder else []
        began = time.perf_counter()
        process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)  # wait4 has reaped it behind Popen's back
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed: {process.returncode}")
        table.unlink()
        return {
            "seconds": time.perf_counter() - began,
            "cpu": usage.ru_utime + usage.ru_stime,
            "gigabytes": usage.ru_maxrss / 1e6,
        }


@dataclass(frozen=True, slots=True)
class Court:
    """Judges choices on some test queries of one split."""

    known: OutcomeMatrix
    outcomes: OutcomeMatrix
    known_datasets: NDArray[np.str_]
    datasets: NDArray[np.str_]

    @classmethod
    def of(cls, train: OutcomeTable, test: OutcomeTable) -> Court:
        return cls(train.matrix(), test.matrix(), np.array(train.datasets), np.array(test.datasets))

    def without(self, dataset: str) -> Court:
        """The same, without the queries of one data set."""
        train, test = self.known_datasets != dataset, self.datasets != dataset
        return Court(
            self.known.rows(np.flatnonzero(train)),
            self.outcomes.rows(np.flatnonzero(test)),
            self.known_datasets[train],
            self.datasets[test],
        )

    def figures(self, found: float, target: float | None = None) -> dict[str, float]:
        """What a quality is worth."""
        scores = self.outcomes.scores
        single = float(scores[:, metrics.best_single(self.known.scores)].mean(dtype=np.float64))
        top = metrics.mean_of(scores, metrics.oracle_choices(scores))
        worth = {
            "quality": found,
            "gain": found - single,
            "gap_closed": metrics.gap_closed(found, single, top),
        }
        return worth if target is None else {**worth, "target": target, "over": found - target}

    def baselines(self) -> dict[str, dict[str, float]]:
        """Best single expert, the best expert of each query's data set, and the oracle."""
        scores = self.outcomes.scores
        means = {name: self.known.scores[self.known_datasets == name].mean(axis=0) for name in set(self.known_datasets)}
        told = np.array([means[name].argmax() for name in self.datasets])
        single = np.full(len(scores), metrics.best_single(self.known.scores))
        chosen = {"best single": single, "true data set's best": told, "oracle": metrics.oracle_choices(scores)}
        return {name: self.figures(metrics.mean_of(scores, choices)) for name, choices in chosen.items()}


def qualities(
    table: OutcomeTable,
    pool: str,
    routers: Callable[[OutcomeTable, int], Mapping[str, Router]],
    seeds: Sequence[int],
) -> list[Grid]:
    """One grid over all data sets and one without the data set whose answers were not parsed."""
    captions = [f"llmrouter9, {pool}", f"llmrouter9, {pool}, judged without {UNPARSED}"]
    rows: list[dict[str, list[dict[str, float]]]] = [{}, {}]
    targets = QUALITY_TARGETS["all" if pool.startswith("all") else "small"]
    for seed in seeds:
        train, test = table.split(f"standard:{seed}")
        whole = Court.of(train, test)
        fitted = routers(train, seed)
        courts = [whole, whole.without(UNPARSED)] if UNPARSED in whole.datasets else [whole]
        for found, court in zip(rows, courts, strict=False):
            for name, worth in court.baselines().items():
                found.setdefault(name, []).append(worth)
            for name, router in fitted.items():
                target = targets.get(name) if court is whole else None
                title = KIND_TITLES.get(name, name)
                found.setdefault(title, []).append(court.figures(quality(router, court.outcomes), target))
    columns = (*(c if c.key != "quality" else _FINE for c in QUALITY[:3]), *TARGET)
    return [
        Grid(caption=caption, columns=columns, rows={name: _figures(of) for name, of in found.items()})
        for caption, found in zip(captions, rows, strict=True)
        if found
    ]


_FINE = MetricSpec("quality", "quality", "{:.4f}", QUALITY[0].meaning)


def savings(table: OutcomeTable, name: str, kinds: Sequence[TrainedKind], shop: Workshop, seeds: Sequence[int]) -> Grid:
    """What routers save at 99 % of the best single expert's quality."""
    splits = {f"standard:{seed}": seed for seed in seeds}
    routers = [
        (KIND_TITLES[kind], shop.router(kind, name, table.split(split)[0], seed))
        for split, seed in splits.items()
        for kind in kinds
    ]
    refits = {
        KIND_TITLES[kind]: partial(fit, arguments=TrainingArguments(router=kind), encoder=shop.encoder)
        for kind in kinds
    }
    rows = {}
    for line in lines(evaluate(table, routers, splits=list(splits), refits=refits)):
        if line.role == "router" or line.name == "zero router":
            rows[line.name] = {**line.figures, "target": MeanStd.of([COST_TARGETS[name]])}
    datasets = ", ".join(sorted(set(table.datasets)))
    return Grid(caption=f"{name} ({datasets})", columns=(*SAVED[:4], SAVED_TARGET), rows=rows)


def study(source: Source, options: argparse.Namespace) -> Findings:
    """All tables, for the kinds of routers that are asked for."""
    facts, grids = [], []
    runs = options.out / "runs"
    runs.mkdir(parents=True, exist_ok=True)
    table = source.table("llmrouter9")
    facts.append(about("llmrouter9", table))
    name = "llmrouter9"
    shop = Workshop(source=source, runs=runs, encoder=source.embeddings(table), bert=options.bert)
    small = [expert for expert in table.experts if expert in source.small_experts("llmrouter9")]
    large = [expert for expert in table.experts if expert not in small]

    def of_all(train: OutcomeTable, seed: int) -> dict[str, Router]:
        return {kind: shop.router(kind, name, train, seed) for kind in options.routers}

    def of_small(train: OutcomeTable, seed: int) -> dict[str, Router]:
        found = {kind: shop.router(kind, f"{name}-small", train, seed) for kind in options.routers if kind in retrained}
        if "bert" in options.routers:
            everything = shop.router("bert", name, table.split(f"standard:{seed}")[0], seed)
            found["BertRouter of all experts, the others removed"] = reduce(
                lambda router, expert: router.remove_expert(expert), large, everything
            )
        return found

    retrained = [kind for kind in options.routers if kind != "bert" or options.retrain_small]
    grids += qualities(table, f"all {len(table.experts)} experts", of_all, options.seeds)
    grids += qualities(table.subset(experts=small), f"{len(small)} small experts", of_small, options.seeds)
    if shop.costs:
        rows = {"BertRouter": figures(shop.costs)}
        grids.append(Grid(caption="Training of one BertRouter", columns=TRAINING, rows=rows))
    kinds = [kind for kind in options.routers if kind != "bert"]
    for name, datasets in COST_DATASETS.items() if kinds else ():
        priced = source.table(name).subset(datasets=datasets)
        facts.append(about(name, priced))
        shop = replace(shop, encoder=source.embeddings(priced))
        grids.append(savings(priced, name, kinds, shop, options.seeds))
    if "bert" in options.routers:
        facts.append(f"BertRouters: torouter train {options.bert}, else the defaults.")
    return Findings(title="Targets", facts=facts, grids=grids, plots={})


def _figures(replicas: Sequence[Mapping[str, float]]) -> dict[str, MeanStd]:
    """As `figures`, the target as the one number that it is."""
    found = figures(replicas)
    return {**found, "target": MeanStd.of([replicas[0]["target"]])} if "target" in found else found


def configure(parser: argparse.ArgumentParser) -> None:
    """The study's own arguments."""
    kinds = ("knn", "mlp", "bert")
    parser.add_argument("--routers", nargs="+", choices=kinds, default=kinds, help="kinds to measure; default: all")
    parser.add_argument("--bert", default=BERT, help="options of torouter train for BertRouters")
    parser.add_argument(
        "--retrain-small", action="store_true", help="train BertRouters for the small experts alone, too"
    )


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    run(study, "targets", __doc__, argv, configure=configure)


if __name__ == "__main__":
    main()
