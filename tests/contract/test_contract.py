"""Every exchange under tests/contract/, sent over a socket byte for byte, is read by every class as what it means."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from langchain_core import exceptions as langchain
from pydantic import ValidationError

from tests.contract.exchange import CHATS, GENERATIONS, Answer, Exchange, Failure, Kind
from tests.contract.replay import ROUTED, SINGLE, ClassName, Heard, hear, model_of
from tests.support.scripted_tgi import Raw, ScriptedTGI
from torouter import errors
from torouter.chat import ChatRequest
from torouter.endpoints import TGIClient, close_sessions
from torouter.errors import ExpertError, TORouterError
from torouter.experts import Expert
from torouter.outcomes.nll import reference_nll

FILES = sorted(Path(__file__).parent.glob("*/*.json"))
EXCHANGES = {file.stem: Exchange.read(file) for file in FILES}
SECOND = "The second expert answers."
BYTES = 7
"""Size of the pieces in which every stream is sent once more."""

LANGCHAIN: dict[type[TORouterError], type[Exception]] = {
    errors.ExpertConnectionError: langchain.ModelConnectionError,
    errors.ExpertTimeoutError: langchain.ModelTimeoutError,
    errors.ExpertOverloadedError: langchain.ModelRateLimitError,
    errors.ExpertGenerationError: langchain.ModelAPIError,
    errors.ExpertServerError: langchain.ModelAPIError,
    errors.ExpertProtocolError: langchain.ModelAPIError,
    errors.TruncatedReplyError: langchain.ModelAPIError,
    errors.ExpertAuthenticationError: langchain.ModelAuthenticationError,
    errors.ExpertPermissionError: langchain.ModelPermissionDeniedError,
    errors.ExpertNotFoundError: langchain.ModelNotFoundError,
    errors.ContextLengthError: langchain.ContextOverflowError,
    errors.ExpertRequestError: langchain.ModelInvalidRequestError,
}
"""What LangChain calls each error."""


def each(*kinds: Kind) -> pytest.MarkDecorator:
    """Parametrises over the exchanges of these kinds."""
    cases = [
        pytest.param(
            exchange,
            kind,
            id=f"{name}-{kind}" if len(exchange.request.kinds) > 1 else name,
            marks=[pytest.mark.xfail(reason=exchange.xfail, strict=True)] if exchange.xfail else [],
        )
        for name, exchange in EXCHANGES.items()
        for kind in exchange.request.kinds
        if kind in kinds
    ]
    return pytest.mark.parametrize(("exchange", "kind"), cases)


@dataclass
class Servers:
    """Two servers: the first replies as an exchange says, the second is well."""

    first: ScriptedTGI
    second: ScriptedTGI
    call_ids: set[str] = field(default_factory=set)
    """Ids of all tool calls that any class has given out."""

    def reply(self, exchange: Exchange, kind: Kind, *, split: int | None = None) -> None:
        """Let the first server reply to every request of this kind as the exchange says."""
        reply = exchange.reply.scripted(split)
        if kind == "handshake" and isinstance(reply, Raw):
            self.first.on_get("/info", reply)
        else:
            self.first.always(reply)

    def client(self) -> TGIClient:
        return TGIClient(Expert(name="first", url=self.first.url))


@pytest.fixture(scope="module")
def both_servers() -> Iterator[Servers]:
    with ScriptedTGI() as first, ScriptedTGI() as second:
        second.answer = lambda _: SECOND
        yield Servers(first, second)


@pytest.fixture
def servers(both_servers: Servers) -> Iterator[Servers]:
    yield both_servers
    both_servers.first.always(None)
    for server in (both_servers.first, both_servers.second):
        server.requests.clear()


# The files


def test_every_kind_of_request_is_answered_and_refused() -> None:
    asked = {
        (kind, meaning)
        for exchange in EXCHANGES.values()
        for kind in exchange.request.kinds
        for meaning in exchange.expected.model_fields_set
    }
    assert asked >= {(kind, meaning) for kind in CHATS for meaning in ("answer", "error")}
    assert asked >= {(kind, meaning) for kind in GENERATIONS for meaning in ("generation", "error")}
    assert {"info", "models", "health", "handshake", "nll"} <= {kind for kind, _ in asked}


def test_every_error_that_a_server_can_cause_is_reached() -> None:
    def leaves(kind: type[Exception]) -> set[type[Exception]]:
        below = kind.__subclasses__()
        ours = [leaf for leaf in below if leaf.__module__ == errors.__name__]
        return set().union(*map(leaves, ours)) if ours else {kind}

    reached = {exchange.expected.error.kind for exchange in EXCHANGES.values() if exchange.expected.error}
    # The first is raised itself, although a class is below it.
    assert reached == leaves(ExpertError) | {errors.ExpertNotFoundError, errors.NLLUnavailableError}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"traps": "a key that nobody knows"}, "traps"),
        ({"trap": ""}, "trap"),
        ({"expected": {}}, "exactly one of"),
        ({"expected": {"healthy": True}}, "healthy is for health"),
        ({"request": {"kinds": ["chat"]}}, "goes with stream requests"),
        ({"expected": {"error": {"name": "NoSuchError", "status": 1, "failover": True, "cools_down": True}}}, "NoSuch"),
        ({"reply": {"status": "200"}}, "status"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_a_file_that_is_not_as_the_schema_wants_it_is_refused(change: dict[str, Any], words: str) -> None:
    (file,) = [file for file in FILES if file.stem == "stream_plain"]
    with pytest.raises(ValidationError, match=words):
        Exchange.model_validate_json(json.dumps({**json.loads(file.read_text("utf-8")), **change}))


# The client


def run(coroutine: Any) -> Any:
    async def closed() -> Any:
        try:
            return await coroutine
        finally:
            await close_sessions()

    return asyncio.run(closed())


async def heard_by_client(client: TGIClient, exchange: Exchange, kind: Kind) -> Heard:
    asked = exchange.request
    message = {"role": "user", "content": asked.text}
    request = ChatRequest((message,), asked.parameters, tuple(asked.tool_objects), asked.tool_choice)
    heard = Heard()
    try:
        if kind == "chat":
            reply = await client.chat(request)
            usage, heard.logprobs = reply.usage, len(reply.logprobs or ())
            heard.pieces, heard.finish_reason, heard.model = [reply.text], reply.finish_reason, reply.model
            written = [(call.id, call.name, call.arguments) for call in reply.tool_calls]
        else:
            chunks = []
            async for chunk in client.chat_stream(request):
                chunks.append(chunk)
                heard.pieces.append(chunk.text)
            usage, heard.logprobs = chunks[-1].usage, sum(len(chunk.logprobs or ()) for chunk in chunks)
            heard.finish_reason, heard.model = chunks[-1].finish_reason, chunks[-1].model
            assert not any(chunk.usage or chunk.finish_reason for chunk in chunks[:-1])
            deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
            written = [
                (first.id or "", first.name, "".join(d.arguments for d in deltas if d.index == first.index))
                for first in deltas
                if first.name
            ]
        heard.text = "".join(heard.pieces)
        heard.usage = (usage.input_tokens, usage.output_tokens) if usage else None
        heard.calls = [(name or "", json.loads(arguments)) for _, name, arguments in written]
        heard.call_ids = [call_id for call_id, _, _ in written]
    except ExpertError as error:
        heard.error = error
    return heard


def check_answer(servers: Servers, heard: Heard, expected: Answer) -> None:
    assert heard.error is None, repr(heard.error)
    assert "".join(heard.pieces) == heard.text == expected.text
    assert heard.calls == [(call.name, call.arguments) for call in expected.tool_calls]
    assert (heard.finish_reason, heard.usage, heard.model) == (expected.finish_reason, expected.usage, expected.model)
    assert heard.logprobs == expected.logprobs
    assert all(heard.call_ids)
    assert servers.call_ids.isdisjoint(heard.call_ids)  # although TGI gives every call the same
    servers.call_ids.update(heard.call_ids)


def check_error(heard: Heard, expected: Failure) -> None:
    """The error of one expert, as it is: what came before it is what it says came, and no more."""
    error = heard.error
    assert kind_of(error) is expected.kind
    assert isinstance(error, ExpertError)
    assert (error.status, error.error_type) == (expected.status, expected.error_type)
    assert "".join(heard.pieces) == error.partial_text == expected.partial_text


def kind_of(error: BaseException | None) -> type[BaseException]:
    """The class of the error in torouter's own tree; LangChain's leaves are below it."""
    return next(kind for kind in type(error).__mro__ if kind.__module__ in (errors.__name__, "builtins"))


@each("chat", "chat_stream")
@pytest.mark.parametrize("split", [None, BYTES], ids=["as written", "in small pieces"])
def test_the_client_reads_a_chat(servers: Servers, exchange: Exchange, kind: Kind, split: int | None) -> None:
    servers.reply(exchange, kind, split=split)
    heard = run(heard_by_client(servers.client(), exchange, kind))
    if exchange.expected.answer:
        check_answer(servers, heard, exchange.expected.answer)
    else:
        assert exchange.expected.error
        check_error(heard, exchange.expected.error)


@each("generate", "generate_stream", "nll")
def test_the_client_reads_a_generation(servers: Servers, exchange: Exchange, kind: Kind) -> None:
    servers.reply(exchange, kind)
    client, asked, steps = servers.client(), exchange.request, []

    async def generated() -> None:
        if kind == "generate":
            steps.append(await client.generate(asked.text, parameters=asked.parameters))
        elif kind == "generate_stream":
            async for step in client.generate_stream(asked.text, parameters=asked.parameters):
                steps.append(step)  # noqa: PERF401
        else:
            await reference_nll(client, ChatRequest(({"role": "user", "content": asked.text},)), "A reference.")

    if expected := exchange.expected.generation:
        run(generated())
        last = steps[-1]
        assert "".join(step.text for step in steps) == expected.text
        assert (last.finish_reason, last.generated_tokens) == (expected.finish_reason, expected.generated_tokens)
        assert not any(step.finish_reason for step in steps[:-1])
        assert tuple(token["text"] for step in steps for token in step.tokens) == expected.tokens
        assert tuple(token["text"] for token in last.prefill) == expected.prefill
        return
    failure = exchange.expected.error
    assert failure
    with pytest.raises(failure.kind) as caught:
        run(generated())
    assert type(caught.value) is failure.kind
    if isinstance(caught.value, ExpertError):
        check_error(Heard(pieces=[step.text for step in steps], error=caught.value), failure)


@each("info", "models", "health")
def test_the_client_reads_what_a_server_tells_of_itself(servers: Servers, exchange: Exchange, kind: Kind) -> None:
    reply = exchange.reply.scripted()
    assert isinstance(reply, Raw)
    servers.first.on_get("/info", reply if kind == "info" else Raw(404))
    servers.first.on_get("/v1/models" if kind == "models" else "/health", reply)
    client = servers.client()
    if kind == "health":
        assert run(client.health()) is exchange.expected.healthy
        return
    expected = exchange.expected.info
    assert expected
    told = run(client.info())
    assert {name: getattr(told, name) for name in expected.model_dump()} == expected.model_dump()


# The four classes


@each("chat", "chat_stream")
@pytest.mark.parametrize("name", SINGLE)
def test_a_model_of_one_endpoint_reads_a_chat(
    servers: Servers, name: ClassName, exchange: Exchange, kind: Kind
) -> None:
    servers.reply(exchange, kind)
    model = model_of(name, first=servers.first.url, second=servers.second.url)
    heard = hear(name, model, exchange.request, kind)
    if exchange.expected.answer:
        check_answer(servers, heard, exchange.expected.answer)
    else:
        assert exchange.expected.error
        check_error(heard, exchange.expected.error)
        check_leaf(name, heard)
    assert [bool(request.body.get("stream")) for request in servers.first.requests] == [kind == "chat_stream"]
    assert not servers.second.requests


@each("chat", "chat_stream", "handshake")
@pytest.mark.parametrize("name", ROUTED)
def test_a_routed_model_reads_a_chat_or_asks_the_next_expert(
    servers: Servers, name: ClassName, exchange: Exchange, kind: Kind
) -> None:
    servers.reply(exchange, kind)
    model = model_of(name, first=servers.first.url, second=servers.second.url, serves=exchange.request.model)
    heard = hear(name, model, exchange.request, kind)
    answer, failure = exchange.expected.answer, exchange.expected.error
    served_by, failed = "first", []
    if answer:
        check_answer(servers, heard, answer)
    elif failure and failure.failover:
        assert heard.error is None, repr(heard.error)
        assert "".join(heard.pieces) == heard.text == SECOND
        served_by, failed = "second", [("first", failure.name)]
    else:
        assert failure
        check_error(heard, failure)
        check_leaf(name, heard)
    if heard.error is None:
        assert heard.routing
        assert heard.routing["expert"] == served_by
        assert [(one["expert"], one["error"]) for one in heard.routing["failed_attempts"]] == failed
    assert len(servers.first.requests) == (kind != "handshake")
    assert len(servers.second.requests) == (served_by == "second")
    (first, second) = model.health()
    assert (first.state != "ready") == bool(failure and failure.cools_down)
    assert second.state == "ready"


def check_leaf(name: ClassName, heard: Heard) -> None:
    """LangChain's classes raise errors that are LangChain's too, LlamaIndex has none of its own."""
    kind: Any = kind_of(heard.error)
    if name in ("ChatTGI", "RoutedChatModel"):
        assert isinstance(heard.error, LANGCHAIN[kind])
    else:
        assert type(heard.error) is kind
