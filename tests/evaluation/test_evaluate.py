"""Evaluation from an outcome table to the report, with real routers on small tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from torouter.cli import main
from torouter.errors import ConfigurationError, OutcomeTableError
from torouter.evaluation.evaluator import HINDSIGHT, Evaluation, evaluate, leave_one_dataset_out
from torouter.evaluation.metric_specs import MeanStd
from torouter.evaluation.outcome_arrays import OutcomeArrays, expected_costs
from torouter.evaluation.replay import Contender, Replay
from torouter.evaluation.report import markdown, page, write_report
from torouter.evaluation.summary import lines
from torouter.outcomes.table import OutcomeTable
from torouter.routers.baselines import BestSingleRouter, OracleRouter, RandomRouter
from torouter.routers.router import Router
from torouter.training.arguments import TrainingArguments
from torouter.training.data import training_data

EXPERTS = ("cheap", "dear", "middle")
PRICES = {"cheap": 0.1, "dear": 10.0, "middle": 1.0}  # USD per 1,000 input tokens
RIGHT = {"code": {"cheap": 0.2, "dear": 0.9, "middle": 0.5}, "facts": {"cheap": 0.6, "dear": 0.7, "middle": 0.8}}


def table(queries: int = 200, *, seed: int = 0, **columns: Any) -> OutcomeTable:
    """Two data sets whose best experts differ; costs follow the query's length."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(queries):
        dataset, tokens = ("code", "facts")[number % 2], int(random.integers(10, 100))
        for expert in EXPERTS:
            right = random.random() < RIGHT[dataset][expert]
            cost = tokens * PRICES[expert] / 1000
            row = {"query_id": f"q{number:04}", "dataset": dataset, "query": f"{dataset} {number}", "expert": expert}
            rows.append({**row, "score": float(right), "input_tokens": tokens, "cost_usd": cost, **columns})
    return OutcomeTable(pd.DataFrame(rows))


def changed(outcomes: OutcomeTable, column: str, value: Any, **where: str) -> OutcomeTable:
    frame = outcomes.frame.copy()
    mask = np.logical_and.reduce([frame[name] == wanted for name, wanted in where.items()])
    frame.loc[mask, column] = value
    return OutcomeTable(frame)


def contender(replay: Replay, name: str) -> Contender:
    return next(c for c in replay.contenders if c.name == name)


def learnt_from(router: BestSingleRouter, train: OutcomeTable, **training: int) -> BestSingleRouter:
    return BestSingleRouter(replace(router.config, data_hash=train.data_hash, training=training))


def test_a_router_that_knows_the_outcomes_closes_the_whole_gap() -> None:
    outcomes = table()
    found = evaluate(outcomes, [("all-knowing", OracleRouter.fit(outcomes.matrix()))], splits=["standard:0"])
    (replay,) = found.replays
    figures = contender(replay, "all-knowing").metrics
    assert figures["gap_closed"] == 1
    assert figures["quality"] == contender(replay, "oracle").metrics["quality"]
    assert figures["ece"] == pytest.approx(0, abs=1e-6)
    assert figures["apgr"] > 0.5
    assert figures["aiq"] > contender(replay, "zero router").metrics["aiq"]
    assert figures["saved"] > contender(replay, "zero router").metrics["saved"] > 0
    assert figures["qnc"] < 1
    assert (replay.train_queries, replay.test_queries, replay.priced_queries) == (160, 40, 40)


def test_a_router_that_always_takes_the_best_single_expert_gains_nothing() -> None:
    outcomes = table()
    train, test = outcomes.split("standard:0")
    (replay,) = evaluate(outcomes, [("same", BestSingleRouter.fit(train.matrix()))], splits=["standard:0"]).replays
    figures, best = contender(replay, "same").metrics, contender(replay, "best single").metrics
    assert figures["quality"] == best["quality"] == pytest.approx(test.matrix().column(replay.single).mean())
    assert figures["cost"] == best["cost"]
    assert figures["gain"] == figures["gap_closed"] == 0


def test_costs_are_judged_only_where_all_priced_experts_have_one() -> None:
    outcomes = changed(table(), "cost_usd", None, expert="dear")
    outcomes = changed(outcomes, "cost_usd", None, query_id="q0000")
    router = BestSingleRouter.of({"cheap": 0.1, "dear": 0.9, "middle": 0.5})
    (replay,) = evaluate(outcomes, [("router", router)]).replays
    assert replay.priced_experts == ("cheap", "middle")
    assert (replay.test_queries, replay.priced_queries) == (200, 199)
    figures = contender(replay, "router").metrics
    assert figures["quality"] == pytest.approx(outcomes.matrix().column("dear").mean())
    # Among the priced experts the router takes the one that it thinks is best.
    assert figures["priced_quality"] == pytest.approx(outcomes.matrix().column("middle")[1:].mean())
    assert "cost" not in contender(replay, "dear").metrics


