"""The studies under benchmarks/, each end to end on a small table whose answers are known."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies.cross_domain import Foreign, threshold
from benchmarks.studies.edge_to_cloud import SHARES, Deployment
from benchmarks.studies.study import Remembered, Source
from tests.support import tiny
from torouter.outcomes.table import OutcomeTable

STUDIES = {
    "temperature": ["--labels", "hard", "multiply:10", "multiply:1", "divide:1", "divide:10", "bce"],
    "pools": [],
    "experts_come_and_go": ["--counts", "20", "100", "--shown", "100"],
    "edge_to_cloud": [],
    "cross_domain": ["--table", "medagents10"],
}
SECONDS = {"code": 1.0, "facts": 2.0, "math": 4.0}
COSTS = {"code": 0.001, "facts": 0.002, "math": 0.004}


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of outcome tables: "code" is the small, cheap and fast expert."""
    directory = tmp_path_factory.mktemp("tables")
    frame = tiny.frame()
    frame["cost_usd"] = frame["expert"].map(COSTS)
    for name in ("llmrouter9", "zeroeval28", "medagents10"):
        OutcomeTable(frame).write(directory / f"{name}.parquet")
    latency = frame[["query_id", "expert"]].assign(latency_s=frame["expert"].map(SECONDS))
    latency.sample(frac=1, random_state=0).to_parquet(directory / "medagents10_latency.parquet")
    sizes = {"code": 2.0, "facts": 9.0, "math": 70.0}
    rows = [(table, expert, size) for table in ("llmrouter9", "zeroeval28") for expert, size in sizes.items()]
    pd.DataFrame(rows, columns=["table", "expert", "params_b"]).to_csv(directory / "experts_prices.csv", index=False)
    return directory


