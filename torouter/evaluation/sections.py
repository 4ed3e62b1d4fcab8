"""The sections of a report, with texts, plots and tables, for the page and for Markdown alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torouter.evaluation.evaluator import Evaluation, LeftOut
from torouter.evaluation.metric_specs import COST, CURVE, QUALITY, ROUTER, SAVED, MetricSpec
from torouter.evaluation.summary import Line, lines

SHOWN_SHARE = 0.005
"""Experts that get a smaller share of all queries are combined in a table of shares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Texts in rows under a header; the first column names the rows.

    Attributes:
        caption: What the table shows, "" if the section's title says it.
        shares: By cell, without the first column, a number in 0..1 that the page shows as a shade; None: no shades.
    """

    caption: str = ""
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    shares: NDArray[np.float64] | None = None

    def markdown(self) -> str:
        """The table in Markdown, its columns aligned so that it reads well in a terminal too."""
        escaped = [[cell.replace("|", "\\|") for cell in row] for row in (self.header, *self.rows)]
        widths = [max(3, *(len(row[column]) for row in escaped)) for column in range(len(self.header))]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        padded = [
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            for row in (escaped[0], rule, *escaped[1:])
        ]
        return "\n".join(f"| {' | '.join(row)} |" for row in padded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One part of a report.

    Attributes:
        plot: Name of the function in `plots` that draws its plot, None without one.
        columns: The columns of its tables that are explained below them.
    """

    title: str
    text: str
    tables: Sequence[Table]
    plot: str | None = None
    columns: Sequence[MetricSpec] = ()


def facts(evaluation: Evaluation) -> list[str]:
    """What was evaluated on which data, one sentence each, and what a reader must know to interpret it."""
    replays = evaluation.replays
    splits = ", ".join(replay.split for replay in replays if replay.split)
    sentences = [
        f"{evaluation.queries} queries, {len(evaluation.experts)} experts; hash of the table {evaluation.data_hash}.",
        f"Test queries: {_counts([replay.test_queries for replay in replays])} ({splits or 'the whole table'}).",
        f"Best single expert on the train part: {_names([replay.single for replay in replays])}.",
    ]
    if pairs := [f"{replay.pair[0]} and {replay.pair[1]}" for replay in replays if replay.pair]:
        priced = _counts([replay.priced_queries for replay in replays])
        experts = len(replays[0].priced_experts)
        sentences.append(f"Test queries for the comparison of costs: {priced}, with {experts} experts of known cost.")
        sentences.append(f"Weak and strong expert of APGR and CPT: {_names(pairs)}.")
    if len(replays) > 1:
        sentences.append("Figures are mean ± sample standard deviation over seeds and splits.")
    return [*sentences, *evaluation.notes]


def sections(evaluation: Evaluation) -> tuple[Section, ...]:
    """The report's sections, without those for which the table has no data."""
    rows = lines(evaluation)
    routers = [line for line in rows if line.role == "router"]
    contenders = [line for line in rows if line.role != "expert"]
    experts = [line for line in rows if line.role == "expert"]
    parts = [
        _section(
            "Quality",
            "Mean score of the chosen experts' answers when only quality counts.",
            {"": QUALITY},
            contenders,
            plot="qualities",
        )
    ]
    if any("cost" in line.figures for line in rows):
        parts.append(
            _section(
                "Cost",
                "A router that weighs cost moves along its curve, from quality only (marker) to cost only. The "
                "dashed hull is the zero router: the best that random mixing of single experts reaches.",
                {
                    "Only quality counts": COST,
                    "99 % of the best single expert's quality is kept": SAVED,
                    "Over the whole curve": CURVE,
                },
                contenders,
                plot="cost_and_quality",
            )
        )
    parts.append(
        Section(
            title="Which expert is chosen",
            text="Share of each data set's queries that each expert gets when only quality counts.",
            tables=[_share_table(line, evaluation.experts) for line in routers],
        )
    )
    parts.append(
        _section(
            "The router itself",
            "How long a decision takes on this machine, and how well scores that estimate qualities are calibrated.",
            {"": ROUTER},
            routers,
            plot="calibration" if any(line.reliability for line in routers) else None,
        )
    )
    if evaluation.left_out:
        parts.append(_left_out_section(evaluation.left_out))
    parts.append(_section("Single experts", "Each expert answers all queries.", {"": (*QUALITY, COST[0])}, experts))
    return tuple(parts)


def _section(
    title: str,
    text: str,
    tables: Mapping[str, Sequence[MetricSpec]],
    rows: Sequence[Line],
    *,
    plot: str | None = None,
) -> Section:
    """A section with a table per caption, without columns and rows that would be empty."""
    shown, explained = [], []
    for caption, columns in tables.items():
        used = [column for column in columns if any(column.key in row.figures for row in rows)]
        cells = [
            [row.name, *(row.figures[c.key].text(c.form) if c.key in row.figures else "" for c in used)]
            for row in rows
            if any(c.key in row.figures for c in used)
        ]
        shown.append(Table(caption=caption, header=["", *(column.title for column in used)], rows=cells))
        explained += used
    return Section(title=title, text=text, tables=shown, plot=plot, columns=explained)


def _share_table(line: Line, experts: Sequence[str]) -> Table:
    shares = np.array(list(line.shares.values()))
    mean = shares.mean(axis=0)
    order = [column for column in np.argsort(-mean, kind="stable") if mean[column] >= SHOWN_SHARE]
    others = 1 - shares[:, order].sum(axis=1, keepdims=True)
    shown = np.clip(np.hstack([shares[:, order], others]), 0, 1)
    return Table(
        caption=line.name,
        header=["", *(experts[column] for column in order), "others"],
        rows=[[name, *(f"{share:.0%}" for share in row)] for name, row in zip(line.shares, shown, strict=True)],
        shares=shown,
    )


def _left_out_section(rows: Sequence[LeftOut]) -> Section:
    tables = []
    for name in dict.fromkeys(row.router for row in rows):
        own = [row for row in rows if row.router == name]
        cells = [
            [row.dataset, str(row.queries), *map("{:.3f}".format, (row.quality, row.single, row.random, row.oracle))]
            for row in own
        ]
        means = [np.mean([getattr(row, key) for row in own]) for key in ("quality", "single", "random", "oracle")]
        cells.append(["mean", "", *map("{:.3f}".format, means)])
        header = ["data set", "queries", "router", "best single", "random", "oracle"]
        tables.append(Table(caption=name, header=header, rows=cells))
    text = "Trained on all data sets but one and evaluated on that one: quality on queries unlike those of training. "
    text += "The best single expert is picked on the other data sets."
    return Section(title="Leave one data set out", text=text, tables=tables)


def _counts(numbers: Sequence[int]) -> str:
    same = len(numbers) > 1 and len(set(numbers)) == 1
    return f"{numbers[0]} each" if same else ", ".join(map(str, numbers))


def _names(names: Sequence[str]) -> str:
    counts = Counter(names)
    if len(counts) == 1:
        return names[0]
    return ", ".join(f"{name} ({count} of {len(names)})" for name, count in counts.most_common())
