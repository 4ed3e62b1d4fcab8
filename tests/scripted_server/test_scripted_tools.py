"""The scripted server calls tools and keeps to schemas in the contract's forms, with arguments out of the question."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from tests.support.scripted_tgi import ScriptedTGI, Text, ToolUse
from tests.support.scripted_tgi.model import example
from tests.support.scripted_tgi.probe import SCHEMA, WEATHER, chat_payload, deltas, events, post


@pytest.mark.parametrize(
    "choice", ["required", "get_weather", {"type": "function", "function": {"name": "get_weather"}}, "auto", None]
)
def test_a_tool_call_has_the_recorded_shape(tgi: ScriptedTGI, choice: Any) -> None:
    fields = {"tools": [WEATHER], "tool_choice": choice}
    question = "What will the weather in San Francisco, CA be in 3 days?"
    _, reply = post(tgi, chat_payload(question, **fields))
    _, stream = post(tgi, chat_payload(question, stream=True, **fields))
    arguments = '{"location":"San Francisco, CA","days":3}'
    function = {"description": None, "name": "get_weather", "arguments": arguments}
    calls = [{"id": "0", "type": "function", "function": function}]
    assert reply["choices"][0]["message"] == {"role": "assistant", "tool_calls": calls}
    assert reply["choices"][0]["finish_reason"] == "stop"
    pieces = [delta["tool_calls"][0]["function"] for delta in deltas(stream)]
    assert pieces[0] == {"name": "get_weather", "arguments": "{"}
    assert {piece["name"] for piece in pieces[1:]} == {None}
    assert json.loads("".join(piece["arguments"] for piece in pieces)) == json.loads(arguments)
    assert all(event == "[DONE]" or event["choices"][0]["finish_reason"] is None for event in events(stream))


@pytest.mark.parametrize(
    ("question", "properties", "arguments"),
    [
        ("What is double_it(21)?", {"value": {"type": "integer"}}, {"value": 21}),
        ("Add 2.5 and -3 with double_it", {"a": {"type": "number"}, "b": {"type": "integer"}}, {"a": 2.5, "b": -3}),
        ("double_it 1, 2 and 3", {"all": {"type": "array", "items": {"type": "integer"}}}, {"all": [1, 2, 3]}),
        ("double_it for a shop named '山田商店' (Yamada)", {"name": {"type": "string"}}, {"name": "山田商店"}),
        ("double_it in New York, NY please", {"place": {"type": "string"}}, {"place": "New York, NY"}),
        ("double_it in kelvin", {"unit": {"enum": ["celsius", "kelvin"]}}, {"unit": "kelvin"}),
        ("double_it", {}, {}),
    ],
)
def test_arguments_come_out_of_the_question(
    tgi: ScriptedTGI, question: str, properties: dict[str, Any], arguments: dict[str, Any]
) -> None:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    tools = [WEATHER, {"type": "function", "function": {"name": "double_it", "parameters": parameters}}]
    _, reply = post(tgi, chat_payload(question, tools=tools))
    (call,) = reply["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "double_it"
    assert json.loads(call["function"]["arguments"]) == arguments


def test_json_is_said_in_words_where_the_user_asks_for_it(tgi: ScriptedTGI) -> None:
    _, reply = post(tgi, chat_payload("Answer in JSON with 'title' and 'year' keys."))
    assert set(json.loads(reply["choices"][0]["message"]["content"])) == {"title", "year"}


def test_auto_without_need_of_a_tool_answers_in_text_with_the_figures_of_the_hidden_run(tgi: ScriptedTGI) -> None:
    tgi.always(Text("one two three"))
    _, reply = post(tgi, chat_payload(tools=[WEATHER], max_tokens=2))
    (choice,) = reply["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("one two", "stop")
    assert reply["usage"]["completion_tokens"] == 12
    fields: dict[str, Any] = {"max_tokens": 2, "stream": True, "stream_options": {"include_usage": True}}
    *_, last, usage, _ = events(post(tgi, chat_payload(tools=[WEATHER], **fields))[1])
    assert (last["choices"][0]["finish_reason"], usage["usage"]["completion_tokens"]) == ("length", 2)


def test_old_versions_stream_the_call_as_one_object_with_the_name_inside() -> None:
    with ScriptedTGI(version="3.1") as server:
        server.always(ToolUse("f", {"x": 1}))
        _, reply = post(server, chat_payload(tools=[WEATHER]))
        _, stream = post(server, chat_payload(tools=[WEATHER], stream=True))
    assert reply["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == {"x": 1}
    calls = [delta["tool_calls"] for delta in deltas(stream)]
    assert all(call["id"] == "" and call["function"]["name"] is None for call in calls)
    text = "".join(call["function"]["arguments"] for call in calls)
    assert json.loads(text.removesuffix("<|eot_id|>")) == {"function": {"_name": "f", "x": 1}}
    assert events(stream)[-2]["choices"][0]["finish_reason"] == "stop"


def test_the_object_form_of_a_call_without_arguments_is_json_too() -> None:
    with ScriptedTGI(version="3.1") as server:
        server.script(ToolUse("f", {}))
        _, stream = post(server, chat_payload(tools=[WEATHER], stream=True))
    text = "".join(delta["tool_calls"]["function"]["arguments"] for delta in deltas(stream))
    assert json.loads(text.removesuffix("<|eot_id|>")) == {"function": {"_name": "f"}}


def test_a_call_in_one_chunk(tgi: ScriptedTGI) -> None:
    tgi.script(ToolUse("f", {"x": 1}, form="whole"))
    (delta,) = deltas(post(tgi, chat_payload(tools=[WEATHER], stream=True))[1])
    assert delta["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"x": 1}'}


@pytest.mark.parametrize(
    ("history", "expected"), [([], "0"), (["0"], "1"), (["4", "2"], "5"), (["call_1"], None)], ids=str
)
def test_ids_of_streamed_calls_count_up_from_those_in_the_history(
    tgi: ScriptedTGI, history: list[str], expected: str | None
) -> None:
    calls = [{"id": i, "type": "function", "function": {"name": "f", "arguments": "{}"}} for i in history]
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": calls}]
    tgi.script(ToolUse("f"))
    first, *_ = deltas(post(tgi, chat_payload(messages=messages, tools=[WEATHER], stream=True))[1])
    call_id = first["tool_calls"][0]["id"]
    assert call_id == expected if expected else len(call_id) == 36


def test_a_call_cut_by_max_tokens(tgi: ScriptedTGI) -> None:
    tgi.always(ToolUse("f", {"x": 1}))
    status, reply = post(tgi, chat_payload(tools=[WEATHER], max_tokens=5))
    assert (status, reply["error_type"]) == (422, "tool_error")
    assert reply["error"].startswith("Tool error: Failed to parse generated text")
    assert events(post(tgi, chat_payload(tools=[WEATHER], max_tokens=3, stream=True))[1]) == ["[DONE]"]
    *_, last, done = events(post(tgi, chat_payload(tools=[WEATHER], max_tokens=6, stream=True))[1])
    assert (last["choices"][0]["finish_reason"], done) == ("length", "[DONE]")


@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json_object", "value": SCHEMA},
        {"type": "json_schema", "value": {"name": "a", "schema": SCHEMA}},
    ],
)
def test_constrained_text_fits_the_schema(tgi: ScriptedTGI, wanted: dict[str, Any]) -> None:
    _, reply = post(tgi, chat_payload("Give me 7", response_format=wanted))
    assert json.loads(reply["choices"][0]["message"]["content"]) == {"n": 7}


def test_constrained_text_fits_the_regex(tgi: ScriptedTGI) -> None:
    _, reply = post(tgi, chat_payload("Is 12 even?", response_format={"type": "regex", "value": r"\d\d"}))
    assert reply["choices"][0]["message"]["content"] == "12"


class Part(BaseModel):
    kind: Literal["wheel", "door"]
    count: int = Field(gt=3, le=9)


class Car(BaseModel):
    name: str = Field(min_length=30)
    parts: list[Part] = Field(min_length=2)
    spare: Part | None
    price: float
    sold: bool
    places: dict[str, int]
    next: Car | None = None


def test_examples_satisfy_nested_schemas() -> None:
    schema = Car.model_json_schema(ref_template="#/$defs/{model}")
    schema["$defs"]["Car"] = Car.model_json_schema()["$defs"]["Car"]
    car = Car.model_validate(example(schema, "A car named 'Blue Bird' for 20.5 with a door"))
    assert (car.name.rstrip("."), car.price, car.parts[0].kind) == ("Blue Bird", 20.5, "door")