def test_a_table_without_costs_has_no_cost_part() -> None:
    found = evaluate(table(cost_usd=None), [("random", RandomRouter.of(EXPERTS))], splits=["standard:0"])
    (replay,) = found.replays
    assert (replay.priced_queries, replay.pair) == (0, None)
    assert "zero router" not in [c.name for c in replay.contenders]
    assert "## Cost" not in markdown(found)


def test_expected_costs_follow_the_price_per_token_that_the_train_part_shows() -> None:
    train, test = (OutcomeArrays.of(part) for part in table().split("standard:0"))
    assert expected_costs(train, test) == pytest.approx(test.costs, rel=1e-4)
    unknown = replace(test, input_tokens=np.full(len(test), np.nan))
    assert expected_costs(train, unknown)[0] == pytest.approx(train.costs.mean(axis=0), rel=1e-4)


def test_the_weight_of_cost_is_picked_on_the_queries_that_training_kept_back() -> None:
    outcomes = table(400)
    _, held = training_data(outcomes.split("standard:0")[0], TrainingArguments(seed=3, validation=0.2))
    # Only there the cheap expert is as good as the dear one, which is always right.
    frame = outcomes.frame.copy()
    frame.loc[frame["expert"] == "dear", "score"] = 1.0
    frame.loc[frame["expert"] == "cheap", "score"] = frame["query"].isin(held.queries).astype(float)
    outcomes = OutcomeTable(frame)
    train, _ = outcomes.split("standard:0")
    router = learnt_from(BestSingleRouter.of({"cheap": 0.1, "dear": 0.9, "middle": 0.0}), train)
    seeded = replace(router.config, training={"seed": 3, "validation_queries": len(held.queries)})
    found = evaluate(outcomes, [("router", BestSingleRouter(seeded)), ("forgetful", router)], splits=["standard:0"])
    (replay,) = found.replays
    assert contender(replay, "router").metrics["saved"] == pytest.approx(0.99)
    assert contender(replay, "router").metrics["kept"] == 0
    assert contender(replay, "forgetful").metrics["saved"] == 0


def test_the_weight_of_cost_is_picked_on_the_whole_train_part_by_routers_that_did_not_learn_it() -> None:
    outcomes = table()
    train, _ = outcomes.split("standard:0")
    router, folds = BestSingleRouter.of({"cheap": 0.5, "dear": 0.6, "middle": 0.4}), []

    def fit(part: OutcomeTable) -> Router:
        folds.append(set(part.query_ids))
        return OracleRouter.fit(outcomes.matrix())

    (replay,) = evaluate(outcomes, [("same", router)], splits=["standard:0"], refits={"same": fit}).replays

    left_out = [set(train.query_ids) - fold for fold in folds]
    assert sorted(query for part in left_out for query in part) == list(train.query_ids)
    assert {len(part) for part in left_out} == {32}
    (known,) = evaluate(outcomes, [("same", OracleRouter.fit(outcomes.matrix()))], splits=["standard:0"]).replays
    weight = contender(replay, "same").metrics["price_weight"]
    assert weight == contender(known, "same").metrics["price_weight"]
    (alone,) = evaluate(outcomes, [("same", router)], splits=["standard:0"]).replays
    assert weight != contender(alone, "same").metrics["price_weight"]


def test_routers_of_several_splits_meet_their_own_and_are_one_line() -> None:
    outcomes = table()
    splits = ["standard:0", "standard:1"]
    trained = [
        learnt_from(BestSingleRouter.fit(train.matrix()), train, seed=0, validation_queries=16)
        for train, _ in map(outcomes.split, splits)
    ]
    found = evaluate(
        outcomes, [("mean", trained[1]), ("mean", trained[0]), ("random", RandomRouter.of(EXPERTS))], splits=splits
    )
    assert [replay.split for replay in found.replays] == splits
    mean, random = lines(found)[:2]
    assert (mean.name, mean.figures["quality"].replicas) == ("mean", 2)
    assert (random.name, random.figures["quality"].replicas) == ("random", 2)
    qualities = [contender(replay, "mean").metrics["quality"] for replay in found.replays]
    assert mean.figures["quality"].mean == pytest.approx(np.mean(qualities))
    assert mean.figures["quality"].sd == pytest.approx(np.std(qualities, ddof=1))


def test_a_router_of_none_of_several_splits_is_an_error() -> None:
    outcomes = table()
    train, _ = outcomes.split("standard:7")
    router = learnt_from(BestSingleRouter.fit(train.matrix()), train)
    with pytest.raises(ConfigurationError, match="none of standard:0, standard:1"):
        evaluate(outcomes, [("stray", router)], splits=["standard:0", "standard:1"])


