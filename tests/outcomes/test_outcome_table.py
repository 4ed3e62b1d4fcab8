"""Outcome tables: what is read, what is refused and how the message helps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.support import tiny
from torouter.errors import OutcomeTableError
from torouter.experts import Expert, ExpertPool
from torouter.outcomes.table import COLUMNS, OutcomeTable

SHARED = Path(__file__).parents[3] / "shared" / "routing"


@pytest.fixture
def frame() -> pd.DataFrame:
    return tiny.frame(12)


def with_value(frame: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    changed = frame.astype({column: object})
    changed.loc[row, column] = value
    return changed


def test_parquet_csv_and_jsonl_hold_the_same_table(frame, tmp_path):
    frame["query"] = frame["query"].str.replace("now", 'a "quoted",\nüñï NA')
    frame["reference"] = ["NA", None, "null"] * 12
    table = OutcomeTable(frame)
    table.write(tmp_path / "t.parquet")
    table.frame.to_csv(tmp_path / "t.csv", index=False)
    table.frame.to_json(tmp_path / "t.jsonl", orient="records", lines=True, force_ascii=False)

    for name in ("t.parquet", "t.csv", "t.jsonl"):
        again = OutcomeTable.read(tmp_path / name)
        assert tuple(again.frame.columns) == COLUMNS
        pd.testing.assert_frame_equal(again.frame, table.frame)
        assert again.data_hash == table.data_hash


def test_the_matrix_has_a_row_per_query_and_a_column_per_expert_whatever_the_order_of_the_rows(frame):
    shuffled = OutcomeTable(frame.sample(frac=1, random_state=1))

    matrix = shuffled.matrix()

    assert matrix.experts == tiny.EXPERTS
    assert matrix.scores.shape == (12, 3)
    assert matrix.scores.dtype == np.float32
    row = frame[frame["query"] == matrix.queries[4]].set_index("expert")["score"]
    assert matrix.scores[4].tolist() == pytest.approx([row[name] for name in matrix.experts])
    assert shuffled.data_hash == OutcomeTable(frame).data_hash


def test_the_hash_tells_one_score_apart(frame):
    assert OutcomeTable(frame).data_hash != OutcomeTable(with_value(frame, 3, "score", 0.123)).data_hash


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("score", float("nan"), ["row 7", "score", "missing", "torouter label"]),
        ("score", 1.5, ["row 7", "score", "'1.5'", "0..1"]),
        ("score", -0.01, ["row 7", "score", "0..1"]),
        ("score", "good", ["row 7", "score", "'good'", "number"]),
        ("score", float("inf"), ["row 7", "score", "number"]),
        ("cost_usd", -1.0, ["row 7", "cost_usd", "negative"]),
        ("output_tokens", 1.5, ["row 7", "output_tokens", "whole number"]),
        ("query", " ", ["row 7", "query", "empty"]),
        ("query", None, ["row 7", "query", "missing"]),
        ("query", "another text", ["query", "differs", "one text per id"]),
        ("expert", "facts ", ["query", "no row of facts"]),
        ("query_id", "x", ["no row of", "collect it"]),
    ],
)
def test_a_wrong_value_is_refused_with_row_column_and_fix(frame, column, value, words):
    with pytest.raises(OutcomeTableError) as caught:
        OutcomeTable(with_value(frame, 7, column, value))

    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_text_of_a_query_is_never_part_of_a_message(frame):
    with pytest.raises(OutcomeTableError) as caught:
        OutcomeTable(with_value(frame, 7, "query", "a secret of mine"))

    assert "secret" not in str(caught.value)


def test_a_pair_that_stands_twice_is_refused(frame):
    with pytest.raises(OutcomeTableError, match=r"row 36 .*expert.*is a duplicate"):
        OutcomeTable(pd.concat([frame, frame.iloc[[5]]]))


def test_a_missing_expert_is_named_with_its_query(frame):
    with pytest.raises(OutcomeTableError, match=r"query 'facts/0001' has no row of facts"):
        OutcomeTable(frame.drop(index=4))


def test_a_table_of_one_expert_is_refused_unless_it_is_not_labelled_yet(frame):
    one = frame[frame["expert"] == "code"]

    with pytest.raises(OutcomeTableError, match=r"only 'code'.*at least two"):
        OutcomeTable(one)
    assert len(OutcomeTable(one.drop(columns="score"), labelled=False)) == 12


def test_an_empty_table_and_a_missing_column_are_refused(frame):
    with pytest.raises(OutcomeTableError, match="no row"):
        OutcomeTable(frame.iloc[:0])
    with pytest.raises(OutcomeTableError, match="column expert is missing"):
        OutcomeTable(frame.drop(columns="expert"))


def test_an_expert_that_the_pool_lacks_is_refused(frame):
    pool = ExpertPool([Expert(name="code"), Expert(name="math")])

    with pytest.raises(OutcomeTableError, match=r"'facts' .*none of the known experts code, math"):
        OutcomeTable(frame).facts(pool)


def test_facts_join_the_pools_prices_with_the_tables_means(frame):
    pool = ExpertPool([Expert(name=name, input_price=1.5, context_window=4096) for name in tiny.EXPERTS])

    code, *_ = OutcomeTable(frame).facts(pool)

    assert (code.name, code.input_price, code.context_window) == ("code", 1.5, 4096)
    assert (code.output_tokens, code.cost_usd, code.seconds) == (20.0, 0.001, None)


@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.jsonl"])
def test_a_file_that_is_damaged_is_refused_by_name(frame, tmp_path, name):
    file = tmp_path / name
    OutcomeTable(frame).write(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if name == "t.parquet" else b'query_id\n"\xff\xfe\n')

    with pytest.raises(OutcomeTableError, match=f"{name}: (can't be read|not UTF-8)"):
        OutcomeTable.read(file)


def test_a_bad_line_of_jsonl_is_named(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"query_id": "a"}) + "\n{oops\n")

    with pytest.raises(OutcomeTableError, match="line 2 is not JSON"):
        OutcomeTable.read(tmp_path / "t.jsonl")


@pytest.mark.parametrize("name", ["none.parquet", "t.xlsx"])
def test_no_file_and_an_unknown_ending_are_refused(tmp_path, name):
    (tmp_path / "t.xlsx").touch()

    with pytest.raises(OutcomeTableError, match=r"no such file|ending '.xlsx'"):
        OutcomeTable.read(tmp_path / name)


def test_a_write_that_fails_leaves_the_old_file(frame, tmp_path, monkeypatch):
    file = OutcomeTable(frame).write(tmp_path / "t.parquet")
    before = file.read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fails)
    with pytest.raises(OSError, match="disk full"):
        OutcomeTable(tiny.frame(6)).write(file)

    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_tables_of_the_same_experts_are_put_together(frame):
    other = tiny.frame(6).assign(query_id=lambda f: "other/" + f["query_id"])

    both = OutcomeTable.concat([OutcomeTable(frame), OutcomeTable(other)])

    assert len(both) == 18
    with pytest.raises(OutcomeTableError, match="differ in their experts \\(math\\)"):
        OutcomeTable.concat([OutcomeTable(frame), OutcomeTable(other).subset(experts=["code", "facts"])])
    with pytest.raises(OutcomeTableError, match="is a duplicate"):
        OutcomeTable.concat([OutcomeTable(frame), OutcomeTable(frame)])


def test_a_subset_keeps_what_it_names_and_refuses_what_there_is_not(frame):
    table = OutcomeTable(frame)

    part = table.subset(experts=["math", "code"], datasets=["math"])

    assert (part.experts, set(part.datasets), len(part)) == (("code", "math"), {"math"}, 4)
    with pytest.raises(OutcomeTableError, match="no 'poetry'"):
        table.subset(datasets=["poetry"])


def test_the_standard_split_is_the_first_fifth_of_the_seeds_permutation():
    table = tiny.table(23)

    train, test = table.split("standard:3")

    order = np.random.RandomState(3).permutation(23)
    assert set(test.query_ids) == {sorted(table.query_ids)[i] for i in order[:4]}
    assert set(train.query_ids) | set(test.query_ids) == set(table.query_ids)
    assert len(train) == 19


def test_a_part_of_a_split_is_the_table_of_its_rows():
    frame = tiny.frame(60)
    frame.attrs["answers_of"] = "somebody"
    for part in OutcomeTable(frame).split("standard:1"):
        again = OutcomeTable(frame[frame["query_id"].isin(part.query_ids)])
        assert len(part) == len(again) == len(set(part.query_ids))
        assert part.frame.equals(again.frame)
        assert part.frame.attrs == frame.attrs
        assert (part.data_hash, part.experts) == (again.data_hash, again.experts)


@pytest.mark.parametrize("spec", ["standard", "standard:", "standard:-1", "random:0", "standard:x"])
def test_an_unknown_split_is_refused(spec):
    with pytest.raises(OutcomeTableError, match="standard:SEED"):
        tiny.table(12).split(spec)


def test_an_empty_split_is_refused():
    with pytest.raises(OutcomeTableError, match="test part would be empty"):
        tiny.table(4).split("standard:0")


def test_a_table_that_was_read_gives_the_figures_of_its_rows(tmp_path):
    rows = tiny.frame(60).sample(frac=1, random_state=2)
    rows["score"] = np.random.default_rng(3).random(len(rows)).round(2)
    table = OutcomeTable.read(OutcomeTable(rows).write(tmp_path / "t.parquet"))
    train, test = table.split("standard:0")

    scores = table.matrix().scores
    assert (len(table), table.experts) == (60, tiny.EXPERTS)
    assert scores.mean() == pytest.approx(rows["score"].mean())
    assert scores.max(axis=1).mean() == pytest.approx(rows.groupby("query_id")["score"].max().mean())
    learnt = rows[~rows["query_id"].isin(test.query_ids)]
    best = learnt.groupby("expert")["score"].mean().idxmax()
    assert train.experts[train.matrix().scores.mean(axis=0).argmax()] == best
    judged = rows[rows["query_id"].isin(test.query_ids) & (rows["expert"] == best)]["score"]
    assert test.matrix().scores[:, test.experts.index(best)].mean() == pytest.approx(judged.mean())


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared outcome tables are not here")
def test_the_given_tables_pass_and_give_their_published_figures():
    table = OutcomeTable.read(SHARED / "llmrouter9.parquet")
    train, test = table.split("standard:0")

    scores = table.matrix().scores
    assert (len(table), len(table.experts)) == (5541, 9)
    assert scores.mean() == pytest.approx(0.4535, abs=5e-5)
    assert scores.max(axis=1).mean() == pytest.approx(0.8216, abs=5e-5)
    best = train.matrix().scores.mean(axis=0).argmax()
    assert test.matrix().scores[:, best].mean() == pytest.approx(0.661, abs=5e-4)
