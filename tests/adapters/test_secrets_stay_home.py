"""A token goes to its own expert's host and nowhere else: not into anything shown, logged, traced or written."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import pprint
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumps
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler
from pydantic import SecretStr

from langchain_torouter import ChatTGI
from llamaindex_torouter import TGILLM
from tests.support.adapter_calls import Framework, aask, ask, model_of
from tests.support.llamaindex_world import listening
from tests.support.scripted_tgi import Fault, ScriptedTGI
from tests.support.word_router import WordRouter
from torouter.dispatch import DispatchEvent
from torouter.errors import CheckpointError, CollectStoppedError
from torouter.experts import Expert, ExpertPool
from torouter.outcomes.collector import Pace, collect
from torouter.outcomes.queries import Query
from torouter.routers.config import ExpertFacts, RouterConfig

CANARY = "canary-token-5e1d"
HEADER = f"Bearer {CANARY}"


@pytest.fixture
def locked() -> Iterator[ScriptedTGI]:
    """A server that wants the token."""
    with ScriptedTGI(api_key=CANARY) as server:
        yield server


def by_yaml(url: str, folder: Path) -> Any:
    file = folder / "experts.yaml"
    file.write_text(json.dumps({"experts": [{"name": "code", "url": url, "api_key": CANARY}]}))
    return str(file)


def own_model(framework: Framework, url: str) -> Any:
    return (ChatTGI if framework == "langchain" else TGILLM)(base_url=url, api_key=SecretStr(CANARY), max_retries=0)


FORMS: dict[str, Callable[[Framework, str, Path], Any]] = {
    "an expert with a string": lambda _, url, __: [Expert(name="code", url=url, api_key=CANARY)],
    "an expert with pydantic's secret": lambda _, url, __: {
        "code": Expert(name="code", url=url, api_key=SecretStr(CANARY))
    },
    "fields": lambda _, url, __: {"code": {"url": url, "api_key": CANARY}},
    "the environment": lambda _, url, __: {"code": {"url": url, "api_key_env": "SOME_TOKEN"}},
    "a file": lambda _, url, folder: by_yaml(url, folder),
    "a pool": lambda _, url, __: ExpertPool({"code": Expert(name="code", url=url, api_key=CANARY)}),
    "a framework's own model": lambda framework, url, _: {"code": own_model(framework, url)},
}


@pytest.mark.parametrize("framework", ["langchain", "llamaindex"])
@pytest.mark.parametrize("form", FORMS)
async def test_however_a_token_is_given_it_is_sent_and_not_shown(
    locked: ScriptedTGI,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    framework: Framework,
    form: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("SOME_TOKEN", CANARY)
    events: list[DispatchEvent] = []
    options: dict[str, Any] = {"cache": InMemoryCache()} if framework == "langchain" else {}
    model = model_of(
        framework,
        router=WordRouter.named({"code": 0.5}),
        experts=FORMS[form](framework, locked.url, tmp_path),
        **options,
    )
    model._routed.dispatcher._hooks = (events.append,)
    runs = RunCollectorCallbackHandler()

    with listening() as reported:
        answers = [ask(model, "first", streamed=streamed, callbacks=[runs]) for streamed in (False, True)]
        answers += [await aask(model, "second", streamed=streamed, callbacks=[runs]) for streamed in (False, True)]
        locked.script(Fault.bytes(401, {}, HEADER.encode()))
        refused = await aask(model, "third", streamed=False, callbacks=[runs])

    assert [answer.error for answer in answers] == [None] * 4
    assert refused.error is not None
    assert {request.headers["Authorization"] for request in locked.requests if request.method == "POST"} == {HEADER}
    shown = [repr(model), str(model), pprint.pformat(model), dumps(model), repr(model._routed.dispatcher.snapshot())]
    shown += [repr(model._routed.experts), repr(list(model._routed.experts.values())), repr(model._routed._endpoints)]
    shown += [repr(copy.copy(model)), repr(answers), caplog.text]
    shown += [repr(event) for event in events] + [repr(event.model_dump()) for event in reported]
    shown += [run.model_dump_json() for run in runs.traced_runs]
    shown += traceback.TracebackException.from_exception(refused.error, capture_locals=True).format()
    if framework == "langchain":
        shown += [repr(model._identifying_params), repr(options["cache"]._cache), repr(model.model_dump())]
    else:
        shown += [repr(model.to_dict()), model.to_json(), repr(model.model_dump()), repr(model.to_payload())]
    for text in shown:
        assert CANARY not in text
    if form != "a framework's own model":  # whose SecretStr is pydantic's to keep
        assert CANARY.encode() not in _pickled(model)


def _pickled(value: object) -> bytes:
    try:
        return pickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever keeps a value from being pickled keeps its token too
        return b""


async def test_the_tokens_of_the_environment_and_of_netrc_are_no_experts(
    tgi: ScriptedTGI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """huggingface_hub's own client would send a saved Hub token to any base_url."""
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {CANARY}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, CANARY)
    model = model_of("langchain", router=WordRouter.named({"code": 0.5}), experts={"code": tgi.url})
    assert (await aask(model, "hello", streamed=True)).error is None
    for request in tgi.requests:
        assert "authorization" not in request.headers
        assert CANARY not in f"{request.path} {request.headers} {request.body}"


def test_a_trained_checkpoint_holds_no_path_of_the_machine_that_trained_it(bert_directory: Path) -> None:
    for file in bert_directory.iterdir():
        data = file.read_bytes()
        for path in (Path(__file__).parents[2], Path(sys.prefix), bert_directory):
            assert str(path).encode() not in data, f"{file.name} holds {path}"


def test_a_checkpoint_remembers_neither_token_nor_address_of_an_expert(tmp_path: Path) -> None:
    expert = Expert(name="code", url="http://private.example:8080", api_key=CANARY, input_price=1.0)
    config = RouterConfig(kind="best-single", experts=(ExpertFacts.of(expert),), settings={"means": [0.5]})
    WordRouter(config).save_pretrained(tmp_path / "router")
    written = "".join(file.read_text() for file in (tmp_path / "router").iterdir())
    assert '"input_price": 1.0' in written
    assert CANARY not in written
    assert "private.example" not in written


async def test_outcomes_and_their_journal_hold_no_token(locked: ScriptedTGI, tmp_path: Path) -> None:
    experts = ExpertPool([Expert(name="code", url=locked.url, api_key=CANARY)])
    queries = [Query(f"q{number}", "facts", f"Question {number}?", "answer", "contains") for number in range(4)]
    pace = Pace(first=0.0, concurrency=1)
    locked.script(Fault.bytes(400, {}, HEADER.encode()), Fault.bytes(401, {}, HEADER.encode()))
    with pytest.raises(CollectStoppedError) as caught:
        await collect(experts, queries, tmp_path / "out.parquet", pace=pace)
    assert CANARY not in f"{caught.value!r} {caught.value.__cause__!r}"
    written = _contents(tmp_path)
    await collect(experts, queries, tmp_path / "out.parquet", pace=pace)
    written += _contents(tmp_path)
    assert len(written) >= 2
    assert not any(CANARY.encode() in content for content in written)


def _contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.iterdir()]


def test_the_hubs_token_is_not_shown_when_the_hub_refuses(tmp_path: Path) -> None:
    from torouter import AutoRouter

    with pytest.raises(CheckpointError) as caught:
        AutoRouter.from_pretrained("nobody/no-such-router", token=CANARY, local_files_only=True, cache_dir=tmp_path)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
