"""The benchmark of scale, end to end on pools, texts and tables of a few."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale import growth as scale
from benchmarks.scale import outcome_rows as scale_rows
from benchmarks.scale import random_table as scale_table
from tests.support import tiny
from torouter.outcomes.table import OutcomeTable


def figures(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "scale.json").read_text(encoding="utf-8"))
    return found


def test_decisions_are_timed_by_experts_lengths_and_callers(tiny_embedding: Path, tmp_path: Path) -> None:
    what = ["--parts", "experts", "lengths", "callers", "--routers", "MLPRouter int8", "--repeats", "2", "--calls", "2"]
    sizes = ["--counts", "2", "9", "--characters", "20", "4000", "--callers", "1", "2", "--max-length", "16"]
    scale.main([*what, *sizes, "--encoder", str(tiny_embedding), "--work", str(tmp_path), "--out", str(tmp_path)])
    found = figures(tmp_path)
    cases = {f"{policy} policy, {count} experts" for policy in scale.POLICIES for count in (2, 9)}
    assert found["experts"]["seconds"].keys() == cases
    assert found["experts"]["by_base"]["MLPRouter int8"]["default"]["2"] == 1
    for part in ("experts", "lengths", "callers"):
        for by_worker in found[part]["seconds"].values():
            (seconds,) = by_worker.values()
            assert all(second > 0 for second in seconds)
    page = (tmp_path / "scale.md").read_text(encoding="utf-8")
    assert "| MLPRouter int8 | weighing |" in page
    assert "4,000 characters" in page
    assert "2 tasks" in page


def test_a_search_among_few_finds_all_neighbours(tmp_path: Path) -> None:
    scale.main(["--parts", "neighbours", "--vectors", "50", "200", "--out", str(tmp_path)])
    found = figures(tmp_path)["neighbours"]["searches"]
    assert [found[count][0]["recall"] for count in ("50", "200")] == [1, 1]
    assert found["200"][0]["peak_gigabytes"] > 0


def test_routers_are_trained_and_judged_on_a_table_of_any_size(tiny_embedding: Path, tmp_path: Path) -> None:
    what = ["--parts", "rows", "--rows", "800", "--kinds", "knn", "--max-length", "16"]
    scale.main([*what, "--encoder", str(tiny_embedding), "--work", str(tmp_path), "--out", str(tmp_path)])
    found = figures(tmp_path)["rows"]
    assert found.keys() == {"train, knn", "load, knn", "evaluate, knn"}, (tmp_path / "train-knn.log").read_text()
    assert {one["ended"] for one in found.values()} == {"done"}
    assert found["train, knn"]["megabytes"] > 0


def test_a_command_that_takes_too_long_is_ended_and_one_that_fails_is_told_of(tmp_path: Path) -> None:
    failed = scale_rows.run_torouter(["train", "no-such-table.parquet", "--out", "nowhere"], log=tmp_path / "log")
    assert failed["ended"] == "failed"
    assert "no-such-table" in (tmp_path / "log").read_text(encoding="utf-8")
    table = tiny.table(60).write(tmp_path / "t.parquet")
    ended = scale_rows.run_torouter(
        ["train", str(table), "--out", str(tmp_path / "r")], log=tmp_path / "log", seconds=0.2
    )
    assert ended["ended"] == "ended early"


@pytest.mark.parametrize("experts", [2, 3])
def test_a_drawn_table_is_whole_and_its_data_sets_have_different_best_experts(tmp_path: Path, experts: int) -> None:
    path = scale_table.write(tmp_path / "t.parquet", 800, experts, seed=1)
    table = OutcomeTable.read(path)
    assert (len(table), len(table.experts), len(set(table.queries))) == (800, experts, 800)
    assert set(table.datasets) == set(scale_table.TASKS)
    best = {name: table.subset(datasets=[name]).matrix().scores.mean(axis=0).argmax() for name in scale_table.TASKS}
    assert len(set(best.values())) > 1
    written = path.stat().st_mtime_ns
    assert scale_table.write(path, 800, experts).stat().st_mtime_ns == written  # it is made once
