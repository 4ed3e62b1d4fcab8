"""The client over real sockets: answers of every server, connections, cancelling, and what leaves the process."""

import asyncio
import json
import logging
from contextlib import aclosing

import pytest

from tests.support.chat_requests import ASK, TOOLS, answer_text, client_of, collect_chunks, whole_and_streamed
from tests.support.scripted_tgi import Fault, Raw, ScriptedTGI, Text, ToolUse, ToolUses
from torouter import errors
from torouter.chat import ChatRequest, Usage
from torouter.endpoints import TGIClient, close_sessions
from torouter.errors import ConfigurationError
from torouter.experts import Expert
from torouter.runtime import background

CANARY = "canary-token-5e1d"
SAYS = Text(pieces=("one", " two", " three", " four"))


# Answers


@pytest.fixture(params=["2.0", "2.4", "3.1", "3.3", "openai"])
def any_server(request):
    kind = {"api": "openai"} if request.param == "openai" else {"version": request.param}
    with ScriptedTGI(model_id="test/expert", **kind) as server:
        yield server


def client_of_any(server):
    openai = server.dialect.keep_stop is False
    return client_of(server, **({"api": "openai", "model": "test/expert"} if openai else {}))


@whole_and_streamed
async def test_every_server_answers_a_chat(any_server, stream):
    any_server.script(SAYS)
    assert await answer_text(client_of_any(any_server), stream=stream) == "one two three four"
    assert any_server.requests[0].lost == ()


async def test_every_server_calls_a_tool(any_server):
    client = client_of_any(any_server)
    any_server.script(ToolUse("f", {"x": "y z"}), ToolUse("f", {"x": "y z"}))
    reply = await client.chat(TOOLS)
    chunks = await collect_chunks(client.chat_stream(TOOLS))
    arguments = "".join(delta.arguments for chunk in chunks for delta in chunk.tool_calls)
    assert (reply.finish_reason, chunks[-1].finish_reason) == ("tool_calls", "tool_calls")
    assert json.loads(reply.tool_calls[0].arguments) == json.loads(arguments) == {"x": "y z"}


async def test_every_server_reports_its_model(any_server):
    info = await client_of_any(any_server).info()
    assert info.model_id == "test/expert"


async def test_several_calls_in_one_answer():
    with ScriptedTGI(api="openai", model_id="m") as server:
        client = client_of(server, api="openai", model="m")
        server.always(ToolUses((ToolUse("f", {"x": "1"}), ToolUse("f", {"x": "2"}))))
        reply = await client.chat(TOOLS)
        chunks = await collect_chunks(client.chat_stream(TOOLS))
    assert [json.loads(call.arguments)["x"] for call in reply.tool_calls] == ["1", "2"]
    ids = [delta.id for chunk in chunks for delta in chunk.tool_calls if delta.id]
    assert len({*ids, *(call.id for call in reply.tool_calls)}) == 4


async def test_a_stream_brings_usage_and_model_at_its_end(tgi):
    chunks = await collect_chunks(client_of(tgi).chat_stream(ASK))
    assert [chunk.finish_reason for chunk in chunks].count(None) == len(chunks) - 1
    assert isinstance(chunks[-1].usage, Usage)
    assert chunks[-1].model == "test/expert"


async def test_raw_line_separators_in_a_text_do_not_break_a_stream(tgi):
    tgi.script(Fault.raw_unicode())
    assert await answer_text(client_of(tgi), stream=True) == "line\u2028sep par\u2029sep nel\u0085 del\u007f"


async def test_keep_alive_comments_are_no_part_of_a_stream(tgi):
    tgi.script(Fault.keep_alive(3, SAYS))
    assert await answer_text(client_of(tgi), stream=True) == "one two three four"


@whole_and_streamed
async def test_the_text_is_cut_at_a_stop_sequence(tgi, stream):
    tgi.script(SAYS)
    request = ChatRequest(ASK.messages, {"stop": [" thr", " three"]})
    assert await answer_text(client_of(tgi), request, stream=stream) == "one two"


async def test_a_server_that_misses_a_stop_sequence_is_left_at_once(tgi):
    tgi.script(Fault.stall(4, Text(pieces=("one END", " two", " three", " four", " five"))))
    request = ChatRequest(ASK.messages, {"stop": ["1", "2", "3", "4", "END"]})  # TGI gets the first four
    chunks = await collect_chunks(client_of(tgi).chat_stream(request))
    assert ("".join(chunk.text for chunk in chunks), chunks[-1].finish_reason) == ("one ", "stop")
    await tgi.until(lambda: tgi.open_connections == 0)


async def test_a_raw_prompt_is_continued(tgi):
    client = client_of(tgi, parameters={"temperature": 0, "max_tokens": 50})
    whole = await client.generate("Once")
    steps = await collect_chunks(client.generate_stream("Once", parameters={"seed": 1}))
    assert "".join(step.text for step in steps) == whole.text != ""
    assert (whole.finish_reason, steps[-1].finish_reason) == ("stop", "stop")
    assert whole.generated_tokens == steps[-1].generated_tokens == len(whole.tokens)
    assert [step.finish_reason for step in steps].count(None) == len(steps) - 1


async def test_info_of_a_gateway_without_info_comes_from_its_models(tgi):
    tgi.on_get("/info", Raw(404))
    assert (await client_of(tgi).info()).model_id == "test/expert"


async def test_health(tgi):
    client = client_of(tgi)
    assert await client.health()
    tgi.on_get("/health", Fault.status(503))
    assert not await client.health()
    tgi.stop()
    assert not await client.health()


async def test_a_url_may_end_in_v1(tgi):
    client = TGIClient(Expert(name="code", url=f"{tgi.url}/v1"))
    await client.chat(ASK)
    await client.generate("Once")
    assert [request.path for request in tgi.requests] == ["/v1/chat/completions", "/generate"]


