"""What all studies share: tables, embeddings computed once, routers fitted on them, and the files that a study leaves.

A study asks one of the paper's open questions of recorded outcomes. It writes its tables as Markdown and JSON and its
figures as SVG into one directory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from torouter.evaluation import metrics, plots
from torouter.evaluation.metric_specs import MeanStd, MetricSpec
from torouter.evaluation.sections import Table
from torouter.outcomes.table import OutcomeTable
from torouter.routers.encoders.onnx_encoder import OnnxEncoder
from torouter.routers.encoders.pretrained import encoder_name, write_embedding
from torouter.routers.knn import KNNRouter
from torouter.routers.mlp import MLPRouter
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.router import Router, as_texts
from torouter.training import train_heads
from torouter.training.arguments import TrainingArguments
from torouter.training.data import training_data
from torouter.training.trainer import initial_config

SMALL = 9.0
"""Billions of parameters up to which an expert is a small one."""
TABLES_HELP = """\
TABLES is a directory with one NAME.parquet for each outcome table: llmrouter9, zeroeval28, medagents10. Each has one
row for each query and expert, with the columns query_id, dataset, query, expert and score (0 to 1), and cost_usd where
cost is judged. Beside them:

  experts_prices.csv     table, expert, params_b (billions of parameters: which experts are small)
  NAME_latency.parquet   query_id, expert, latency_s (seconds of each call; may be missing)

