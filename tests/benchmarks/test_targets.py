"""The command that measures routers against their targets, end to end on a small table whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.studies import targets
from tests.support import tiny
from torouter.outcomes.table import OutcomeTable
from torouter.routers.router import AutoRouter

DATASETS = {"code": "gsm8k", "facts": "math_l5", "math": "mmlu"}
BERT = "--max-length 16 --epochs 2 --learning-rate 3e-3 --own-share 1 --no-progress"


@pytest.fixture(scope="module")
def measured(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command leaves after it was run twice; "math" is no small expert."""
    root = tmp_path_factory.mktemp("targets")
    frame = tiny.frame()
    frame["dataset"] = frame["dataset"].map(DATASETS)
    frame["cost_usd"] = frame["expert"].map({"code": 0.001, "facts": 0.002, "math": 0.004})
    OutcomeTable(frame).write(root / "llmrouter9.parquet")
    OutcomeTable(frame).write(root / "medagents10.parquet")
    OutcomeTable(frame.assign(dataset=frame["dataset"].replace("mmlu", "cruxeval_o"))).write(
        root / "zeroeval28.parquet"
    )
    sizes = {"code": 2.0, "facts": 9.0, "math": 70.0}
    rows = [("llmrouter9", expert, size) for expert, size in sizes.items()]
    pd.DataFrame(rows, columns=["table", "expert", "params_b"]).to_csv(root / "experts_prices.csv", index=False)
    shared = ["--out", str(root / "out"), "--cache", str(root / "cache"), "--seeds", "0", "1", "--bert", BERT]
    targets.main([str(root), *shared, "--encoder", str(tiny_encoder), "--routers", "knn"])
    targets.main([str(root), *shared, "--encoder", str(tiny_encoder), "--routers", "knn", "mlp", "bert"])
    return root / "out"


@pytest.fixture(scope="module")
def grids(measured: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by caption, row and column."""
    document = json.loads((measured / "targets.json").read_text(encoding="utf-8"))
    return {table["caption"]: table["rows"] for table in document["tables"]}


def test_each_router_stands_beside_its_target_and_the_yardsticks(grids: dict[str, dict[str, Any]]) -> None:
    rows = grids["llmrouter9, all 3 experts"]

    assert rows["oracle"]["quality"]["mean"] == pytest.approx(0.9)
    assert rows["true data set's best"]["gap_closed"]["mean"] == pytest.approx(1)
    for name, kind in (("KNNRouter", "knn"), ("MLPRouter", "mlp"), ("BertRouter", "bert")):
        row = rows[name]
        assert row["quality"]["replicas"] == 2
        assert row["target"]["mean"] == targets.QUALITY_TARGETS["all"][kind]
        assert row["over"]["mean"] == pytest.approx(row["quality"]["mean"] - row["target"]["mean"])


def test_small_pools_and_costs_are_judged_too(grids: dict[str, dict[str, Any]]) -> None:
    removed = grids["llmrouter9, 2 small experts"]["BertRouter of all experts, the others removed"]
    without = grids["llmrouter9, all 3 experts, judged without mmlu"]

    assert removed["quality"]["mean"] < 0.75  # nobody is left for a third of the queries
    assert without["oracle"]["quality"]["mean"] == pytest.approx(0.9)
    assert grids["zeroeval28 (cruxeval_o, gsm8k, math_l5)"]["MLPRouter"]["kept"]["mean"] > 0.9


def test_a_training_is_measured_once_and_its_checkpoint_kept(measured: Path, grids: dict[str, dict[str, Any]]) -> None:
    took = grids["Training of one BertRouter"]["BertRouter"]
    assert took["cpu"]["mean"] > 1
    assert 0.1 < took["gigabytes"]["mean"] < 8
    names = ["llmrouter9-bert-0", "llmrouter9-bert-1"]
    assert sorted(path.name for path in (measured / "runs").glob("*/")) == names
    records = [json.loads((measured / "runs" / f"{name}.json").read_text()) for name in names]
    assert np.mean([record["cpu"] for record in records]) == pytest.approx(took["cpu"]["mean"])
    assert AutoRouter.from_pretrained(measured / "runs" / names[0]).experts == tiny.EXPERTS
