"""The client over real sockets: every failure has its type and keeps its limits, and nothing is left open."""

import asyncio
import gzip
import socket

import pytest

from tests.support.chat_requests import ASK, TOOL, TOOLS, answer_text, client_of, collect_chunks, whole_and_streamed
from tests.support.scripted_tgi import Fault, Raw, ScriptedTGI, Text, ToolUse
from torouter import errors
from torouter.chat import ChatRequest
from torouter.endpoints import TGIClient, Timeouts
from torouter.errors import ConfigurationError
from torouter.experts import Expert

CANARY = "canary-token-5e1d"
EVENTS = {"content-type": "text/event-stream"}
SAYS = Text(pieces=("one", " two", " three", " four"))

FAULTS = [
    (Fault.overloaded(), "ExpertOverloadedError"),
    (Fault.overloaded_in_stream(), "ExpertOverloadedError"),
    (Fault.status(424), "ExpertGenerationError"),
    (Fault.incomplete_generation(), "ExpertGenerationError"),
    (Fault.error_midway(0), "ExpertGenerationError"),
    (Fault.html_502(), "ExpertServerError"),
    (Fault.status(503), "ExpertServerError"),
    (Fault.status(504), "ExpertServerError"),
    (Fault.empty_401(), "ExpertAuthenticationError"),
    (Fault.status(403), "ExpertPermissionError"),
    (Fault.status(404), "ExpertNotFoundError"),
    (Fault.plain_422(), "ExpertRequestError"),
    (Fault.validation("`temperature` must be strictly positive"), "ExpertRequestError"),
    (Fault.validation("`inputs` must have less than 4095 tokens. Given: 5000"), "ContextLengthError"),
    (Fault.status(413), "ContextLengthError"),
    (Fault.reset(), "ExpertConnectionError"),
    (Fault.not_json(), "ExpertProtocolError"),
    (Fault.oversized_body(), "ExpertProtocolError"),
    (Raw(200, {"content-type": "text/html"}, b"<html>Log in</html>"), "ExpertProtocolError"),
    (Raw(200, {"content-type": "application/json"}, b'{"error":{"message":"bad","code":400}}'), "ExpertRequestError"),
    (Fault.cut(0), "TruncatedReplyError"),
]


@whole_and_streamed
@pytest.mark.parametrize(("fault", "kind"), FAULTS, ids=lambda value: value if isinstance(value, str) else "")
async def test_every_failure_has_its_type(tgi, fault, kind, stream):
    tgi.script(fault)
    with pytest.raises(errors.ExpertError) as caught:
        await answer_text(client_of(tgi, api_key=CANARY), stream=stream)
    error = caught.value
    assert type(error) is getattr(errors, kind)
    assert (error.expert, error.partial_text) == ("code", "")
    assert "'code'" in str(error)
    assert CANARY not in f"{error!r} {error!s} {vars(error)} {error.__cause__!r} {error.__context__!r}"
    await tgi.until(lambda: tgi.in_flight == 0)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.error_midway(2, answer=SAYS), errors.ExpertGenerationError),
        (Fault.cut(2, clean=True, answer=SAYS), errors.TruncatedReplyError),
        (Fault.error_midway(2, text="Model is overloaded", answer=SAYS), errors.ExpertOverloadedError),
    ],
)
async def test_a_failure_after_the_first_chunk_carries_what_was_given_out(tgi, fault, kind):
    tgi.script(fault)
    chunks = []
    with pytest.raises(kind) as caught:
        await _into(chunks, client_of(tgi).chat_stream(ASK))
    assert caught.value.partial_text == "".join(chunk.text for chunk in chunks) == "one two"


async def test_a_connection_that_breaks_in_a_stream_is_a_truncated_reply(tgi):
    tgi.script(Fault.cut(2, answer=SAYS))
    chunks = []
    with pytest.raises(errors.TruncatedReplyError) as caught:
        await _into(chunks, client_of(tgi).chat_stream(ASK))
    assert caught.value.partial_text == "".join(chunk.text for chunk in chunks)


async def _into(chunks, stream):
    async for chunk in stream:
        chunks.append(chunk)


async def test_a_tool_call_without_done_is_truncated(tgi):
    tgi.script(Fault.no_done(ToolUse("f", {"x": "y"})))
    with pytest.raises(errors.TruncatedReplyError):
        await collect_chunks(client_of(tgi).chat_stream(TOOLS))


@whole_and_streamed
@pytest.mark.parametrize("version", ["3.1", "3.3"])
async def test_a_tool_call_that_max_tokens_cuts_is_an_error(stream, version):
    with ScriptedTGI(version=version) as server:
        server.script(ToolUse("f", {"x": "a b c d e f g"}))
        request = ChatRequest(TOOLS.messages, {"max_tokens": 6}, tools=(TOOL,), tool_choice="any")
        with pytest.raises(errors.TruncatedReplyError, match="max_tokens"):
            await answer_text(client_of(server), request, stream=stream)


