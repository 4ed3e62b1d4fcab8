"""Every exchange under ../shared/tgi, sent over a socket byte for byte, is read by the client as what it is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_tgi import Raw, ScriptedTGI
from torouter.chat import ChatRequest
from torouter.endpoints import TGIClient, close_sessions
from torouter.errors import (
    ExpertAuthenticationError,
    ExpertError,
    ExpertGenerationError,
    ExpertOverloadedError,
    ExpertRequestError,
)
from torouter.experts import Expert

SHARED = Path(__file__).parents[3] / "shared" / "tgi"

# What each exchange means, read off its index by hand. Texts are not repeated here: the wire form's is compared with
# the recorded form's, which is another file.


@dataclass(frozen=True, slots=True)
class Chat:
    """`usage` is of prompt and completion tokens, None where the server tells none."""

    finish: str
    usage: tuple[int, int] | None = None
    call: str | None = None


CHATS = {
    "chat_basic": Chat("length", (49, 30)),
    "chat_stream_usage_hub": Chat("stop", (39, 3)),
    "chat_stream_nousage_openai": Chat("stop"),
    "tools_nostream": Chat("tool_calls", (501, 29), call="get_current_weather"),
    "tools_choice_name_stream": Chat("tool_calls", call="get_current_weather"),
    "tools_auto_no_tool_nostream": Chat("stop", (53, 12)),
    "tools_none_stream": Chat("length"),
    "tool_reply": Chat("stop", (109, 83)),
    "response_format_json_object": Chat("stop", (136, 29)),
    "response_format_json_schema_stream": Chat("stop"),
    "chat_stream_keepalive_unicode": Chat("stop"),
    "chat_logprobs": Chat("stop", (39, 2)),
    "chat_stream_tool_with_usage": Chat("tool_calls", (300, 14), call="f"),
}
GENERATIONS = {
    "generate_lora_eos": ("stop", 7),
    "generate_details_length": ("length", 40),
    "generate_stop_sequence_full_text": ("stop", 5),
    "generate_grammar_regex": ("length", 10),
    "generate_prefill_logprobs": ("length", 10),
    "generate_stream_details": ("length", 2),
    "generate_best_of": ("length", 1),
}
ERRORS: dict[str, tuple[type[ExpertError], int | None]] = {
    "error_422_tool_error": (ExpertRequestError, 422),
    "chat_429_overloaded": (ExpertOverloadedError, 429),
    "chat_422_plain_text": (ExpertRequestError, 422),
    "chat_401_empty": (ExpertAuthenticationError, 401),
    "chat_stream_overloaded": (ExpertOverloadedError, None),
    "chat_stream_error_midway": (ExpertGenerationError, None),
}
GETS = {"health_503", "info_v3"}
# The client has no method for /v1/completions: experts are chat models.
COMPLETIONS = {"completion_single", "completion_many_prompts_stream"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and the bytes of its answer. `form` is the folder that the bytes come from."""

    name: str
    form: str
    path: str
    body: Mapping[str, Any] | None
    answer: Raw

    @property
    def stream(self) -> bool:
        return self.answer.headers.get("content-type") == "text/event-stream"

    @property
    def request(self) -> ChatRequest:
        assert self.body
        fields = dict(self.body)
        parts = {name: fields.pop(name, None) for name in ("messages", "tools", "tool_choice", "response_format")}
        for name in ("model", "stream", "stream_options"):
            fields.pop(name, None)
        return ChatRequest(
            messages=tuple(parts["messages"]),
            tools=tuple(parts["tools"] or ()),
            tool_choice=parts["tool_choice"],
            response_format=parts["response_format"],
            parameters=fields,
        )


def index(folder: str) -> list[dict[str, Any]]:
    path = SHARED / folder / "index.json"
    return json.loads(path.read_text("utf-8"))["exchanges"] if path.exists() else []


def exchanges() -> list[Exchange]:
    found = []
    for entry in index("recorded"):
        asked, status = entry["request"], entry["response"]["status"]
        recorded = json.loads((SHARED / "recorded" / entry["file"]).read_text("utf-8"))
        stream = isinstance(recorded, list)
        headers = {"content-type": "text/event-stream" if stream else "application/json"}
        as_json = [json.dumps(item, ensure_ascii=False) for item in (recorded if stream else [recorded])]
        framed = "".join(f"data: {item}\n\n" for item in (*as_json, "[DONE]")) if stream else as_json[0]
        wire = (SHARED / "wire" / f"{entry['id']}.{'sse' if stream else 'json'}").read_bytes()
        for form, body in (("recorded", framed.encode()), ("wire", wire)):
            answer = Raw(status, headers, body)
            found.append(Exchange(entry["id"], form, asked["endpoint"], asked["body"], answer))
    for entry in index("derived"):
        told = json.loads((SHARED / "derived" / entry["file"]).read_text("utf-8"))
        asked, answered = told["request"], told["response"]
        headers = {name: value for name, value in answered["headers"].items() if name != "content-length"}
        answer = Raw(answered["status"], headers, answered["body"].encode())
        found.append(Exchange(entry["id"], "derived", asked["path"], asked["body"], answer))
    return found


ALL = exchanges()
needs_shared = pytest.mark.skipif(not ALL, reason="the exchanges are not here: there is no ../shared/tgi")


def each(names: Mapping[str, Any] | set[str]) -> pytest.MarkDecorator:
    """Parametrises over the exchanges of these names in every form."""
    chosen = [exchange for exchange in ALL if exchange.name in names]
    return pytest.mark.parametrize("exchange", chosen, ids=lambda exchange: f"{exchange.form}-{exchange.name}")