# Connections


async def test_one_connection_serves_calls_and_streams_of_all_clients(tgi):
    for _ in range(3):
        async with client_of(tgi) as client:
            await client.chat(ASK)
            await collect_chunks(client.chat_stream(ASK))
            await collect_chunks(client.generate_stream("Once"))
    assert tgi.connections == 1


async def test_many_calls_at_once_share_nothing_but_the_session(tgi):
    tgi.answer = lambda body: body["messages"][-1]["content"] * 3
    client = client_of(tgi)
    requests = [ChatRequest(({"role": "user", "content": f" {n}"},)) for n in range(40)]
    texts = await asyncio.gather(*(answer_text(client, r, stream=n % 2 == 0) for n, r in enumerate(requests)))
    assert texts == [f" {n}" * 3 for n in range(40)]


def test_a_loop_that_ends_closes_its_connections(tgi):
    client = client_of(tgi)
    for _ in range(2):
        asyncio.run(client.chat(ASK))
        tgi.wait_until(lambda: tgi.open_connections == 0)
    assert tgi.connections == 2


async def test_sessions_can_be_closed_and_come_back(tgi):
    client = client_of(tgi)
    await client.chat(ASK)
    await close_sessions()
    await tgi.until(lambda: tgi.open_connections == 0)
    await client.chat(ASK)
    assert tgi.connections == 2


def test_a_stream_may_be_driven_by_a_task_for_each_step(tgi):
    tgi.script(SAYS)
    chunks = list(background.iterate(client_of(tgi).chat_stream(ASK)))
    assert "".join(chunk.text for chunk in chunks) == "one two three four"


def test_a_stream_that_is_left_by_synchronous_code_is_closed(tgi):
    tgi.script(Fault.stall(2, SAYS))
    stream = background.iterate(client_of(tgi).chat_stream(ASK))
    assert next(stream).text == "one"
    stream.close()
    tgi.wait_until(lambda: tgi.in_flight == 0)


async def test_leaving_a_stream_closes_its_connection(tgi):
    tgi.script(Fault.stall(2, SAYS))
    async with aclosing(client_of(tgi).chat_stream(ASK)) as stream:
        assert (await anext(stream)).text == "one"
    await tgi.until(lambda: tgi.in_flight == 0 and tgi.open_connections == 0)


@whole_and_streamed
async def test_cancelling_closes_the_connection(tgi, stream):
    tgi.script(Fault.slow_start())
    call = asyncio.create_task(answer_text(client_of(tgi), stream=stream))
    await tgi.until(lambda: tgi.held == 1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await tgi.until(lambda: tgi.in_flight == 0 and tgi.open_connections == 0)


# What leaves the process


async def test_the_token_goes_to_the_server(monkeypatch):
    with ScriptedTGI(api_key=CANARY) as server:
        await client_of(server, api_key=CANARY).chat(ASK)
        monkeypatch.setenv("SOME_TOKEN", CANARY)
        await client_of(server, api_key_env="SOME_TOKEN").chat(ASK)
        with pytest.raises(errors.ExpertAuthenticationError, match="api_key"):
            await client_of(server).chat(ASK)
    assert [r.headers.get("authorization") for r in server.requests] == [f"Bearer {CANARY}"] * 2 + [None]


async def test_a_redirect_is_not_followed(tgi):
    with ScriptedTGI() as other:
        tgi.script(Fault.redirect(f"{other.url}/v1/chat/completions"))
        with pytest.raises(errors.ExpertNotFoundError, match="redirects to http://127"):
            await client_of(tgi, api_key=CANARY).chat(ASK)
        assert other.requests == []


def test_only_the_experts_own_urls_are_asked(tgi):
    expert = Expert(name="code", url=tgi.url, urls=("http://127.0.0.1:2",), api_key=CANARY)
    assert TGIClient(expert, url="http://127.0.0.1:2/").url == "http://127.0.0.1:2"
    with pytest.raises(ConfigurationError, match=r"http://elsewhere\.example"):
        TGIClient(expert, url="http://elsewhere.example")
    with pytest.raises(ConfigurationError):
        TGIClient(Expert(name="framework's own"))


@pytest.mark.parametrize("token", [f"{CANARY}\n", f"{CANARY}\r\nX: y", f"{CANARY}\u20ac"])
async def test_a_token_that_is_no_header_is_refused_without_being_shown(tgi, token):
    with pytest.raises(ConfigurationError, match="'code'") as caught:
        await client_of(tgi, api_key=token).chat(ASK)
    assert CANARY not in str(caught.value)
    assert tgi.requests == []


async def test_the_environments_proxy_and_cookies_are_not_used(tgi, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    tgi.script(Raw(429, {"set-cookie": "a=b; Path=/"}))
    client = client_of(tgi)
    with pytest.raises(errors.ExpertOverloadedError):
        await client.chat(ASK)
    await client.chat(ASK)
    assert "cookie" not in tgi.requests[1].headers


async def test_prompts_answers_and_tokens_are_not_logged(tgi, caplog):
    caplog.set_level(logging.DEBUG)
    request = ChatRequest(({"role": "user", "content": "private words"},), {"top_k": 3, "presence_penalty": 1})
    client = client_of(tgi, api_key=CANARY)
    await client.chat(request)
    await collect_chunks(client.chat_stream(request))
    tgi.script(Fault.plain_422('seed: invalid type: string "private words"'))
    with pytest.raises(errors.ExpertRequestError) as caught:
        await client.chat(request)
    for written in (caplog.text, str(caught.value)):
        assert CANARY not in written
        assert "private" not in written
    assert "presence_penalty" in caplog.text
