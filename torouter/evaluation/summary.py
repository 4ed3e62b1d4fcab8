"""Summarises an evaluation over its replicas: one line per contender, whatever the number of seeds and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from torouter.evaluation.curves import Curve
from torouter.evaluation.evaluator import Evaluation
from torouter.evaluation.metric_specs import MeanStd
from torouter.evaluation.metrics import Reliability
from torouter.evaluation.replay import Contender, Replay, Role


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The metrics of one contender over its replicas.

    Attributes:
        figures: By the keys of `metric_specs`.
        shares: By data set, the mean share of its queries that each expert gets.
        curve: Mean over the replicas, point by point.
        reliability: Over the cells of all replicas.
    """

    name: str
    role: Role
    figures: Mapping[str, MeanStd]
    shares: Mapping[str, NDArray[np.float64]]
    curve: Curve | None
    reliability: Reliability | None


def lines(evaluation: Evaluation) -> tuple[Line, ...]:
    """All contenders: routers in their order, baselines, then experts, the best first."""
    replicas_of: dict[tuple[Role, str], list[tuple[Contender, Replay]]] = {}
    for replay in evaluation.replays:
        for contender in replay.contenders:
            replicas_of.setdefault((contender.role, contender.name), []).append((contender, replay))
    rows = [_line(name, role, replicas) for (role, name), replicas in replicas_of.items()]
    routers, baselines, experts = ([row for row in rows if row.role == role] for role in get_args(Role))
    return (*routers, *baselines, *sorted(experts, key=lambda row: -row.figures["quality"].mean))


def _line(name: str, role: Role, replicas: Sequence[tuple[Contender, Replay]]) -> Line:
    contenders = [contender for contender, _ in replicas]
    keys = dict.fromkeys(key for contender in contenders for key in contender.metrics)
    curves = [contender.curve for contender in contenders if contender.curve is not None]
    tables = [contender.reliability for contender in contenders if contender.reliability is not None]
    shares: dict[str, list[NDArray[np.float64]]] = {}
    for contender, replay in replicas:
        if contender.shares is not None:
            for dataset, row in zip(replay.datasets, contender.shares, strict=True):
                shares.setdefault(dataset, []).append(row)
    return Line(
        name=name,
        role=role,
        figures={key: MeanStd.of([c.metrics.get(key, float("nan")) for c in contenders]) for key in keys},
        shares={dataset: np.mean(rows, axis=0) for dataset, rows in sorted(shares.items())},
        # Points can be averaged: every sweep has equally many weights, relative to its dearest expert's cost.
        curve=Curve(*(np.mean([getattr(c, f) for c in curves], axis=0) for f in ("weights", "costs", "qualities")))
        if curves
        else None,
        reliability=reduce(add, tables) if tables else None,
    )