async def test_a_tool_call_that_is_cut_before_its_name_is_an_error(tgi):
    tgi.script(ToolUse("f", {"x": "a"}))
    request = ChatRequest(TOOLS.messages, {"max_tokens": 2}, tools=(TOOL,), tool_choice="any")
    with pytest.raises(errors.ExpertProtocolError, match="empty"):
        await collect_chunks(client_of(tgi).chat_stream(request))


async def test_an_event_without_end_is_refused(tgi):
    tgi.script(Fault.oversized_event())
    with pytest.raises(errors.ExpertProtocolError, match="event of more than"):
        await collect_chunks(client_of(tgi).chat_stream(ASK))
    await tgi.until(lambda: tgi.in_flight == 0)


async def test_a_body_that_unpacks_beyond_the_cap_is_refused(tgi):
    bomb = gzip.compress(b'"' + b"x" * 2**26, compresslevel=1)
    tgi.script(Raw(200, {"content-type": "application/json", "content-encoding": "gzip"}, bomb))
    with pytest.raises(errors.ExpertProtocolError, match="more than"):
        await client_of(tgi).chat(ASK)


@whole_and_streamed
async def test_a_server_that_is_not_there(tgi, stream):
    client = client_of(tgi)
    tgi.stop()
    with pytest.raises(errors.ExpertConnectionError, match=tgi.url):
        await answer_text(client, stream=stream)


@pytest.mark.parametrize("raw_answer", [b"SSH-2.0-OpenSSH_9\r\n\r\n", b"HTTP/1.1 200 OK\r\nBad Header\r\n\r\n"])
async def test_a_server_that_does_not_speak_http(raw_answer):
    async def serve(reader, writer):
        await reader.readuntil(b"}")
        writer.write(raw_answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(errors.ExpertProtocolError) as caught:
            await TGIClient(Expert(name="code", url=url, api_key=CANARY)).chat(ASK)
    # aiohttp's own exception has the request's headers in its repr.
    assert CANARY not in f"{caught.value.__cause__!r} {caught.value.__context__!r}"


# Time limits


@pytest.mark.parametrize("name", ["connect", "first_byte", "idle", "total"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "5", True, None])
def test_a_limit_has_to_be_a_positive_number(name, value):
    with pytest.raises(ConfigurationError, match=f"{name}="):
        Timeouts(**{name: value})


@whole_and_streamed
async def test_the_deadline_is_of_the_whole_call(tgi, stream):
    tgi.always(Fault.slow_start())
    with pytest.raises(errors.ExpertTimeoutError, match=r"within 0\.05 s"):
        await answer_text(client_of(tgi), stream=stream, deadline=0.05)
    with pytest.raises(errors.ExpertTimeoutError, match=r"within 0\.06 s"):
        await answer_text(client_of(tgi, timeouts=Timeouts(total=0.06)), stream=stream, deadline=100)
    await tgi.until(lambda: tgi.in_flight == 0)


async def test_a_spent_deadline_fails_at_once(tgi):
    tgi.script(Fault.slow_start())
    with pytest.raises(errors.ExpertTimeoutError):
        await client_of(tgi).chat(ASK, deadline=-1)


@pytest.mark.parametrize("fault", [Fault.slow_start(), Fault.stall(0)], ids=["no status", "no event"])
async def test_a_stream_without_a_first_event_is_given_up(tgi, fault):
    tgi.script(fault)
    with pytest.raises(errors.ExpertTimeoutError, match="no event") as caught:
        await collect_chunks(client_of(tgi, timeouts=Timeouts(first_byte=0.05)).chat_stream(ASK))
    assert caught.value.partial_text == ""
    await tgi.until(lambda: tgi.in_flight == 0)


async def test_keep_alive_comments_are_no_first_event(tgi):
    tgi.script(Raw(200, EVENTS, b":\n\n", repeat=10**7))
    with pytest.raises(errors.ExpertTimeoutError, match="no event"):
        await collect_chunks(client_of(tgi, timeouts=Timeouts(first_byte=0.1)).chat_stream(ASK))


async def test_a_call_has_no_first_byte_to_wait_for(tgi):
    tgi.script(Fault.slow_start(SAYS))
    call = asyncio.create_task(client_of(tgi, timeouts=Timeouts(first_byte=1e-6, idle=1e-6)).chat(ASK))
    await tgi.until(lambda: tgi.held == 1)
    tgi.release()
    assert (await call).text == "one two three four"


async def test_a_stream_that_falls_silent_is_given_up_with_its_text(tgi):
    tgi.script(Fault.stall(2, SAYS))
    with pytest.raises(errors.ExpertTimeoutError, match="silent") as caught:
        await collect_chunks(client_of(tgi, timeouts=Timeouts(idle=0.05)).chat_stream(ASK))
    assert caught.value.partial_text == "one two"
    await tgi.until(lambda: tgi.in_flight == 0)


async def test_connecting_has_its_own_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, but never shakes hands
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        client = TGIClient(Expert(name="code", url=url), timeouts=Timeouts(connect=0.05))
        with pytest.raises(errors.ExpertTimeoutError, match=r"no connection within 0\.05 s"):
            await client.chat(ASK)
