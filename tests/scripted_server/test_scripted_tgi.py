"""The scripted server itself speaks the contract: its answers, its refusals and its versions."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from tests.support.scripted_tgi import Fault, ScriptedTGI, Text, ToolUse, ToolUses
from tests.support.scripted_tgi.probe import CHAT, SCHEMA, WEATHER, chat_payload, deltas, events, post, send

# Chat


def test_a_chat_answer_has_the_recorded_shape(tgi: ScriptedTGI) -> None:
    status, reply = post(tgi, chat_payload())
    assert status == 200
    assert list(reply) == ["object", "id", "created", "model", "system_fingerprint", "choices", "usage"]
    assert (reply["object"], reply["id"], reply["model"]) == ("chat.completion", "", "test/expert")
    text = "Hello from test/expert. You said: Hello"
    assert reply["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": None, "finish_reason": "stop"}
    ]
    assert reply["usage"] == {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8}


def test_a_chat_stream_ends_with_an_empty_piece_then_usage_then_done(tgi: ScriptedTGI) -> None:
    status, stream = post(tgi, chat_payload(stream=True, stream_options={"include_usage": True}))
    assert status == 200
    *chunks, last, usage, done = events(stream)
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks).startswith("Hello from test/expert")
    assert all(chunk["choices"][0]["delta"]["role"] == "assistant" for chunk in chunks)
    assert all(chunk["usage"] is None and chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert last["choices"][0] == {
        "index": 0,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert (usage["choices"], usage["usage"]["completion_tokens"], done) == ([], 7, "[DONE]")


def test_a_stream_has_no_usage_unless_asked(tgi: ScriptedTGI) -> None:
    _, stream = post(tgi, chat_payload(stream=True))
    assert all(event == "[DONE]" or event["usage"] is None for event in events(stream))


@pytest.mark.parametrize(
    ("fields", "text", "finish"),
    [
        ({"max_tokens": 2}, "one two", "length"),
        ({"max_tokens": 4}, "one two three four", "length"),
        ({"stop": ["two"]}, "one two", "stop_sequence"),
        ({"stop": ["tw"]}, "one two three four", "stop"),
    ],
    ids=["cut", "end at the limit", "stop text stays", "stop inside a token is missed"],
)
def test_generation_ends_as_tgi_ends_it(tgi: ScriptedTGI, fields: dict[str, Any], text: str, finish: str) -> None:
    tgi.always(Text("one two three four"))
    _, reply = post(tgi, chat_payload(**fields))
    _, stream = post(tgi, chat_payload(stream=True, **fields))
    (choice,) = reply["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, finish)
    assert "".join(delta["content"] for delta in deltas(stream)) == text
    assert events(stream)[-2]["choices"][0]["finish_reason"] == finish


def test_any_model_but_tgi_is_echoed_as_an_adapter(tgi: ScriptedTGI) -> None:
    assert post(tgi, chat_payload(model="no/such-adapter"))[1]["model"] == "no/such-adapter"


def test_logprobs_list_the_end_of_text_token_and_have_no_bytes(tgi: ScriptedTGI) -> None:
    tgi.script(Text("OK"))
    _, reply = post(tgi, chat_payload(logprobs=True, top_logprobs=2))
    listed = reply["choices"][0]["logprobs"]["content"]
    assert [entry["token"] for entry in listed] == ["OK", "<|eot_id|>"]
    assert set(listed[0]) == {"token", "logprob", "top_logprobs"}
    assert len(listed[0]["top_logprobs"]) == 2


# Refusals


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": "end"},
        {"stream": None},
        {"stream_options": None},
        {"logit_bias": {"5": 1}},
        {"response_format": {"type": "json_object"}},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
        {"tools": [{"type": "function", "function": {"name": "f", "description": "d"}}]},
        {"messages": None},
        {"messages": ["Hello"]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": 0, "function": {"name": "f", "arguments": "{}"}}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        {"max_tokens": -1},
        {"seed": -1},
        {"temperature": "warm"},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_a_body_of_the_wrong_shape_is_refused_in_plain_text(tgi: ScriptedTGI, fields: dict[str, Any]) -> None:
    for stream in (False, True):
        status, kind, data = send(tgi, "POST", CHAT, json.dumps(chat_payload(**{"stream": stream, **fields})).encode())
        assert (status, kind) == (422, "text/plain; charset=utf-8")
        assert data.startswith(b"Failed to deserialize the JSON body into the target type: ")


@pytest.mark.parametrize(
    "fields",
    [
        {"top_p": 1.0},
        {"top_p": 0.0},
        {"temperature": -0.1},
        {"max_tokens": 0},
        {"presence_penalty": -2},
        {"frequency_penalty": 2.5},
        {"stop": list("abcde")},
        {"top_logprobs": 6, "logprobs": True},
        {"response_format": {"type": "json_object", "value": {"type": "object"}}},
        {"max_tokens": 4096},
        {"messages": [{"role": "user", "content": "word " * 4096}]},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_a_wrong_value_is_refused_before_and_inside_a_stream(fields: dict[str, Any]) -> None:
    with ScriptedTGI(max_total_tokens=1024, max_input_tokens=1023) as server:
        status, reply = post(server, chat_payload(**fields))
        assert (status, reply["error_type"]) == (422, "validation")
        assert reply["error"].startswith("Input validation error: ")
        status, stream = post(server, chat_payload(stream=True, **fields))
        assert status == 200
        assert events(stream) == [{"error": {"message": reply["error"], "http_status_code": 422}}, "[DONE]"]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [WEATHER], "tool_choice": "any"},
        {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "other"}}},
        {"tools": [], "response_format": {"type": "json_object", "value": SCHEMA}},
    ],
)
def test_a_wrong_use_of_tools_is_refused_before_the_stream_starts(tgi: ScriptedTGI, fields: dict[str, Any]) -> None:
    for stream in (False, True):
        status, reply = post(tgi, chat_payload(stream=stream, **fields))
        assert (status, reply["error_type"]) == (422, "tool_error")


def test_temperature_zero_is_greedy_for_chat_and_wrong_for_generate(tgi: ScriptedTGI) -> None:
    assert post(tgi, chat_payload(temperature=0))[0] == 200
    status, reply = post(tgi, {"inputs": "Hi", "parameters": {"temperature": 0.0}}, "/generate")
    assert (status, reply["error_type"]) == (422, "validation")


def test_errors_of_http_itself(tgi: ScriptedTGI) -> None:
    assert send(tgi, "GET", "/nowhere")[::2] == (404, b"")
    assert send(tgi, "GET", CHAT)[::2] == (405, b"")
    assert send(tgi, "POST", "/info", b"{}")[::2] == (405, b"")
    assert send(tgi, "PUT", CHAT, b"{}")[::2] == (405, b"")
    assert send(tgi, "POST", CHAT, b"{")[0] == 400
    assert send(tgi, "POST", CHAT, b"{}", {"content-type": "text/plain"})[0] == 415
    assert send(tgi, "POST", CHAT, json.dumps(chat_payload("a" * 2_000_000)).encode())[0] == 413


def test_the_api_key_is_compared_without_case_and_refused_without_a_body() -> None:
    body = json.dumps(chat_payload()).encode()
    with ScriptedTGI(api_key="Sesame") as server:
        assert send(server, "POST", CHAT, body)[::2] == (401, b"")
        assert send(server, "POST", CHAT, body, {"authorization": "Bearer other"})[0] == 401
        assert send(server, "POST", CHAT, body, {"Authorization": "bearer sesame"})[0] == 200
        assert send(server, "GET", "/info")[0] == 200
    with ScriptedTGI(api_key="Sesame", version="2.2") as server:
        assert send(server, "POST", CHAT, body)[0] == 200


def test_what_tgi_drops_silently_is_recorded(tgi: ScriptedTGI) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": {}}}
    for content, expected in (("", ("n", "messages[1].tool_calls")), (None, ("n",))):
        messages = [
            {"role": "user", "content": "How is the weather?"},
            {"role": "assistant", "content": content, "tool_calls": [call]},
            {"role": "tool", "content": "sunny", "tool_call_id": "a"},
        ]
        _, reply = post(tgi, chat_payload(messages=messages, n=1, tools=[WEATHER]))
        assert tgi.requests[-1].lost == expected
        assert ("sunny" in reply["choices"][0]["message"]["content"]) is (content is None)


# Overload


def test_the_request_over_the_limit_is_refused_at_once() -> None:
    with ScriptedTGI(max_concurrent_requests=1) as server:
        server.script(Fault.slow_start())
        first = threading.Thread(target=post, args=(server, chat_payload()))
        first.start()
        server.wait_until(lambda: server.held == 1)
        status, reply = post(server, chat_payload())
        assert (status, reply) == (429, {"error": "Model is overloaded", "error_type": "overloaded"})
        status, stream = post(server, chat_payload(stream=True))
        assert (status, events(stream)[0]["error"]["message"]) == (200, "Model is overloaded")
        assert send(server, "GET", "/health")[::2] == (200, b"")
        server.release()
        first.join(5)
        server.wait_until(lambda: server.in_flight == 0)
        assert post(server, chat_payload())[0] == 200


# /generate and the rest


def test_generate_gives_details_only_when_asked(tgi: ScriptedTGI) -> None:
    assert post(tgi, {"inputs": "Hi"}, "/generate")[1] == {"generated_text": " Hello from test/expert."}
    _, reply = post(tgi, {"inputs": "Hi", "parameters": {"details": True, "max_new_tokens": 1}}, "/generate")
    assert (reply["details"]["finish_reason"], reply["details"]["generated_tokens"]) == ("length", 1)
    assert reply["details"]["prefill"] == []


def test_the_compatible_route_gives_a_list_and_the_full_text(tgi: ScriptedTGI) -> None:
    assert post(tgi, {"inputs": "Hi"}, "/")[1] == [{"generated_text": "Hi Hello from test/expert."}]
    stream = post(tgi, {"inputs": "Hi", "stream": True, "parameters": {"return_full_text": False}}, "/")[1]
    assert events(stream)[-1]["generated_text"] == " Hello from test/expert."


def test_generate_stream_ends_with_the_whole_text_and_no_done(tgi: ScriptedTGI) -> None:
    tgi.always(Text("a b"))
    body = {"inputs": "Hi", "parameters": {"details": True}}
    *first, last = events(post(tgi, body, "/generate_stream")[1])
    assert [event["generated_text"] for event in first] == [None, None]
    assert (last["index"], last["token"]["special"], last["generated_text"]) == (3, True, "a b")
    assert last["details"]["finish_reason"] == "eos_token"


def test_best_of_takes_as_many_permits() -> None:
    body = {"inputs": "Hi", "parameters": {"best_of": 2, "do_sample": True, "details": True}}
    with ScriptedTGI() as server:
        assert len(post(server, body, "/generate")[1]["details"]["best_of_sequences"]) == 1
    with ScriptedTGI(max_concurrent_requests=1) as server:
        assert post(server, body, "/generate")[0] == 429


def test_info_and_models(tgi: ScriptedTGI) -> None:
    facts = json.loads(send(tgi, "GET", "/info")[2])
    assert (facts["model_id"], facts["max_concurrent_requests"], facts["max_input_tokens"]) == (
        "test/expert",
        128,
        4095,
    )
    assert json.loads(send(tgi, "GET", "/v1/models")[2])["data"][0]["id"] == "test/expert"
    with ScriptedTGI(version="2.0") as old:
        facts = json.loads(send(old, "GET", "/info")[2])
        assert facts["max_input_length"] == 4095
        assert "max_input_tokens" not in facts
        assert send(old, "GET", "/v1/models")[0] == 404


# Versions


@pytest.mark.parametrize(
    ("version", "framing", "done", "finish", "usage"),
    [
        ("2.0", b"data:{", False, "eos_token", False),
        ("2.2", b"data: {", True, "eos_token", False),
        ("2.4", b"data: {", True, "stop", True),
        ("3.1", b"data: {", True, "stop", True),
        ("3.3", b"data: {", True, "stop", True),
    ],
)
def test_the_wire_form_follows_the_version(version: str, framing: bytes, done: bool, finish: str, usage: bool) -> None:
    with ScriptedTGI(version=version) as server:
        body = json.dumps(chat_payload(stream=True, stream_options={"include_usage": True})).encode()
        _, kind, data = send(server, "POST", CHAT, body)
    assert kind == "text/event-stream"
    assert data.startswith(framing)
    assert data.endswith(b"data: [DONE]\n\n") is done
    chunks = [event for event in events(data.decode()) if event != "[DONE]"]
    assert (chunks[-1]["choices"] == []) is usage
    assert [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]][-1] == finish


@pytest.mark.parametrize("version", ["2.4", "3.3"])
def test_the_form_of_an_error_in_a_stream_follows_the_version(version: str) -> None:
    with ScriptedTGI(version=version) as server:
        server.always(Fault.incomplete_generation())
        chat = events(post(server, chat_payload(stream=True))[1])
        generate = events(post(server, {"inputs": "Hi"}, "/generate_stream")[1])
    text = "Incomplete generation stream"
    flat = [{"error": text, "error_type": "incomplete_generation_stream"}]
    assert generate == flat
    assert chat == (flat if version == "2.4" else [{"error": {"message": text, "http_status_code": 422}}, "[DONE]"])


def test_json_schema_is_new_in_3_3() -> None:
    wanted = {"type": "json_schema", "value": {"schema": SCHEMA}}
    with ScriptedTGI(version="3.2") as server:
        assert post(server, chat_payload(response_format=wanted))[0] == 422


# OpenAI-like servers


def test_an_openai_like_server() -> None:
    with ScriptedTGI(api="openai", model_id="m", api_key="k") as server:
        refused = send(server, "POST", CHAT, json.dumps(chat_payload(model="m")).encode())
        assert refused[::2] == (401, b'{"error":"Unauthorized"}')
        assert send(server, "GET", "/info")[0] == 404
    with ScriptedTGI(api="openai", model_id="m") as server:
        status, reply = post(server, chat_payload())
        assert (status, reply["error"]["code"]) == (404, 404)
        assert post(server, chat_payload(model="m", top_p=1.0, stop="x"))[0] == 200
        server.script(Text("one two three"))
        (choice,) = post(server, chat_payload(model="m", stop=["wo"]))[1]["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("one t", "stop")
        wanted = {"type": "json_object", "value": SCHEMA}
        assert post(server, chat_payload(model="m", response_format=wanted))[0] == 400
        wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
        assert post(server, chat_payload(model="m", response_format=wanted))[0] == 200
        assert post(server, chat_payload("word " * 5000, model="m"))[0] == 400


def test_an_openai_like_server_makes_several_calls() -> None:
    with ScriptedTGI(api="openai", model_id="m") as server:
        server.always(ToolUses((ToolUse("f", {"x": 1}), ToolUse("g", {}))))
        (choice,) = post(server, chat_payload(model="m", tools=[WEATHER]))[1]["choices"]
        chunks = events(post(server, chat_payload(model="m", tools=[WEATHER], stream=True))[1])
    names = [call["function"]["name"] for call in choice["message"]["tool_calls"]]
    assert (names, choice["finish_reason"]) == (["f", "g"], "tool_calls")
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [chunks[-2]["choices"][0]["finish_reason"], chunks[-1]] == ["tool_calls", "[DONE]"]
    pieces = [call for chunk in chunks[:-1] for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    first = "".join(piece["function"]["arguments"] for piece in pieces if piece["index"] == 0)
    assert json.loads(first) == {"x": 1}