def said(exchange: Exchange) -> str:
    """The text of an answer, by a reading of its own."""
    text = exchange.answer.body.decode()
    if not exchange.stream:
        (whole,) = json.loads(f"[{text.strip().removeprefix('[').removesuffix(']')}]")
        return str(whole.get("generated_text") or whole["choices"][0]["message"].get("content") or "")
    data = [block.removeprefix("data: ") for block in text.split("\n\n") if block.startswith("data: ")]
    events = [json.loads(item) for item in data if item != "[DONE]"]
    if "token" in events[0]:
        return "".join(event["token"]["text"] for event in events if not event["token"]["special"])
    choices = [choice for event in events for choice in event.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedTGI]:
    async with ScriptedTGI() as server:
        yield server
        await close_sessions()


@dataclass
class Read:
    """What the client makes of an answer, streamed or not."""

    text: str = ""
    finish: str | None = None
    usage: tuple[int, int] | None = None
    calls: tuple[tuple[str, str], ...] = ()
    logprobs: int = 0


async def read(server: ScriptedTGI, exchange: Exchange) -> Read:
    client = TGIClient(Expert(name="replayed", url=server.url))
    if not exchange.stream:
        reply = await client.chat(exchange.request)
        usage = (reply.usage.input_tokens, reply.usage.output_tokens) if reply.usage else None
        calls = tuple((call.name, call.arguments) for call in reply.tool_calls)
        return Read(reply.text, reply.finish_reason, usage, calls, len(reply.logprobs or ()))
    chunks = [chunk async for chunk in client.chat_stream(exchange.request)]
    usages = [(chunk.usage.input_tokens, chunk.usage.output_tokens) for chunk in chunks if chunk.usage]
    assert len(usages) <= 1
    (finish,) = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    names = [delta.name for delta in deltas if delta.name]
    calls = ((names[0], "".join(delta.arguments for delta in deltas)),) if names else ()
    assert len(names) <= 1
    return Read("".join(chunk.text for chunk in chunks), finish, usages[0] if usages else None, calls)


@needs_shared
def test_no_exchange_is_left_out() -> None:
    known = [*CHATS, *GENERATIONS, *ERRORS, *GETS, *COMPLETIONS]
    assert sorted(known) == sorted({exchange.name for exchange in ALL})
    assert {path.stem for path in (SHARED / "wire").iterdir()} == {e.name for e in ALL if e.form == "wire"}
    assert {e.name for e in ALL if e.path == "/v1/completions"} == COMPLETIONS


@needs_shared
@each(CHATS)
@pytest.mark.parametrize("split", [None, 61], ids=["whole", "in pieces"])
async def test_a_chat_is_read_as_it_was_meant(server: ScriptedTGI, exchange: Exchange, split: int | None) -> None:
    expected, body = CHATS[exchange.name], exchange.answer.body
    chunks = tuple(body[i : i + split] for i in range(0, len(body), split)) if split else ()
    server.script(Raw(exchange.answer.status, exchange.answer.headers, body, chunks))
    found = await read(server, exchange)
    twin = next(e for e in ALL if e.name == exchange.name and e.form in ("recorded", "derived"))
    assert (found.text, found.finish, found.usage) == (said(twin), expected.finish, expected.usage)
    assert [name for name, _ in found.calls] == ([expected.call] if expected.call else [])
    assert all(isinstance(json.loads(arguments), dict) for _, arguments in found.calls)
    assert found.logprobs == (2 if exchange.name == "chat_logprobs" else 0)


@needs_shared
def test_the_two_forms_of_a_recorded_exchange_say_the_same() -> None:
    for exchange in ALL:
        if exchange.form == "wire" and exchange.name in CHATS:
            twin = next(e for e in ALL if e.name == exchange.name and e.form == "recorded")
            assert said(exchange) == said(twin)


@needs_shared
@each(GENERATIONS)
async def test_a_generation_is_read_as_it_was_meant(server: ScriptedTGI, exchange: Exchange) -> None:
    assert exchange.body
    server.script(exchange.answer)
    client = TGIClient(Expert(name="replayed", url=server.url))
    prompt, parameters = exchange.body["inputs"], exchange.body["parameters"]
    if exchange.stream:
        steps = [step async for step in client.generate_stream(prompt, parameters=parameters)]
        text, last = "".join(step.text for step in steps), steps[-1]
    else:
        last = await client.generate(prompt, parameters=parameters)
        text = last.text
    expected = said(exchange)
    for stop in parameters.get("stop") or ():
        expected = expected.split(stop)[0]
    assert text == expected
    assert (last.finish_reason, last.generated_tokens) == GENERATIONS[exchange.name]


@needs_shared
@each(ERRORS)
async def test_an_error_is_typed(server: ScriptedTGI, exchange: Exchange) -> None:
    kind, status = ERRORS[exchange.name]
    server.script(exchange.answer)
    with pytest.raises(ExpertError) as caught:
        await read(server, exchange)
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert caught.value.partial_text == (said(exchange) if exchange.stream else "")


@needs_shared
@each(GETS)
async def test_what_the_server_tells_of_itself(server: ScriptedTGI, exchange: Exchange) -> None:
    server.on_get(exchange.path, exchange.answer)
    client = TGIClient(Expert(name="replayed", url=server.url))
    if exchange.path == "/health":
        assert await client.health() is False
        return
    info = await client.info()
    facts = json.loads(exchange.answer.body)
    assert (info.model_id, info.version) == (facts["model_id"], facts["version"])
    assert (info.max_input_tokens, info.max_total_tokens, info.max_concurrent_requests) == (4095, 4096, 128)


@needs_shared
@each(COMPLETIONS)
def test_completions_are_not_asked_for(exchange: Exchange) -> None:
    assert exchange.path == "/v1/completions"
    pytest.skip("the client has no method for /v1/completions: experts are chat models")