def test_what_a_reader_must_know_of_the_training_data_is_noted() -> None:
    outcomes = table()
    elsewhere = learnt_from(BestSingleRouter.fit(table(seed=1).matrix()), table(seed=1))
    assert "other data" in evaluate(outcomes, [("r", elsewhere)], splits=["standard:0"]).notes[0]
    here = learnt_from(BestSingleRouter.fit(outcomes.matrix()), outcomes)
    notes = evaluate(outcomes, [("r", here)]).notes
    assert notes[0] == HINDSIGHT
    assert "in-sample" in notes[1]
    train, _ = outcomes.split("standard:0")
    forgetful = learnt_from(BestSingleRouter.fit(train.matrix()), train)
    assert "no record" in evaluate(outcomes, [("r", forgetful)], splits=["standard:0"]).notes[0]


def test_a_router_that_lacks_an_expert_of_the_table_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="'small' does not know middle"):
        evaluate(table(), [("small", RandomRouter.of(["dear", "cheap"]))])


def test_experts_are_matched_by_name_and_more_of_them_do_no_harm() -> None:
    router = BestSingleRouter.of({"unknown": 1.0, "middle": 0.1, "dear": 0.9, "cheap": 0.5})
    (replay,) = evaluate(table(), [("router", router)]).replays
    quality = contender(replay, "dear").metrics["quality"]
    assert contender(replay, "router").metrics["quality"] == quality


def test_no_router_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="at least one"):
        evaluate(table(), [])


def test_a_pair_without_costs_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="'nobody' has no known cost"):
        evaluate(table(), [("random", RandomRouter.of(EXPERTS))], pair=("cheap", "nobody"))


def test_the_pair_can_be_chosen() -> None:
    (replay,) = evaluate(table(), [("random", RandomRouter.of(EXPERTS))], pair=("middle", "dear")).replays
    assert replay.pair == ("middle", "dear")


def test_recorded_seconds_tokens_and_likelihoods_are_reported() -> None:
    outcomes = table(seconds=2.0, output_tokens=50, nll=1.5)
    outcomes = changed(outcomes, "seconds", 5.0, expert="dear")
    (replay,) = evaluate(outcomes, [("dear", BestSingleRouter.of({"cheap": 0, "dear": 1, "middle": 0}))]).replays
    figures = contender(replay, "dear").metrics
    assert (figures["seconds"], figures["tokens_per_second"], figures["nll"]) == (5.0, 10.0, 1.5)
    random = contender(replay, "random").metrics
    assert (random["seconds"], random["tokens_per_second"], random["nll"]) == (3.0, 50 / 3, 1.5)


def test_shares_are_told_by_data_set_even_where_a_test_part_lacks_one() -> None:
    splits = ["standard:0", "standard:1"]
    tested = [set(table().split(split)[1].query_ids) for split in splits]
    outcomes = changed(table(), "dataset", "rare", query_id=min(tested[0] - tested[1]))
    found = evaluate(outcomes, [("oracle", OracleRouter.fit(outcomes.matrix()))], splits=splits)
    assert ["rare" in replay.datasets for replay in found.replays] == [True, False]
    shares = lines(found)[0].shares
    assert list(shares) == ["code", "facts", "rare"]
    assert all(row.sum() == pytest.approx(1) for row in shares.values())


def test_each_data_set_is_judged_by_a_router_that_never_saw_it() -> None:
    seen: list[set[str]] = []

    def fit(others: OutcomeTable) -> Router:
        seen.append(set(others.datasets))
        return BestSingleRouter.fit(others.matrix())

    outcomes = table()
    code, facts = leave_one_dataset_out(outcomes, "mean", fit)
    assert seen == [{"facts"}, {"code"}]
    assert (code.dataset, code.queries, facts.dataset, facts.queries) == ("code", 100, "facts", 100)
    # "middle" is best on facts: on code it stands for what was learnt and for the best single expert alike.
    middle = outcomes.subset(datasets=["code"]).matrix().column("middle").mean()
    assert code.quality == code.single == pytest.approx(middle)


