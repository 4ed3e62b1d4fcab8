"""`torouter label`: each row of an outcome table gets the score that its scorer gives."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from torouter.cli import main
from torouter.errors import ConfigurationError, OutcomeTableError
from torouter.outcomes.labeller import label
from torouter.outcomes.table import OutcomeTable

CODE = json.dumps({"tests": ["assert f(2) == 4"]})
ROWS = [
    # data set, reference, scorer, answers of "one" and "two"
    ("facts", "Paris", "contains", "It is Paris.", "Rome"),
    ("sums", "5", "number", "3", "2 + 3 = 5"),
    ("code", CODE, "code", "def f(x): return x * 2", "def f(x): return x"),
]


def outcomes(**changes) -> OutcomeTable:
    rows = [
        {"query_id": f"q{i}", "dataset": dataset, "query": f"Query {i}?", "reference": reference, "scorer": scorer}
        | {"expert": expert, "response": answer, "error": None}
        for i, (dataset, reference, scorer, *answers) in enumerate(ROWS)
        for expert, answer in zip(("one", "two"), answers, strict=True)
    ]
    for row, change in changes.items():
        rows[int(row.removeprefix("row"))] |= change
    return OutcomeTable(pd.DataFrame(rows), labelled=False)


def test_each_rows_own_scorer_is_used():
    table = label(outcomes(), "table", allow_code=True)
    assert table.frame["score"].tolist() == [1, 0, 0, 1, 1, 0]


def test_a_data_set_can_have_another_scorer():
    others = {"code": "code", "sums": lambda response, reference: 0.25}
    table = label(outcomes(), "contains", by_dataset=others, allow_code=True)
    assert table.frame["score"].tolist() == [1, 0, 0.25, 0.25, 1, 0]


def test_rows_without_an_answer_score_0_and_are_counted(caplog):
    failed = {"response": None, "error": "ExpertTimeoutError: too late"}
    table = label(outcomes(row0=failed, row3=failed), "contains")
    assert table.frame["score"].tolist() == [0, 0, 0, 0, 0, 0]
    assert [record.message for record in caplog.records] == [
        "2 of 6 rows have an error instead of an answer: they score 0"
    ]


@pytest.mark.parametrize(
    ("column", "scorer"), [("response", "contains"), ("reference", "contains"), ("scorer", "table")]
)
def test_a_row_that_lacks_what_scoring_needs_is_named(column, scorer):
    with pytest.raises(OutcomeTableError, match=rf"row 1 .*column {column}: query 'q0', expert 'two' has none"):
        label(outcomes(row1={column: None}), scorer)


def test_a_scorer_of_a_data_set_that_is_not_there_is_refused():
    with pytest.raises(ConfigurationError, match="scorer of 'fact': the table's data sets are code, facts, sums"):
        label(outcomes(), "contains", by_dataset={"fact": "number"})


def test_a_callable_that_gives_no_share_is_refused():
    with pytest.raises(OutcomeTableError, match=r"column score: .* lies outside 0..1"):
        label(outcomes(), lambda response, reference: 5)


def test_the_command_writes_the_scored_table(tmp_path, capsys):
    raw, out = outcomes().write(tmp_path / "raw.parquet"), tmp_path / "scored.parquet"
    scorers = ["--scorer", "contains", "--scorer", "sums=number", "--scorer", "code=code"]
    assert main(["label", str(raw), *scorers, "--out", str(out)]) == 2
    assert "--allow-code" in capsys.readouterr().err
    assert not out.exists()
    assert main(["label", str(raw), *scorers, "--allow-code", "--out", str(out)]) == 0
    assert OutcomeTable.read(out).frame["score"].tolist() == [1, 0, 0, 1, 1, 0]
    assert "one: mean score 0.667" in capsys.readouterr().out


def test_the_command_wants_one_scorer_for_all_other_data_sets(tmp_path, capsys):
    raw = outcomes().write(tmp_path / "raw.parquet")
    assert main(["label", str(raw), "--scorer", "sums=number", "--out", str(tmp_path / "out.parquet")]) == 2
    assert "--scorer: give one without a data set, not 0" in capsys.readouterr().err