They can be made from outcomes that others have published:

  llmrouter9    github.com/ulab-uiuc/LLMRouter, data/dcrouter_preprocessed (scores) and
                data/example_data/query_data (tasks, references, options)
  zeroeval28    github.com/yuchenlin/ZeroEval, result_dirs, with the texts of github.com/aryopg/mmlu-redux
  medagents10   github.com/gersteinlab/medagents-benchmark, output/*/*-test-zero_shot.json

Other published outcomes, such as those of RouterBench or LLMRouterBench, can take a table's place under its name.
"""
"""What `--help` says of the tables, which are too large to be part of this repository."""
_LIGHT = {
    "--ink": "#1b1f24",
    "--muted": "#626a73",
    "--grid": "#e1e4e8",
    "--series-1": "#0067a6",
    "--series-2": "#b84a00",
    "--series-3": "#00755a",
    "--series-4": "#a3317f",
    "--series-5": "#7a5c00",
    "--series-6": "#4c4fbf",
}
"""The report's light palette: a figure in the docs stands alone, on white."""


class Remembered:
    """An encoder that has seen all its texts before: many routers on one table share one pass over it."""

    def __init__(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._rows = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors
        self.width = vectors.shape[1]

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._vectors[[self._rows[text] for text in texts]]

    def content(self) -> Iterator[bytes]:
        yield self._vectors.tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where tables and embeddings come from.

    Attributes:
        tables: Directory of the outcome tables.
        cache: Directory where embeddings are kept.
        encoder: Directory or Hub id; None is all-MiniLM-L6-v2.
    """

    tables: Path
    cache: Path
    encoder: str | None = None

    def table(self, name: str) -> OutcomeTable:
        """A table by name, with the seconds of its latency file where it has one."""
        outcomes = OutcomeTable.read(self.tables / f"{name}.parquet")
        frame, latency = outcomes.frame, self.tables / f"{name}_latency.parquet"
        if latency.is_file():
            measured = pd.read_parquet(latency).set_index(["query_id", "expert"])["latency_s"]
            keys = pd.MultiIndex.from_frame(frame[["query_id", "expert"]])
            frame = frame.assign(seconds=measured.reindex(keys).to_numpy())
        return OutcomeTable(frame)

    def small_experts(self, name: str) -> tuple[str, ...]:
        """Experts of a table with at most `SMALL` billion parameters, as experts_prices.csv has them."""
        facts = pd.read_csv(self.tables / "experts_prices.csv")
        return tuple(facts.loc[(facts["table"] == name) & (facts["params_b"] <= SMALL), "expert"])

    def embeddings(self, table: OutcomeTable) -> Remembered:
        """The sentence embeddings of a table's queries, from the cache where they are in it."""
        texts = as_texts(sorted(set(table.queries)))
        length = TrainingArguments().max_length
        key = "\0".join((encoder_name(self.encoder), str(length), *texts))
        file = self.cache / f"embeddings-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
        if not file.is_file():
            self.cache.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.cache) as fresh:
                write_embedding(self.encoder, Path(fresh))
                vectors = OnnxEncoder.load(Path(fresh), "fp32", length).features(texts)
                np.save(Path(fresh) / file.name, vectors)
                (Path(fresh) / file.name).replace(file)
        return Remembered(texts, np.load(file))


def fit(table: OutcomeTable, arguments: TrainingArguments, encoder: Remembered) -> MLPRouter | KNNRouter:
    """What `torouter.training.trainer.train` makes of a table, without files."""
    learnt, held = training_data(table, arguments)
    config = initial_config(table, arguments, learnt, held)
    return train_heads.fit(config, encoder, arguments, learnt, held, source=Path())


def choices(router: Router, outcomes: OutcomeMatrix) -> NDArray[np.intp]:
    """The column of `outcomes` that a router chooses for each of its queries."""
    columns = np.array([outcomes.experts.index(name) for name in router.experts])
    chosen: NDArray[np.intp] = columns[router.scores(outcomes.queries).argmax(axis=1)]
    return chosen


def quality(router: Router, outcomes: OutcomeMatrix) -> float:
    """Mean outcome of a router's choices."""
    return metrics.mean_of(outcomes.scores, choices(router, outcomes))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A table of figures: rows by name, cells by the columns' keys."""

    caption: str
    columns: Sequence[MetricSpec]
    rows: Mapping[str, Mapping[str, MeanStd]]

    def markdown(self) -> str:
        """The caption, the table and what its columns mean."""
        cells = [
            [name, *(row[c.key].text(c.form) if c.key in row else "" for c in self.columns)]
            for name, row in self.rows.items()
        ]
        table = Table(header=["", *(column.title for column in self.columns)], rows=cells)
        meanings = "\n".join(f"- {column.title}: {column.meaning}" for column in self.columns)
        return f"### {self.caption}\n\n{table.markdown()}\n\n{meanings}"

    def numbers(self) -> dict[str, dict[str, dict[str, float | int | None]]]:
        """Every figure with its standard deviation and counts, as JSON can write them; None is not defined."""
        return {
            name: {
                column.key: {
                    key: None if math.isnan(value) else value for key, value in asdict(row[column.key]).items()
                }
                for column in self.columns
                if column.key in row
            }
            for name, row in self.rows.items()
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a study found; `plots` are SVG texts by name."""

    title: str
    facts: Sequence[str]
    grids: Sequence[Grid]
    plots: Mapping[str, str]

    def write(self, out: Path, name: str) -> None:
        """Write NAME.md, NAME.json and an SVG per figure; other files in `out` are left alone."""
        out.mkdir(parents=True, exist_ok=True)
        blocks = [f"# {self.title}", "\n".join(f"- {fact}" for fact in self.facts)]
        blocks += [f"![{plot}]({plot}.svg)" for plot in self.plots]
        blocks += [grid.markdown() for grid in self.grids]
        (out / f"{name}.md").write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
        document = {
            "title": self.title,
            "facts": list(self.facts),
            "tables": [{"caption": grid.caption, "rows": grid.numbers()} for grid in self.grids],
        }
        (out / f"{name}.json").write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for plot, text in self.plots.items():
            (out / f"{plot}.svg").write_text(text, encoding="utf-8")


def figures(replicas: Sequence[Mapping[str, float]]) -> dict[str, MeanStd]:
    """One figure per key from one mapping per seed."""
    return {key: MeanStd.of([replica.get(key, math.nan) for replica in replicas]) for key in replicas[0]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of a figure with their standard deviations; "-" joins them, "" does not, "--" and ":" are baselines'."""

    name: str
    x: Sequence[float]
    y: Sequence[MeanStd]
    style: str = "-"


def drawing(
    title: str, series: Sequence[Series], *, x: str, y: str, log: bool = False, ticks: Mapping[float, str] | None = None
) -> str:
    """Lines with error bars as an SVG that stands alone."""
    with mpl.rc_context(plots.STYLE):  # type: ignore[arg-type]
        figure, axes = plots.blank(4.8)
        labels = []
        for number, line in enumerate(series):
            baseline = line.style in ("--", ":")
            color = plots.MUTED if baseline else plots.SERIES[number % len(plots.SERIES)]
            at, means = np.array(line.x, dtype=float), np.array([point.mean for point in line.y])
            if not line.style:  # side by side, since they would lie on each other
                at += 0.1 * (number - (len(series) - 1) / 2)
            if baseline:
                axes.plot(at, means, line.style, color=color, linewidth=1.2)
            else:
                spread = np.nan_to_num([point.sd for point in line.y])
                marker = plots.MARKERS[number % len(plots.MARKERS)]
                axes.plot(at, means, marker + line.style, color=color, markersize=5)
                axes.vlines(at, means - spread, means + spread, color=color, linewidth=1.2)
            labels.append((line.name, at[-1], means[-1], color))
        if log:
            axes.set_xscale("log")
        if ticks:
            if len(ticks) > 6:
                axes.set_xticks(list(ticks), list(ticks.values()), rotation=45, ha="right", rotation_mode="anchor")
            else:
                axes.set_xticks(list(ticks), list(ticks.values()))
            axes.minorticks_off()
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        plots.label(figure, axes, labels)
        text = plots.svg(figure, title)
    for variable, color in _LIGHT.items():
        text = text.replace(f"var({variable})", color)
    return text.replace("<svg", '<svg style="background: white; font-family: sans-serif"', 1)


def run(
    study: Callable[[Source, argparse.Namespace], Findings],
    name: str,
    description: str,
    argv: Sequence[str] | None = None,
    *,
    configure: Callable[[argparse.ArgumentParser], None] | None = None,
) -> None:
    """A study's command: read its arguments, let it run on one thread, write what it found."""
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.studies.{name}",
        description=description.split("\n", maxsplit=1)[0],
        epilog=TABLES_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("tables", metavar="TABLES", type=Path, help="directory of the outcome tables, see below")
    add("--out", type=Path, default=Path("reports") / name, help="where tables and figures go")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of the standard splits and of training")
    add("--encoder", help="directory or Hub id; default: all-MiniLM-L6-v2")
    add("--cache", type=Path, default=Path("reports/cache"), help="where embeddings are kept")
    if configure is not None:
        configure(parser)
    words = sys.argv[1:] if argv is None else argv
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    source = Source(tables=options.tables, cache=options.cache, encoder=options.encoder)
    began = time.process_time()
    findings = study(source, options)
    minutes = (time.process_time() - began) / 60
    command = f"Command: python -m benchmarks.studies.{name} {' '.join(words)}".rstrip()
    seeds = f"Seeds {', '.join(map(str, options.seeds))}; figures are mean ± sample standard deviation over them."
    facts = [
        *findings.facts,
        seeds,
        f"Encoder: {encoder_name(options.encoder)}, frozen.",
        f"{command} ({minutes:.1f} CPU minutes)",
    ]
    findings = replace(findings, facts=facts)
    findings.write(options.out, name)
    print("\n\n".join(grid.markdown() for grid in findings.grids))


def about(name: str, table: OutcomeTable) -> str:
    """A fact: which table was used."""
    return f"{name}: {len(table)} queries ({len(table) // 5} of them are a test part), {len(table.experts)} experts."