def test_leaving_one_of_one_data_sets_out_is_an_error() -> None:
    with pytest.raises(OutcomeTableError, match="only 'code'"):
        leave_one_dataset_out(table().subset(datasets=["code"]), "mean", lambda t: BestSingleRouter.fit(t.matrix()))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5], "0.500"),
        ([0.4, 0.6], "0.500 ± 0.141"),
        ([0.4, 0.6, float("nan")], "0.500 ± 0.141 (2 of 3)"),
        ([float("nan")], "-"),
    ],
)
def test_a_figure_tells_its_spread_and_where_it_is_not_defined(values: list[float], text: str) -> None:
    assert MeanStd.of(values).text("{:.3f}") == text


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    outcomes = changed(table(seconds=1.0), "expert", "<b>&'x'|y", expert="middle")
    left_out = leave_one_dataset_out(outcomes, "mean", lambda others: BestSingleRouter.fit(others.matrix()))
    routers: list[tuple[str, Router]] = [
        ("oracle", OracleRouter.fit(outcomes.matrix())),
        ("<i>random</i>", RandomRouter.of(outcomes.experts)),
    ]
    return evaluate(outcomes, routers, splits=["standard:0", "standard:1"], left_out=left_out)


@pytest.fixture(scope="module")
def text(evaluation: Evaluation) -> str:
    return page(evaluation)


def test_the_page_asks_for_nothing_outside_itself(text: str) -> None:
    assert set(re.findall(r"https?://[^\"' <)]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not re.search(r"<(script|link|img|iframe)\b|@import|\bsrc=", text)
    assert text.count("<svg") == 3


def test_names_from_the_table_are_text_on_the_page(text: str) -> None:
    assert "<b>" not in text
    assert "<i>" not in text
    assert "&lt;b&gt;&amp;" in text


def test_ids_on_the_page_are_unique_and_references_meet_them(text: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', text)) <= set(ids)


def test_plots_take_the_colours_of_the_page(text: str) -> None:
    assert "var(--series-1)" in text
    assert "#0101" not in text
    assert "#0102" not in text


def test_markdown_tables_keep_their_columns(evaluation: Evaluation) -> None:
    table_lines = [line for line in markdown(evaluation).splitlines() if line.startswith("|")]
    assert any("\\|y" in line for line in table_lines)
    rows = [len(re.findall(r"(?<!\\)\|", line)) for line in table_lines if "quality" in line or "oracle" in line]
    assert min(rows) >= 3


def test_the_report_is_three_files_and_json_holds_every_number(evaluation: Evaluation, tmp_path: Path) -> None:
    out = write_report(evaluation, tmp_path / "new" / "report")
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md"]

    def refused(constant: str) -> None:
        raise AssertionError(constant)

    document = json.loads((out / "report.json").read_text(encoding="utf-8"), parse_constant=refused)
    assert document["data_hash"] == evaluation.data_hash
    assert [split["test_queries"] for split in document["splits"]] == [40, 40]
    oracle = document["summary"][0]
    assert oracle["figures"]["gap_closed"] == {"mean": 1.0, "sd": 0.0, "defined": 2, "replicas": 2}
    assert len(oracle["curve"]["costs"]) == len(oracle["curve"]["weights"])
    assert [row["dataset"] for row in document["left_out"]] == ["code", "facts"]
    assert set(oracle["figures"]) <= set(document["meanings"])


def test_a_report_that_can_not_be_written_leaves_what_is_there(evaluation: Evaluation, tmp_path: Path) -> None:
    place = tmp_path / "report"
    place.write_text("mine")
    with pytest.raises(ConfigurationError, match="report="):
        write_report(evaluation, place)
    assert place.read_text() == "mine"


def test_the_command_writes_the_report_and_prints_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = table()
    outcomes.write(tmp_path / "table.parquet")
    for split in (0, 1):
        train, _ = outcomes.split(f"standard:{split}")
        router = learnt_from(BestSingleRouter.fit(train.matrix()), train, seed=0, validation_queries=16)
        router.save_pretrained(tmp_path / str(split))
    routers = [f"--router=mean={tmp_path / '0'}", f"--router=mean={tmp_path / '1'}"]
    splits = ["--split=standard:0", "--split=standard:1", "--no-progress"]
    paths = [str(tmp_path / "table.parquet"), "--report", str(tmp_path / "report")]
    code = main(["evaluate", *paths, *routers, *splits, "--card"])
    printed = capsys.readouterr()
    assert code == 0
    assert re.search(r"\| mean +\| 0\.\d{3} ± 0\.\d{3} \|", printed.out)
    assert (tmp_path / "report" / "report.html").is_file()
    card = (tmp_path / "0" / "README.md").read_text(encoding="utf-8")
    assert re.search(r"\| quality \| 0\.\d{3} ± 0\.\d{3} \|", card)
    assert "n = 40 + 40 (standard:0, standard:1)" in card


def test_the_command_tells_what_is_wrong_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report").write_text("")
    code = main(["evaluate", "missing.csv", "--router", "nowhere", "--report", str(tmp_path / "report")])
    assert code == 2
    assert capsys.readouterr().err.count("\n") == 1