@pytest.fixture(scope="session")
def reports(tables: Path, tiny_embedding: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs a study on two seeds, at most once, and tells where it wrote."""
    root = tmp_path_factory.mktemp("reports")
    shared = ["--encoder", str(tiny_embedding), "--cache", str(root / "cache"), "--seeds", "0", "1"]

    @functools.cache
    def report(study: str) -> Path:
        module = importlib.import_module(f"benchmarks.studies.{study}")
        module.main([str(tables), "--out", str(root / study), *shared, *STUDIES[study]])
        return root / study

    return report


def found(reports: Callable[[str], Path], study: str) -> dict[str, dict[str, dict[str, Any]]]:
    """A study's figures by caption, row and column."""
    document = json.loads((reports(study) / f"{study}.json").read_text(encoding="utf-8"))
    return {table["caption"]: table["rows"] for table in document["tables"]}


def mean(cells: dict[str, Any], column: str) -> float:
    return float(cells[column]["mean"])


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_writes_tables_numbers_and_figures(reports: Callable[[str], Path], study: str) -> None:
    text = (reports(study) / f"{study}.md").read_text(encoding="utf-8")
    assert "±" in text
    assert f"python -m benchmarks.studies.{study}" in text
    figures = [cell for rows in found(reports, study).values() for row in rows.values() for cell in row.values()]
    assert {cell["replicas"] for cell in figures} == {2}
    drawings = list(reports(study).glob("*.svg"))
    assert drawings
    for drawing in drawings:
        svg = drawing.read_text(encoding="utf-8")
        assert ET.fromstring(svg).tag.endswith("svg")
        assert "var(--" not in svg
        assert f"({drawing.name})" in text


def test_a_label_of_temperature_one_is_the_same_in_both_forms_and_multiplying_sharpens(
    reports: Callable[[str], Path],
) -> None:
    for rows in found(reports, "temperature").values():
        assert rows["multiply:1"] == rows["divide:1"]
        sharpness = [mean(rows[label], "sharpness") for label in ("hard", "multiply:10", "multiply:1", "divide:10")]
        assert sharpness == sorted(sharpness, reverse=True)
        assert "sharpness" not in rows["bce"]


def test_a_router_gains_from_an_expert_that_it_is_told_of(reports: Callable[[str], Path]) -> None:
    for way in ("mlp", "mlp, mixed", "knn"):
        rows = found(reports, "experts_come_and_go")[f"A new expert, {way}"]
        assert mean(rows["100 labelled queries"], "quality") > mean(rows["without it"], "quality")
        assert mean(rows["retrained"], "kept") == mean(rows["retrained"], "recovered") == 1
        assert mean(rows["without it"], "recovered") == 0


def test_each_expert_that_goes_is_missed(reports: Callable[[str], Path]) -> None:
    rows = found(reports, "experts_come_and_go")["Each expert, 100 labelled queries, knn"]
    for name in tiny.EXPERTS:
        # A KNN forgets without a trace: removing is as good as never having known.
        assert mean(rows[name], "removed") == pytest.approx(mean(rows[name], "without"), abs=0.03)
        assert mean(rows[name], "removed") < mean(rows[name], "retrained")


def test_a_pool_without_the_large_expert_is_worth_less(reports: Callable[[str], Path]) -> None:
    pools = found(reports, "pools")
    small, everyone = pools["llmrouter9, 2 small experts"], pools["llmrouter9, all 3 experts"]
    assert mean(small["oracle"], "quality") < mean(everyone["oracle"], "quality") == pytest.approx(0.9)
    assert mean(everyone["mlp"], "gap_closed") > 0.5


def test_seconds_are_told_where_they_were_measured(reports: Callable[[str], Path]) -> None:
    grids = found(reports, "edge_to_cloud")
    (point, *_) = grids["medagents10, mlp, cloud pool: wanted share of cloud calls"].values()
    assert SECONDS["code"] <= mean(point, "seconds") < SECONDS["facts"]
    assert 1000 * COSTS["code"] <= mean(point, "cost") < 1000 * COSTS["facts"]
    (point, *_) = grids["zeroeval28, mlp, cloud pool: wanted share of cloud calls"].values()
    assert "seconds" not in point


def test_a_threshold_sends_the_wanted_share_of_queries_away() -> None:
    """The cloud is preferred by .1, .2, .3 and .4; the edge is right on the first query, the cloud on the last."""
    scores = np.float32([[0.5, 0.6], [0.5, 0.7], [0.5, 0.8], [0.5, 0.9]])
    quality = np.float32([[1, 0], [0, 0], [0, 0], [0, 1]])
    costs, seconds = np.tile(np.float32([1, 3]), (4, 1)), np.tile(np.float32([2, 10]), (4, 1))
    points = Deployment(
        names=("small", "large"),
        scores=scores,
        quality=quality,
        costs=costs,
        seconds=seconds,
        held_scores=scores,
        held_quality=quality,
    ).points()
    by_share = dict(zip(SHARES, points, strict=True))
    assert by_share[0.0] == {"kept": 1, "quality": 0.25, "chance": 0, "cost": 1, "seconds": 2, "seconds_95": 2}
    half = {"kept": 0.5, "quality": 0.5, "chance": 0.25, "cost": 2, "seconds": 6, "seconds_95": 10}
    assert by_share[0.5] == pytest.approx(half)
    assert by_share[1.0] == {"kept": 0, "quality": 0.25, "chance": 0, "cost": 3, "seconds": 10, "seconds_95": 10}


def test_a_router_that_tells_queries_apart_beats_chance_at_the_edge(reports: Callable[[str], Path]) -> None:
    curves = found(reports, "edge_to_cloud")["zeroeval28, over all shares"]
    assert all(mean(curve, "apgr") > 0.6 for name, curve in curves.items() if "pool" in name)


def test_a_domain_that_was_left_out_is_routed_worse_than_one_that_was_learnt(reports: Callable[[str], Path]) -> None:
    rows = found(reports, "cross_domain")["medagents10, knn"]
    assert set(rows) == {*tiny.EXPERTS, "mean"}
    assert mean(rows["mean"], "routed") < mean(rows["mean"], "in_domain") <= mean(rows["mean"], "oracle")


def foreign(nearness: list[float]) -> Foreign:
    """Two experts; the router chooses the second, which is right only where a known query is near."""
    near = np.array(nearness)
    outcomes = np.column_stack([np.full(len(near), 0.5), near > 0.5]).astype(np.float32)
    return Foreign(outcomes, np.tile(np.float32([0.2, 0.8]), (len(near), 1)), 0, near)


def test_a_threshold_is_picked_where_abstaining_pays_and_not_where_it_does_not() -> None:
    rehearsal = foreign([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    value = threshold("nearness", [rehearsal])
    assert 0.3 < value <= 0.6
    assert rehearsal.abstaining("nearness", value).tolist() == [0, 0, 0, 1, 1, 1]
    always_right = replace(rehearsal, outcomes=np.tile(np.float32([0, 1]), (6, 1)))
    assert always_right.abstaining("nearness", threshold("nearness", [always_right])).tolist() == [1] * 6
    always_wrong = replace(rehearsal, outcomes=np.tile(np.float32([1, 0]), (6, 1)))
    assert always_wrong.abstaining("nearness", threshold("nearness", [always_wrong])).tolist() == [0] * 6


def test_embeddings_are_computed_once(tables: Path, tiny_embedding: Path, tmp_path: Path) -> None:
    source = Source(tables=tables, cache=tmp_path, encoder=str(tiny_embedding))
    table = source.table("llmrouter9")
    first = source.embeddings(table).features(table.queries)
    (file,) = tmp_path.iterdir()
    np.save(file, np.zeros_like(np.load(file)))
    assert first.any()
    assert not source.embeddings(table).features(table.queries).any()


def test_embeddings_belong_to_their_texts() -> None:
    encoder = Remembered(["a", "b"], np.float32([[1, 0], [0, 1]]))
    assert encoder.features(["b", "a", "b"]).tolist() == [[0, 1], [1, 0], [0, 1]]
