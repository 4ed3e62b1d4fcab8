"""The scripted server fails in the way a test scripts, and records what it received."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
import pytest

from tests.support.scripted_tgi import Fault, ScriptedTGI, Text
from tests.support.scripted_tgi.probe import CHAT, chat_payload, connected, deltas, events, post, send


@pytest.mark.parametrize(
    ("fault", "status", "kind", "start"),
    [
        (Fault.overloaded(), 429, "application/json", b'{"error":"Model is overloaded"'),
        (Fault.status(424), 424, "application/json", b'{"error":"Request failed during generation: '),
        (Fault.status(500), 500, "application/json", b'{"error":"Incomplete generation"'),
        (Fault.status(503), 503, "application/json", b'{"error":"unhealthy","error_type":"healthcheck"}'),
        (Fault.status(403), 403, "", b""),
        (Fault.status(413), 413, "text/plain; charset=utf-8", b"Failed to buffer"),
        (Fault.plain_422(), 422, "text/plain; charset=utf-8", b"Failed to deserialize"),
        (Fault.html_502(), 502, "text/html", b"<html>"),
        (Fault.empty_401(), 401, "", b""),
        (Fault.not_json(), 200, "application/json", b'{"object":'),
        (Fault.redirect("http://127.0.0.1:1/"), 307, "", b""),
    ],
)
def test_a_fault_before_any_stream(tgi: ScriptedTGI, fault: Any, status: int, kind: str, start: bytes) -> None:
    for stream in (False, True):
        tgi.script(fault)
        answer = send(tgi, "POST", CHAT, json.dumps(chat_payload(stream=stream)).encode())
        assert answer[:2] == (status, kind)
        assert answer[2].startswith(start)
    assert post(tgi, chat_payload())[0] == 200


def test_an_error_in_the_middle_of_a_stream(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.error_midway(after=2, text="Request failed during generation: boom"))
    first, second, error, done = events(post(tgi, chat_payload(stream=True))[1])
    assert [event["choices"][0]["delta"]["content"] for event in (first, second)] == ["Hello", " from"]
    assert error["error"]["message"] == "Request failed during generation: boom"
    assert done == "[DONE]"
    tgi.script(Fault.error_midway())
    assert post(tgi, chat_payload())[0] == 424


def test_a_cut_stream_breaks_off_or_just_ends(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.cut(after=2), Fault.cut(after=2, clean=True), Fault.no_done(), Fault.cut())
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(tgi, chat_payload(stream=True))
    assert len(events(caught.value.partial.decode())) == 2
    assert len(events(post(tgi, chat_payload(stream=True))[1])) == 2
    last = events(post(tgi, chat_payload(stream=True))[1])[-1]
    assert last["choices"][0]["finish_reason"] == "stop"
    with pytest.raises(http.client.IncompleteRead):
        post(tgi, chat_payload())


def test_a_reset_comes_before_any_byte(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.reset())
    with pytest.raises(ConnectionResetError):
        post(tgi, chat_payload())


def test_comments_stand_between_events(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.keep_alive(2, Text("a b")))
    stream = post(tgi, chat_payload(stream=True))[1]
    assert stream.count(":\n\n:\n\ndata: {") == 3
    assert [delta["content"] for delta in deltas(stream)] == ["a", " b", ""]


def test_line_separators_are_raw_in_the_text(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.raw_unicode())
    stream = post(tgi, chat_payload(stream=True))[1]
    assert {"\u2028", "\u2029", "\u0085", "\u007f"} <= set(stream)
    assert "".join(delta["content"] for delta in deltas(stream)) == "line\u2028sep par\u2029sep nel\u0085 del\u007f"


def test_a_stalled_stream_goes_on_when_released(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.stall(after=1))
    with connected(tgi) as connection:
        connection.request("POST", CHAT, json.dumps(chat_payload(stream=True)), {"content-type": "application/json"})
        response = connection.getresponse()
        assert b"Hello" in response.readline()
        tgi.wait_until(lambda: tgi.held == 1)
        tgi.release()
        assert response.read().endswith(b"data: [DONE]\n\n")


def test_a_client_that_leaves_ends_the_generation(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.stall())
    with connected(tgi) as connection:
        connection.request("POST", CHAT, json.dumps(chat_payload(stream=True)), {"content-type": "application/json"})
        connection.getresponse()
        tgi.wait_until(lambda: tgi.held == 1)
        assert (tgi.in_flight, tgi.open_connections) == (1, 1)
    tgi.wait_until(lambda: tgi.held == tgi.in_flight == tgi.open_connections == 0)


def test_oversized_answers_go_on_until_the_reader_has_enough(tgi: ScriptedTGI) -> None:
    for fault, start in ((Fault.oversized_body(), b'"xx'), (Fault.oversized_event(), b"data: xx")):
        tgi.script(fault)
        with connected(tgi) as connection:
            connection.request("POST", CHAT, json.dumps(chat_payload()), {"content-type": "application/json"})
            response = connection.getresponse()
            data = response.read(2**22)
            assert data.startswith(start)
            assert b"\n" not in data
    tgi.wait_until(lambda: tgi.in_flight == 0)


def test_raw_bytes_come_in_the_chunks_given(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.bytes(200, {"content-type": "text/event-stream"}, b"", chunks=(b"da", b"ta: 1\n", b"\n")))
    assert send(tgi, "POST", CHAT, b"not even JSON") == (200, "text/event-stream", b"data: 1\n\n")


def test_a_fixed_answer_to_a_get(tgi: ScriptedTGI) -> None:
    tgi.on_get("/health", Fault.status(503))
    assert send(tgi, "GET", "/health")[0] == 503


# The double's own handles


def test_scripted_answers_come_first_then_the_standing_one_then_the_model(tgi: ScriptedTGI) -> None:
    tgi.script(Text("scripted"))
    tgi.always(Text("standing"))
    texts = [post(tgi, chat_payload())[1]["choices"][0]["message"]["content"] for _ in range(3)]
    tgi.always(None)
    tgi.answer = lambda body: f"{len(body['messages'])} message"
    texts.append(post(tgi, chat_payload())[1]["choices"][0]["message"]["content"])
    assert texts == ["scripted", "standing", "standing", "1 message"]


def test_requests_and_connections_are_recorded(tgi: ScriptedTGI) -> None:
    with connected(tgi) as connection:
        for _ in range(2):
            connection.request("POST", CHAT, json.dumps(chat_payload()), {"Content-Type": "application/json"})
            connection.getresponse().read()
    post(tgi, {"inputs": "Hi"}, "/generate")
    assert [(r.path, r.connection) for r in tgi.requests] == [(CHAT, 1), (CHAT, 1), ("/generate", 2)]
    assert tgi.requests[0].body == chat_payload()
    assert tgi.requests[0].headers["content-type"] == "application/json"
    assert tgi.connections == 2


def test_a_stopped_server_refuses_and_starts_again_on_its_port(tgi: ScriptedTGI) -> None:
    url = tgi.url
    tgi.stop()
    with pytest.raises(ConnectionRefusedError):
        post(tgi, chat_payload())
    tgi.start()
    assert tgi.url == url
    assert post(tgi, chat_payload())[0] == 200


def test_a_stopped_server_drops_what_it_was_answering(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.slow_start())
    with connected(tgi) as connection:
        connection.request("POST", CHAT, json.dumps(chat_payload()), {"content-type": "application/json"})
        tgi.wait_until(lambda: tgi.held == 1)
        tgi.stop()
        with pytest.raises(ConnectionError):
            connection.getresponse()
    assert (tgi.held, tgi.in_flight, tgi.open_connections) == (0, 0, 0)


def test_waiting_in_vain_fails_loudly(tgi: ScriptedTGI) -> None:
    with pytest.raises(AssertionError, match="0 requests, 0 in flight"):
        tgi.wait_until(lambda: tgi.in_flight == 1, seconds=0.01)


def test_an_error_inside_the_server_fails_the_test() -> None:
    def broken(_: Mapping[str, Any]) -> str:
        raise ZeroDivisionError

    server = ScriptedTGI().start()
    server.answer = broken
    assert post(server, chat_payload())[0] == 500
    with pytest.raises(ZeroDivisionError):
        server.__exit__(None, None, None)


async def test_an_asynchronous_test_uses_it_alike() -> None:
    async with ScriptedTGI() as server, aiohttp.ClientSession() as session:
        server.script(Fault.slow_start())
        call = asyncio.ensure_future(session.post(server.url + CHAT, json=chat_payload()))
        await server.until(lambda: server.held == 1)
        async with session.get(server.url + "/health") as health:
            assert health.status == 200
        server.release()
        async with await call as response:
            assert (await response.json())["model"] == "test/expert"
        await server.until(lambda: server.in_flight == 0)
