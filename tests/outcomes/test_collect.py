"""`torouter collect`: every expert is asked every query, and no finished cell is lost or asked twice."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.support.scripted_tgi import Fault, ScriptedTGI, Text
from torouter import Expert, ExpertPool
from torouter.cli import main
from torouter.errors import CollectStoppedError, ConfigurationError, MissingExtraError, OutcomeTableError
from torouter.outcomes.cell_journal import CellJournal
from torouter.outcomes.collector import Pace, collect
from torouter.outcomes.queries import Query, read_queries
from torouter.outcomes.table import OutcomeTable

QUERIES = [Query(f"q{i}", "facts", f"Question {i}?", f"answer {i}", "contains") for i in range(6)]


def pool(tgi: ScriptedTGI, *names: str, **fields) -> ExpertPool:
    return ExpertPool([Expert(name=name, url=tgi.url, **fields) for name in names or ("one", "two")])


def asked(tgi: ScriptedTGI) -> Counter[str]:
    """How often each text was asked."""
    chats = [request for request in tgi.requests if request.path == "/v1/chat/completions"]
    return Counter(request.body["messages"][-1]["content"] for request in chats)


def pace(**changes) -> Pace:
    """One without waiting."""
    return Pace(**{"first": 0.0} | changes)


async def test_every_expert_is_asked_every_query(tgi, tmp_path):
    tgi.answer = lambda body: f"I say {body['messages'][-1]['content']}"
    ticks = iter(range(1000))
    priced = pool(tgi, input_price=1e6, output_price=2e6)
    out = tmp_path / "out.parquet"
    await collect(priced, QUERIES, out, pace=pace(concurrency=1, clock=lambda: next(ticks)))
    table = OutcomeTable.read(out, labelled=False)
    assert (len(table), table.experts) == (6, ("one", "two"))
    assert asked(tgi) == dict.fromkeys((query.query for query in QUERIES), 2)
    row = table.frame.iloc[0]
    assert (row["query_id"], row["expert"], row["response"]) == ("q0", "one", "I say Question 0?")
    assert (row["reference"], row["scorer"]) == ("answer 0", "contains")
    assert (row["input_tokens"], row["output_tokens"]) == (2, 5)  # the end-of-text token counts
    assert row["cost_usd"] == 2 * 1 + 5 * 2
    assert row["seconds"] > 0
    assert table.frame["error"].isna().all()
    assert not [file for file in tmp_path.iterdir() if file != out]


async def test_the_experts_own_prefix_and_parameters_are_used(tgi, tmp_path):
    prefix = ({"role": "system", "content": "Be short."},)
    await collect(pool(tgi, "one", prefix=prefix, parameters={"max_tokens": 7}), QUERIES[:1], tmp_path / "out.parquet")
    (request,) = tgi.requests
    assert request.body["messages"] == [*prefix, {"role": "user", "content": "Question 0?"}]
    assert request.body["max_tokens"] == 7


@pytest.mark.parametrize(("fields", "most"), [({}, 3), ({"max_concurrency": 2}, 2)])
async def test_an_expert_is_asked_no_more_at_once_than_it_may(tgi, tmp_path, fields, most):
    busy = []

    def answer(body):
        busy.append(tgi.in_flight)
        return "yes"

    tgi.answer = answer
    tgi.script(*[Fault.slow_start()] * most)
    run = collect(pool(tgi, "one", **fields), QUERIES, tmp_path / "out.parquet", pace=pace(concurrency=3))
    task = asyncio.create_task(run)
    await tgi.until(lambda: tgi.held == most)
    tgi.release(most)
    await task
    assert max(busy) == most


def command(tmp_path: Path, tgi: ScriptedTGI, *more: str) -> list[str]:
    experts, queries = tmp_path / "experts.yaml", tmp_path / "queries.jsonl"
    experts.write_text(f"experts:\n  - {{name: one, url: '{tgi.url}'}}\n  - {{name: two, url: '{tgi.url}'}}\n")
    rows = [{"query_id": q.query_id, "query": q.query, "reference": q.reference} for q in QUERIES]
    queries.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out.parquet"
    return ["collect", "--experts", str(experts), "--queries", str(queries), "--out", str(out), *more]


def test_a_killed_run_goes_on_and_asks_no_finished_cell_again(tgi, tmp_path, capsys):
    tgi.script(*[Text("yes")] * 5)
    tgi.always(Fault.slow_start())
    arguments = command(tmp_path, tgi, "--concurrency", "2")
    start = [sys.executable, "-c", "import sys; from torouter.cli import main; sys.exit(main())"]
    process = subprocess.Popen([*start, *arguments], stderr=subprocess.DEVNULL)
    # A worker notes its cell before it asks the next, so that 4 waiting workers mean 5 noted cells.
    tgi.wait_until(lambda: tgi.held == 4, seconds=60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    tgi.wait_until(lambda: tgi.in_flight == 0)
    journal = (tmp_path / "out.parquet.journal.jsonl").read_text().splitlines()
    finished = [(row["query"], row["expert"]) for row in map(json.loads, journal[1:])]
    assert len(finished) == 5
    before = len(tgi.requests)
    assert before == 9

    tgi.always(None)
    assert main(arguments) == 0
    assert len(tgi.requests) - before == 12 - 5
    again = Counter(r.body["messages"][-1]["content"] for r in tgi.requests[before:])
    assert again == Counter(dict.fromkeys((q.query for q in QUERIES), 2)) - Counter(query for query, _ in finished)
    table = OutcomeTable.read(tmp_path / "out.parquet", labelled=False)
    assert (len(table), int((table.frame["response"] == "yes").sum())) == (6, 5)
    assert "6 queries, 2 experts" in capsys.readouterr().out


async def test_a_line_that_was_cut_in_the_middle_is_asked_again(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    journal = tmp_path / "out.parquet.journal.jsonl"
    tgi.script(Text("first"), Fault.empty_401())
    with pytest.raises(CollectStoppedError):
        await collect(pool(tgi, "one"), QUERIES[:2], out, pace=pace(concurrency=1))
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[1][:-20])
    table = await collect(pool(tgi, "one"), QUERIES[:2], out)
    assert asked(tgi) == {"Question 0?": 1, "Question 1?": 2}
    assert table.frame["response"].iloc[0] == "first"


async def test_a_damaged_line_is_refused(tgi, tmp_path):
    journal = tmp_path / "out.parquet.journal.jsonl"
    journal.write_text('{"experts": {}}\nnonsense\n')
    with pytest.raises(ConfigurationError, match="line 2 is damaged: delete that line"):
        await collect(pool(tgi), QUERIES, tmp_path / "out.parquet")
    assert journal.exists()
    assert not tgi.requests


async def test_failed_cells_are_asked_again_by_the_next_run(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    tgi.script(Fault.validation("`inputs` must have less than 4095 tokens. Given: 5000"))
    table = await collect(pool(tgi, "one"), QUERIES, out, pace=pace(concurrency=1))
    row = table.frame.iloc[0]
    assert row["error"].startswith("ContextLengthError: ")
    assert row[["response", "output_tokens", "seconds"]].isna().all()
    table = await collect(pool(tgi, "one"), QUERIES, out)
    assert table.frame["error"].isna().all()
    assert asked(tgi) == {query.query: 1 + (query == QUERIES[0]) for query in QUERIES}


async def test_new_experts_and_queries_are_asked_alone(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    await collect(pool(tgi, "one"), QUERIES[:4], out)
    await collect(pool(tgi, "one", "two"), QUERIES[2:], out)
    # Two more queries for the first expert, all six for the second.
    assert asked(tgi) == {query.query: 2 for query in QUERIES}
    assert len(OutcomeTable.read(out, labelled=False)) == 6
    await collect(pool(tgi, "one", "two"), QUERIES, out)
    assert asked(tgi).total() == 12


async def test_scores_are_kept_until_the_reference_changes(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    table = await collect(pool(tgi), QUERIES[:2], out)
    OutcomeTable(table.frame.assign(score=0.5)).write(out)
    mended = Query("q1", "facts", "Question 1?", "another answer", "contains")
    table = await collect(pool(tgi), [QUERIES[0], mended], out)
    assert table.frame["score"].fillna(-1).tolist() == [0.5, 0.5, -1, -1]
    assert table.frame["reference"].tolist()[2:] == ["another answer"] * 2


@pytest.mark.parametrize("change", [{"parameters": {"temperature": 1}}, {"adapter": "lora"}, {"model": "other"}])
@pytest.mark.parametrize("labelled", [False, True])
async def test_answers_of_a_changed_expert_are_not_mixed_in(tgi, tmp_path, change, labelled):
    out = tmp_path / "out.parquet"
    table = await collect(pool(tgi), QUERIES[:2], out)
    if labelled:
        OutcomeTable(table.frame.assign(score=0.5)).write(out)
    before = out.read_bytes()
    with pytest.raises(ConfigurationError, match="expert 'one' is not what it was"):
        await collect(pool(tgi, **change), QUERIES, out)
    assert out.read_bytes() == before
    assert asked(tgi).total() == 4
    assert list(tmp_path.iterdir()) == [out]


async def test_a_changed_expert_is_refused_in_mid_run_too(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    tgi.script(Text("yes"), Fault.empty_401())
    with pytest.raises(CollectStoppedError):
        await collect(pool(tgi, "one"), QUERIES, out, pace=pace(concurrency=1))
    with pytest.raises(ConfigurationError, match="expert 'one' is not what it was"):
        await collect(pool(tgi, "one", parameters={"temperature": 1}), QUERIES, out)


async def test_an_expert_that_has_only_failed_may_be_mended(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    tgi.always(Fault.plain_422())
    await collect(pool(tgi, "one", parameters={"seed": 1}), QUERIES, out)
    tgi.always(None)
    table = await collect(pool(tgi, "one", parameters={"seed": 2}), QUERIES, out)
    assert table.frame["error"].isna().all()


async def test_an_expert_that_is_left_out_or_a_query_with_a_new_text_is_refused(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    await collect(pool(tgi), QUERIES, out)
    with pytest.raises(ConfigurationError, match="answers of 'two', which is not among the experts"):
        await collect(pool(tgi, "one"), QUERIES, out)
    with pytest.raises(ConfigurationError, match="query 'q0' has another text"):
        await collect(pool(tgi), [Query("q0", "facts", "Something else?")], out)


async def test_a_second_run_at_the_same_time_is_refused(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    refused = pytest.raises(ConfigurationError, match="another `torouter collect` is writing it")
    with CellJournal(tmp_path / "out.parquet.journal.jsonl"), refused:
        await collect(pool(tgi), QUERIES, out)
    await collect(pool(tgi), QUERIES, out)
    assert asked(tgi).total() == 12


async def test_a_half_written_table_is_refused_and_left_alone(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    await collect(pool(tgi), QUERIES, out)
    out.write_bytes(out.read_bytes()[:-100])
    half = out.read_bytes()
    with pytest.raises(OutcomeTableError, match="damaged or half written"):
        await collect(pool(tgi), QUERIES, out)
    assert out.read_bytes() == half


async def test_failures_that_pass_are_waited_out_with_jitter(tgi, tmp_path):
    waits = []

    async def sleep(seconds):
        waits.append(seconds)

    tgi.script(Fault.overloaded(), Fault.html_502(), Fault.reset(), Text("yes"))
    patient = Pace(concurrency=1, first=2.0, longest=5.0, sleep=sleep, draw=lambda: 0.5)
    table = await collect(pool(tgi, "one"), QUERIES[:1], tmp_path / "out.parquet", pace=patient)
    assert table.frame["response"].tolist() == ["yes"]
    assert waits == [1.0, 2.0, 2.5]


async def test_a_refused_token_stops_the_run_at_once(tgi, tmp_path):
    out = tmp_path / "out.parquet"
    tgi.script(Text("yes"), Fault.empty_401())
    with pytest.raises(CollectStoppedError, match="says 401: the token is missing or wrong"):
        await collect(pool(tgi, "one"), QUERIES, out, pace=pace(concurrency=1))
    assert len(tgi.requests) == 2
    assert not out.exists()
    await collect(pool(tgi, "one"), QUERIES, out)
    assert asked(tgi)["Question 0?"] == 1


async def test_an_expert_that_fails_again_and_again_stops_the_run(tgi, tmp_path):
    tgi.always(Fault.status(503))
    impatient = pace(concurrency=1, retries=1, failures=3)
    with pytest.raises(CollectStoppedError, match=r"after 3 failed queries in a row.*503"):
        await collect(pool(tgi, "one"), QUERIES, tmp_path / "out.parquet", pace=impatient)
    assert len(tgi.requests) == 3 * 2


async def test_failures_that_are_not_in_a_row_do_not_stop_the_run(tgi, tmp_path):
    tgi.script(*[Fault.status(503), Text("yes")] * 3)
    impatient = pace(concurrency=1, retries=0, failures=2)
    table = await collect(pool(tgi, "one"), QUERIES, tmp_path / "out.parquet", pace=impatient)
    assert table.frame["error"].notna().sum() == 3


async def test_the_reference_likelihood_comes_from_prefill_logprobs(tmp_path):
    # The scripted server gives a token minus a tenth of its letters, the blank before it included.
    with ScriptedTGI(prefill_logprobs=True) as tgi:
        queries = [Query("q", "facts", "Who?", "Ada Lovelace"), Query("r", "facts", "What?")]
        table = await collect(pool(tgi, "one"), queries, tmp_path / "out.parquet", nll=True)
    assert table.frame["nll"].fillna(-1).tolist() == pytest.approx([(0.3 + 0.9) / 2, -1])


@pytest.mark.parametrize(("api", "hint"), [("tgi", "--enable-prefill-logprobs"), ("openai", "no /chat_tokenize")])
async def test_a_server_without_prefill_logprobs_is_named_once_and_leaves_nll_empty(tmp_path, caplog, api, hint):
    with ScriptedTGI(api=api) as tgi:
        table = await collect(
            pool(tgi, "one", api=api, model="test/expert"), QUERIES, tmp_path / "out.parquet", nll=True
        )
    assert table.frame["nll"].isna().all()
    assert table.frame["error"].isna().all()
    assert [hint in record.message for record in caplog.records] == [True]


# --- queries


def test_queries_are_read_from_every_form_of_file(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"query": ["One?", "NA"], "reference": ["1", None]})
    frame.to_csv(tmp_path / "facts.csv", index=False)
    frame.to_parquet(tmp_path / "facts.parquet")
    frame.to_json(tmp_path / "facts.jsonl", orient="records", lines=True)
    forms = [read_queries(tmp_path / f"facts.{form}") for form in ("csv", "parquet", "jsonl")]
    assert forms[0] == forms[1] == forms[2]
    assert [(q.dataset, q.query, q.reference, q.scorer) for q in forms[0]] == [
        ("facts", "One?", "1", None),
        ("facts", "NA", None, None),
    ]


def test_an_id_that_is_not_given_does_not_depend_on_the_other_rows(tmp_path):
    (tmp_path / "facts.jsonl").write_text('{"query": "One?"}\n{"query": "Two?"}\n')
    one, two = read_queries(tmp_path / "facts.jsonl")
    (tmp_path / "facts.jsonl").write_text('{"query": "Two?"}\n{"query": "One?"}\n')
    assert read_queries(tmp_path / "facts.jsonl") == (two, one)


def test_columns_may_have_other_names(tmp_path):
    file = tmp_path / "facts.jsonl"
    file.write_text('{"question": "One?", "answer": 1, "query": "not this"}\n{"question": "Two?"}\n')
    one, two = read_queries(file, columns={"query": "question", "reference": "answer"})
    assert (one.query, one.reference) == ("One?", "1")
    assert (two.query, two.reference) == ("Two?", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b'{"query": "One?"}\n{"query": "One?"}\n', "rows 0 and 1 .* have the same query_id"),
        (b'{"query": "One?"}\n{"query": " "}\n', "row 1 .*column query: it is empty"),
        (b'{"text": "One?"}\n', "no column 'query', only text"),
        (b'{"query": "caf\xe9"}\n', "not UTF-8 at byte 14"),
        (b'{"query": "\\ud83d"}\n', "half a character"),
        (b'{"query": ["One?"]}\n', "row 0 .*column query: it is a list"),
        (b'{"query": "One?"\n', "line 1 is not JSON"),
    ],
)
def test_wrong_queries_are_named(tmp_path, content, message):
    file = tmp_path / "facts.jsonl"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=rf"facts\.jsonl: .*{message}"):
        read_queries(file)


def test_a_hub_id_without_datasets_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"owner/name: .*pip install datasets"):
        read_queries("owner/name")
