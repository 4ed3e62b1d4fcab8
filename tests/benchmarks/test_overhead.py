"""The benchmark of a call's overhead: its server speaks TGI, and our contenders run end to end."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.harness.contenders import child_process, read_json_line
from benchmarks.overhead import call_times as overhead
from benchmarks.overhead.call_load import check, query
from benchmarks.overhead.instant_server import TEXT, TOKENS, USAGE
from torouter.chat import ChatRequest
from torouter.endpoints import TGIClient
from torouter.experts import Expert

ASKED = ChatRequest(messages=({"role": "user", "content": "hi"},))


@pytest.fixture(scope="module")
def client() -> Iterator[TGIClient]:
    """Asks the benchmark's server, which runs in a process of its own."""
    with (
        tempfile.TemporaryFile("w+") as log,
        child_process(sys.executable, "-m", "benchmarks.overhead.instant_server", log=log, limit=60) as server,
    ):
        yield TGIClient(Expert(name="loopback", url=read_json_line(server, log)["url"]))


async def test_the_server_answers_as_tgi_does(client: TGIClient) -> None:
    reply = await client.chat(ASKED)
    assert reply.text == TEXT
    assert reply.finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.output_tokens == USAGE["completion_tokens"]


async def test_the_server_streams_fifty_tokens_one_by_one(client: TGIClient) -> None:
    chunks = [chunk async for chunk in client.chat_stream(ASKED)]
    assert tuple(chunk.text for chunk in chunks if chunk.text) == TOKENS
    assert len(TOKENS) == 50
    assert [chunk.usage.output_tokens for chunk in chunks if chunk.usage] == [USAGE["completion_tokens"]]


async def test_the_server_tells_of_itself(client: TGIClient) -> None:
    info = await client.info()
    assert info.model_id == "loopback"
    assert info.max_concurrent_requests is not None
    assert info.max_concurrent_requests >= max(overhead.CALLERS)


def test_a_wrong_answer_is_not_measured() -> None:
    check([TEXT])
    check(list(TOKENS), 50)
    for pieces, at_least in (([TEXT[:-1]], 1), ([], 1), ([TEXT], 50)):
        with pytest.raises(ValueError, match="are not the answer"):
            check(pieces, at_least)


def test_no_query_comes_twice() -> None:
    assert len({query(number) for number in range(2000)}) == 2000


def test_our_contenders_are_measured_in_every_case(tmp_path: Path) -> None:
    only = ["RoutedChatModel", "ChatTGI", "RoutedLLM", "bare aiohttp"]
    options = ["--routers", "words", "--repeats", "1", "--seconds", "0", "--out", str(tmp_path)]
    overhead.main(["--only", *only, *options, "--cases", "1 caller", "32"])
    result = json.loads((tmp_path / "overhead.json").read_text(encoding="utf-8"))
    names = {"RoutedChatModel words", "ChatTGI", "RoutedLLM words", "bare aiohttp"}
    for kind in ("whole", "stream"):
        for callers in ("1 caller", "32 callers"):
            for figure in ("seconds", "cpu"):
                by = result[figure][f"{kind}, {callers}"]
                assert set(by) == names
                assert all(value > 0 for values in by.values() for value in values)
    assert set(result["seconds"]["whole, 1 caller, synchronous"]) == {"RoutedChatModel words", "ChatTGI"}
    assert "whole, 256 callers" not in result["seconds"]
    assert result["versions"]["bare aiohttp"].keys() == {"aiohttp"}
    assert "| not measured |" in (tmp_path / "overhead.md").read_text(encoding="utf-8")


def test_the_targets_are_judged_by_ratios_of_the_same_repeat() -> None:
    slow, fast = [2.0, 20.0, 4.0], [1.0, 9.0, 2.4]
    seconds = {"whole, 1 caller": {overhead.BASE: slow, overhead.FAST: fast, overhead.BERT: [4.0, 33.0, 8.0]}}
    lines = overhead.targets(seconds, seconds).splitlines()
    assert lines[2].split(" | ")[3:5] == ["0.50", "met"]
    assert lines[3].split(" | ")[3:5] == ["2.00", "missed"]


def test_a_profile_shows_where_the_time_goes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyinstrument")
    out = ["--out", str(tmp_path)]
    overhead.main(["--routers", "words", "--profile", "bare aiohttp", "--seconds", "0.05", *out])
    assert "Aiohttp.whole" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
