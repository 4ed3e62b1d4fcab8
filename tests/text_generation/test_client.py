"""The text-generation package as a client: the same answers as TGIClient's, the same errors, the same limits."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.support.chat_requests import answer_text, whole_and_streamed
from tests.support.scripted_tgi import Fault, Raw, ScriptedTGI, Text
from torouter.chat import ChatRequest, Usage
from torouter.endpoints import TGIClient, Timeouts, client_for
from torouter.errors import (
    ContextLengthError,
    ExpertAuthenticationError,
    ExpertConnectionError,
    ExpertError,
    ExpertGenerationError,
    ExpertNotFoundError,
    ExpertOverloadedError,
    ExpertProtocolError,
    ExpertRequestError,
    ExpertServerError,
    ExpertTimeoutError,
    TruncatedReplyError,
)
from torouter.experts import Expert

pytest.importorskip("text_generation", reason="it has an environment of its own: make test-text-generation")

USER = {"role": "user", "content": "What is a router?"}
ASK = ChatRequest((USER,), {"max_tokens": 32})
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def client_of(server: ScriptedTGI, timeouts: Timeouts | None = None, **fields: Any) -> TGIClient:
    return client_for(Expert(name="old", url=server.url, client="text-generation", **fields), timeouts=timeouts)


def sent(server: ScriptedTGI) -> dict[str, Any]:
    """The body of the one request for a generation."""
    (body,) = [one.body for one in server.requests if one.path in ("/", "/generate_stream")]
    return body


@whole_and_streamed
async def test_a_chat_goes_through_the_servers_template_to_the_prompts_route(tgi: ScriptedTGI, stream: bool) -> None:
    tgi.script(Text(" It forwards packets."))
    assert await answer_text(client_of(tgi), ASK, stream=stream) == " It forwards packets."
    assert [one.path for one in tgi.requests] == ["/chat_tokenize", "/generate_stream" if stream else "/"]
    assert sent(tgi)["inputs"] == "<|begin|><|user|>What is a router?<|assistant|>"


async def test_the_last_chunk_and_no_other_has_finish_reason_and_usage(tgi: ScriptedTGI) -> None:
    tgi.script(Text("one two three"), Text("one two three"))
    *first, last = [chunk async for chunk in client_of(tgi).chat_stream(ASK)]
    assert [chunk.text for chunk in first] == ["one", " two", " three"]
    assert all(chunk.finish_reason is None and chunk.usage is None for chunk in first)
    reply = await client_of(tgi).chat(ASK)
    assert (last.finish_reason, last.usage) == (reply.finish_reason, reply.usage) == ("stop", Usage(7, 4))


@whole_and_streamed
async def test_parameters_mean_what_they_mean_in_a_chat(tgi: ScriptedTGI, stream: bool) -> None:
    parameters = {"temperature": 0, "max_tokens": 5, "top_p": 1.0, "seed": 7, "frequency_penalty": 0, "stop": ["."]}
    await answer_text(client_of(tgi), ChatRequest((USER,), parameters), stream=stream)
    parameters_sent = {name: value for name, value in sent(tgi)["parameters"].items() if value is not None}
    assert parameters_sent["max_new_tokens"] == 5
    assert parameters_sent["seed"] == 7
    assert parameters_sent["stop"] == ["."]
    assert parameters_sent["do_sample"] is False
    assert not parameters_sent.keys() & {"temperature", "top_p", "frequency_penalty"}


async def test_a_chat_without_a_temperature_samples_as_it_does_natively(tgi: ScriptedTGI) -> None:
    await client_of(tgi).chat(ASK)
    assert sent(tgi)["parameters"]["do_sample"] is True


async def test_prefix_and_default_parameters_of_the_expert_are_used(tgi: ScriptedTGI) -> None:
    client = client_of(tgi, prefix=[{"role": "system", "content": "Be brief."}], parameters={"max_tokens": 9})
    await client.chat(ChatRequest((USER,)))
    assert sent(tgi)["inputs"].startswith("<|begin|><|system|>Be brief.<|user|>")
    assert sent(tgi)["parameters"]["max_new_tokens"] == 9


@whole_and_streamed
async def test_the_answer_is_cut_at_a_stop_text(tgi: ScriptedTGI, stream: bool) -> None:
    tgi.script(Text("red. green."))
    assert await answer_text(client_of(tgi), ChatRequest((USER,), {"stop": "."}), stream=stream) == "red"


@whole_and_streamed
async def test_a_schema_becomes_a_grammar(tgi: ScriptedTGI, stream: bool) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA}}
    text = await answer_text(client_of(tgi), ChatRequest((USER,), response_format=form), stream=stream)
    assert json.loads(text).keys() == {"city"}
    assert sent(tgi)["parameters"]["grammar"] == {"type": "json", "value": SCHEMA}


@pytest.mark.parametrize(
    ("form", "grammar"),
    [
        ({"type": "regex", "value": "a+"}, {"type": "regex", "value": "a+"}),
        ({"type": "json_schema", "value": {"schema": SCHEMA}}, {"type": "json", "value": SCHEMA}),
    ],
)
async def test_tgis_own_forms_of_a_grammar_are_put_into_the_packages(
    tgi: ScriptedTGI, form: dict[str, Any], grammar: dict[str, Any]
) -> None:
    tgi.script(Text("aaa"))
    await client_of(tgi).chat(ChatRequest((USER,), response_format=form))
    assert sent(tgi)["parameters"]["grammar"] == grammar


@whole_and_streamed
async def test_tools_are_refused_with_the_reason_and_nothing_is_sent(tgi: ScriptedTGI, stream: bool) -> None:
    with pytest.raises(ExpertRequestError, match="tools: the text-generation package sends prompts only"):
        await answer_text(client_of(tgi), ChatRequest((USER,), tools=(TOOL,)), stream=stream)
    assert not tgi.requests


async def test_a_raw_prompt_is_continued(tgi: ScriptedTGI) -> None:
    tgi.script(Text(" there"), Text(" there"))
    client = client_of(tgi)
    answer = await client.generate("Hello", parameters={"decoder_input_details": True})
    assert (answer.text, answer.finish_reason, answer.generated_tokens) == (" there", "stop", 2)
    assert [step.text async for step in client.generate_stream("Hello")] == [" there", ""]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"repetition_penalty": -1.0}, "`repetition_penalty` must be strictly positive"),
        ({"max_new_tokens": "many"}, "wrong type: max_new_tokens"),
        ({"adapter_id": "lora"}, "adapter_id: the text-generation package can't send it"),
    ],
)
async def test_what_the_package_refuses_is_named(tgi: ScriptedTGI, parameters: dict[str, Any], reason: str) -> None:
    with pytest.raises(ExpertRequestError, match=reason):
        await client_of(tgi).generate("Hello", parameters=parameters)
    assert not tgi.requests


@whole_and_streamed
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.empty_401(), ExpertAuthenticationError),
        (Fault.status(404), ExpertNotFoundError),
        (Fault.status(424), ExpertGenerationError),
        (Fault.status(429), ExpertOverloadedError),
        (Fault.status(500), ExpertGenerationError),
        (Fault.status(503), ExpertServerError),
        (Fault.html_502(), ExpertServerError),
        (Fault.plain_422(), ExpertRequestError),
        (Fault.overloaded_in_stream(), ExpertOverloadedError),
        (Fault.incomplete_generation(), ExpertGenerationError),
        (Fault.validation("`inputs` must have less than 4095 tokens. Given: 5000"), ContextLengthError),
        (Fault.validation("`seed` must be positive"), ExpertRequestError),
        (Fault.not_json(), (ExpertProtocolError, TruncatedReplyError)),
        (Raw(200, {"content-type": "application/json"}, b"{}"), (ExpertProtocolError, TruncatedReplyError)),
        (Raw(403, {"content-type": "application/json"}, b'"no"'), ExpertProtocolError),
        (Fault.reset(), ExpertConnectionError),
        (Fault.error_midway(2), ExpertGenerationError),
    ],
    ids=lambda value: getattr(value, "__name__", "") or str(getattr(value, "status", "")) or None,
)
async def test_every_failure_is_a_typed_error(
    tgi: ScriptedTGI, fault: Any, kind: type[ExpertError], stream: bool
) -> None:
    tgi.always(fault)
    with pytest.raises(kind) as raised:
        await answer_text(client_of(tgi, api_key="canary-7"), ASK, stream=stream)
    assert raised.value.expert == "old"
    seen: BaseException | None = raised.value
    while seen is not None:  # aiohttp's errors hold the request's headers
        assert "canary-7" not in repr(vars(seen))
        seen = seen.__cause__ or seen.__context__


@pytest.mark.parametrize("fault", [Fault.cut(2), Fault.cut(2, clean=True)], ids=["dropped", "closed"])
async def test_a_cut_stream_is_an_error_with_its_text(tgi: ScriptedTGI, fault: Any) -> None:
    tgi.script(fault)
    with pytest.raises(TruncatedReplyError) as raised:
        await answer_text(client_of(tgi), ASK, stream=True)
    assert raised.value.partial_text == " Hello from"


async def test_a_cut_answer_is_an_error(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.cut())
    with pytest.raises(TruncatedReplyError):
        await answer_text(client_of(tgi), ASK, stream=False)


async def test_an_event_without_end_is_an_error(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.oversized_event())
    with pytest.raises(ExpertProtocolError):
        await answer_text(client_of(tgi), ASK, stream=True)


async def test_an_error_within_a_stream_has_the_text_so_far(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.error_midway(2))
    with pytest.raises(ExpertGenerationError) as raised:
        await answer_text(client_of(tgi), ASK, stream=True)
    assert raised.value.partial_text == " Hello from"


async def test_raw_line_separators_break_no_event(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.raw_unicode())
    assert await answer_text(client_of(tgi), ASK, stream=True) == "line\u2028sep par\u2029sep nel\u0085 del\u007f"


@whole_and_streamed
async def test_the_deadline_holds_over_template_and_answer(tgi: ScriptedTGI, stream: bool) -> None:
    tgi.script(Fault.slow_start())
    with pytest.raises(ExpertTimeoutError):
        await answer_text(client_of(tgi), ASK, stream=stream, deadline=0.3)
    await tgi.until(lambda: tgi.in_flight == 0)


@pytest.mark.parametrize(
    ("after", "limit"), [(0, {"first_byte": 0.2}), (2, {"idle": 0.2})], ids=["first byte", "silence"]
)
async def test_a_silent_stream_is_given_up(tgi: ScriptedTGI, after: int, limit: dict[str, float]) -> None:
    tgi.script(Fault.stall(after))
    with pytest.raises(ExpertTimeoutError) as raised:
        await answer_text(client_of(tgi, Timeouts(**limit)), ASK, stream=True)
    assert raised.value.partial_text == "".join([" Hello", " from"][:after])
    await tgi.until(lambda: tgi.in_flight == 0)


async def test_a_stream_may_take_longer_than_the_packages_own_limit(tgi: ScriptedTGI) -> None:
    client = client_of(tgi)
    package_client = client._package_client("/")
    assert package_client.timeout.total is None


async def test_a_server_that_is_gone_can_not_be_reached(tgi: ScriptedTGI) -> None:
    client = client_of(tgi)
    tgi.stop()
    with pytest.raises(ExpertConnectionError):
        await client.generate("Hello")


async def test_a_cancelled_call_closes_its_connection(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.slow_start())
    call = asyncio.ensure_future(client_of(tgi).chat(ASK))
    await tgi.until(lambda: tgi.held == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await tgi.until(lambda: tgi.in_flight == 0)


async def test_a_closed_stream_closes_its_connection(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.stall(2))
    stream = client_of(tgi).chat_stream(ASK)
    await anext(stream)
    await stream.aclose()
    await tgi.until(lambda: tgi.in_flight == 0)


async def test_the_token_is_sent_to_the_experts_own_host() -> None:
    with ScriptedTGI(api_key="canary-7") as server:
        assert await answer_text(client_of(server, api_key="canary-7"), ASK, stream=False)


@whole_and_streamed
async def test_a_redirect_takes_no_token_to_another_host(tgi: ScriptedTGI, stream: bool) -> None:
    with ScriptedTGI() as other:
        tgi.always(Fault.redirect(f"{other.url}/generate_stream" if stream else f"{other.url}/"))
        await answer_text(client_of(tgi, api_key="canary-7"), ASK, stream=stream)
        assert [one.headers.get("Authorization") for one in other.requests] == [None]
