"""The dialects, without any socket: what is sent, how answers and events are read, what errors mean."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torouter import errors
from torouter.chat import ChatRequest, ToolCallDelta, Usage
from torouter.errors import ExpertProtocolError, ExpertRequestError, TruncatedReplyError
from torouter.experts import Expert
from torouter.tgi.faults import error_from_response, error_in_answer
from torouter.tgi.generation import GenerationStream, generation, server_info, server_info_of_models
from torouter.tgi.reply import ChatStream, chat_reply
from torouter.tgi.request import chat_body, encoded, generate_body
from torouter.tgi.stops import cut_at

TGI = Expert(name="code", url="http://127.0.0.1:1")
OPENAI = Expert(name="open", url="http://127.0.0.1:1", api="openai", model="served/model")
USER = {"role": "user", "content": "Hi"}
ASK = ChatRequest((USER,))
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
TOOLS = ChatRequest((USER,), tools=(TOOL,))
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}


def ask(**parameters):
    return ChatRequest((USER,), parameters)


def body(expert, request, *, stream=False):
    return json.loads(encoded(expert, chat_body(expert, request, stream=stream)))


# What is sent


def test_a_plain_request_to_tgi():
    assert body(TGI, ASK) == {"model": "tgi", "messages": [USER], "max_tokens": 1024}


def test_a_stream_asks_for_usage():
    sent = body(TGI, ASK, stream=True)
    assert sent["stream"] is True
    assert sent["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("expert", "model"),
    [
        (TGI, "tgi"),
        (replace(TGI, model="meta/llama"), "tgi"),  # TGI would take it for an adapter
        (replace(TGI, adapter="lora"), "lora"),
        (OPENAI, "served/model"),
        (replace(OPENAI, adapter="lora"), "lora"),
        (replace(OPENAI, model=None), None),
    ],
)
def test_the_model_that_is_named(expert, model):
    assert body(expert, ASK).get("model") == model


def test_tgi_gets_only_parameters_that_it_takes_as_they_are_meant():
    given = {"presence_penalty": 0, "logit_bias": {"5": 1}, "top_k": 5, "user": "u", "parallel_tool_calls": False}
    kept = {"temperature": 0.5, "max_tokens": 7, "top_p": 0.9, "seed": 3, "frequency_penalty": 1.0, "logprobs": True}
    sent = body(TGI, ask(**given, **kept, top_logprobs=2, n=1, stop="END"))
    assert sent == {"model": "tgi", "messages": [USER], **kept, "top_logprobs": 2, "stop": ["END"]}


def test_other_servers_get_every_parameter():
    sent = body(OPENAI, ask(presence_penalty=0, top_k=5, top_p=1.0, seed=-1))
    assert (sent["presence_penalty"], sent["top_k"], sent["top_p"], sent["seed"]) == (0, 5, 1.0, -1)


@pytest.mark.parametrize(("top_p", "sent"), [(1.0, {}), (1, {}), (0.5, {"top_p": 0.5}), (0, {"temperature": 0})])
def test_top_p_is_sent_to_tgi_inside_of_its_range_only(top_p, sent):
    got = body(TGI, ask(top_p=top_p))
    assert {key: got[key] for key in ("top_p", "temperature") if key in got} == sent


def test_a_negative_seed_is_no_seed_for_tgi():
    assert "seed" not in body(TGI, ask(seed=-1))


def test_only_four_stops_are_sent_to_tgi():
    assert body(TGI, ask(stop=list("abcdef")))["stop"] == ["a", "b", "c", "d"]
    assert body(OPENAI, ask(stop=list("abcdef")))["stop"] == list("abcdef")
    assert "stop" not in body(TGI, ask(stop=[]))
    with pytest.raises(ExpertRequestError, match="stop"):
        body(TGI, ask(stop=[3]))


def test_no_null_is_sent():
    message = {"role": "user", "content": "Hi", "name": None}
    sent = body(TGI, ChatRequest((message,), {"temperature": None, "seed": None}))
    assert sent == {"model": "tgi", "messages": [USER], "max_tokens": 1024}


@pytest.mark.parametrize(
    ("window", "tools", "limit"), [(None, False, 1024), (32768, False, 1024), (1000, False, 500), (300, True, 256)]
)
def test_a_limit_of_tokens_is_always_sent(window, tools, limit):
    assert body(replace(TGI, context_window=window), TOOLS if tools else ASK)["max_tokens"] == limit


def test_the_requests_parameters_win_over_the_experts():
    expert = replace(TGI, parameters={"temperature": 0.2, "max_tokens": 9, "seed": 1})
    sent = body(expert, ask(max_completion_tokens=5, temperature=0, seed=None))
    assert (sent["temperature"], sent["max_tokens"], sent["seed"]) == (0, 5, 1)
    assert "max_completion_tokens" not in sent


def test_more_than_one_answer_is_refused():
    with pytest.raises(ExpertRequestError, match=r"'open'.*n:"):
        body(OPENAI, ask(n=2))


EXAMPLES = ({"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"})
SYSTEM = {"role": "system", "content": "Be brief."}
OTHER_SYSTEM = {"role": "system", "content": "Speak Latin."}


def test_the_prefix_stands_before_the_messages():
    assert body(replace(TGI, prefix=(SYSTEM, *EXAMPLES)), ASK)["messages"] == [SYSTEM, *EXAMPLES, USER]


def test_two_system_messages_become_one():
    sent = body(replace(TGI, prefix=(SYSTEM, *EXAMPLES)), ChatRequest((OTHER_SYSTEM, USER)))["messages"]
    assert sent == [{"role": "system", "content": "Be brief.\n\nSpeak Latin."}, *EXAMPLES, USER]


def test_a_system_message_stays_before_the_examples():
    sent = body(replace(TGI, prefix=EXAMPLES), ChatRequest((SYSTEM, USER)))["messages"]
    assert sent == [SYSTEM, *EXAMPLES, USER]


def test_system_messages_in_parts_are_joined_as_parts():
    parts = {"role": "system", "content": [{"type": "text", "text": "Speak Latin."}]}
    sent = body(replace(TGI, prefix=(SYSTEM,)), ChatRequest((parts, USER)))["messages"]
    assert sent[0]["content"] == [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Speak Latin."}]


def test_images_pass():
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    message = {"role": "user", "content": [{"type": "text", "text": "What?"}, picture]}
    assert body(TGI, ChatRequest((message,)))["messages"] == [message]


@pytest.mark.parametrize("content", ["", None, "Let me look."])
def test_no_content_goes_to_tgi_beside_tool_calls(content):
    call = {"id": 7, "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
    history = (USER, {"role": "assistant", "content": content, "tool_calls": [call]})
    sent = body(TGI, ChatRequest((*history, {"role": "tool", "tool_call_id": "7", "content": "42"})))["messages"]
    assert sent[1] == {
        "role": "assistant",
        "tool_calls": [{**call, "id": "7", "function": {**call["function"], "arguments": '{"x": 1}'}}],
    }
    assert sent[2] == {"role": "tool", "tool_call_id": "7", "content": "42"}
    assert body(OPENAI, ChatRequest(history))["messages"][1].get("content") == (content or None)


def test_an_empty_assistant_message_keeps_a_content():
    sent = body(TGI, ChatRequest((USER, {"role": "assistant", "content": None, "tool_calls": []})))
    assert sent["messages"][1] == {"role": "assistant", "content": ""}


def test_tools_are_sent_only_where_there_are_some():
    assert not {"tools", "tool_choice"} & body(TGI, replace(TOOLS, tools=(), tool_choice="auto")).keys()
    assert body(TGI, TOOLS)["tools"] == [TOOL]
    assert "tool_choice" not in body(TGI, TOOLS)


def test_a_tool_without_parameters_gets_empty_ones():
    tool = {"type": "function", "function": {"name": "now", "description": "The time"}}
    (sent,) = body(TGI, replace(TOOLS, tools=(tool,)))["tools"]
    assert sent["function"]["parameters"] == {"type": "object", "properties": {}}
    assert "parameters" not in tool["function"]


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ("any", "required"),
        ("f", {"type": "function", "function": {"name": "f"}}),
        ({"type": "function", "function": {"name": "f"}}, {"type": "function", "function": {"name": "f"}}),
    ],
)
@pytest.mark.parametrize("expert", [TGI, OPENAI], ids=["tgi", "openai"])
def test_the_choice_of_a_tool(expert, choice, sent):
    assert body(expert, replace(TOOLS, tool_choice=choice))["tool_choice"] == sent


def test_tgi_gets_no_tools_that_must_not_be_called():
    assert "tools" not in body(TGI, replace(TOOLS, tool_choice="none"))
    assert body(OPENAI, replace(TOOLS, tool_choice="none"))["tool_choice"] == "none"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, {"type": "json", "value": SCHEMA}),
        ({"type": "json_object", "schema": SCHEMA}, {"type": "json", "value": SCHEMA}),
        ({"type": "json_object", "value": SCHEMA}, {"type": "json_object", "value": SCHEMA}),
        ({"type": "regex", "value": "[0-9]+"}, {"type": "regex", "value": "[0-9]+"}),
        ({"type": "json_object"}, None),
        ({"type": "text"}, None),
    ],
)
def test_the_response_format_in_tgis_form(given, sent):
    assert body(TGI, replace(ASK, response_format=given)).get("response_format") == sent
    assert body(OPENAI, replace(ASK, response_format=given))["response_format"] == given


@pytest.mark.parametrize(
    "given", [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}]
)
def test_a_response_format_that_can_not_be_sent_to_tgi(given):
    with pytest.raises(ExpertRequestError, match="response_format"):
        body(TGI, replace(ASK, response_format=given))


def test_tools_and_a_response_format_are_refused_before_sending():
    both = replace(TOOLS, response_format={"type": "json_schema", "json_schema": {"schema": SCHEMA}})
    with pytest.raises(ExpertRequestError, match="response_format beside tools"):
        body(TGI, both)
    assert {"tools", "response_format"} <= body(OPENAI, both).keys()
    assert "tools" not in body(TGI, replace(both, tool_choice="none"))


@pytest.mark.parametrize("value", [float("nan"), object(), "\ud800"], ids=["nan", "object", "surrogate"])
def test_what_json_can_not_carry_is_refused(value):
    message = {"role": "user", "content": ["secret words", value]}
    with pytest.raises(ExpertRequestError, match=r"'code'.*JSON") as caught:
        body(TGI, ChatRequest((message,)))
    assert "secret" not in str(caught.value)


def test_a_prompt_for_generate():
    expert = replace(TGI, parameters={"temperature": 0.3, "max_tokens": 5, "logprobs": True}, prefix=(SYSTEM,))
    sent = generate_body(expert, "Once", {})
    assert sent["inputs"] == "Once"
    assert sent["parameters"] == {
        "max_new_tokens": 5,
        "temperature": 0.3,
        "do_sample": True,
        "details": True,
        "return_full_text": False,
    }


def test_temperature_zero_is_greedy_for_generate():
    sent = generate_body(replace(TGI, adapter="lora"), "Once", {"temperature": 0, "top_p": 1.0, "stop": "x"})
    assert sent["parameters"] == {
        "max_new_tokens": 1024,
        "do_sample": False,
        "details": True,
        "return_full_text": False,
        "stop": ["x"],
        "adapter_id": "lora",
    }


# Whole answers


def answer(message, finish="stop", **more):
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish}
    return json.dumps({"model": "m", "choices": [choice], "usage": usage, **more}).encode()


@pytest.mark.parametrize(
    ("told", "finish"),
    [
        ("stop", "stop"),
        ("eos_token", "stop"),
        ("stop_sequence", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "stop"),  # without any call
        (None, "stop"),
    ],
)
def test_a_text_answer(told, finish):
    reply = chat_reply(TGI, ASK, answer({"content": "Hello"}, told))
    assert (reply.text, reply.finish_reason, reply.usage, reply.model) == ("Hello", finish, Usage(3, 4), "m")


def test_the_answer_is_cut_at_every_stop_text():
    reply = chat_reply(TGI, ask(stop=list("VWXYZ")), answer({"content": "one Z two V"}, "length"))
    assert (reply.text, reply.finish_reason) == ("one ", "stop")
    expert = replace(TGI, parameters={"stop": "\n"})
    assert chat_reply(expert, ASK, answer({"content": "one\ntwo"})).text == "one"


@pytest.mark.parametrize("arguments", ['{"x": 1}', {"x": 1}], ids=["text", "object"])
def test_a_tool_call_with_arguments_as_text_or_object(arguments):
    call = {"id": "0", "type": "function", "function": {"name": "f", "arguments": arguments}}
    replies = [chat_reply(TGI, TOOLS, answer({"tool_calls": [call]})) for _ in range(2)]
    (one,), (other,) = (reply.tool_calls for reply in replies)
    assert (one.name, json.loads(one.arguments), replies[0].finish_reason) == ("f", {"x": 1}, "tool_calls")
    assert one.id != other.id
    assert one.id.isalnum()
    assert len(one.id) == 9


def test_arguments_that_are_left_out_are_an_empty_object():
    for arguments in ("", None):
        reply = chat_reply(OPENAI, TOOLS, answer({"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}))
        assert reply.tool_calls[0].arguments == "{}"


@pytest.mark.parametrize("arguments", ['{"x": ', "[1]", "x"])
def test_a_cut_tool_call_is_an_error(arguments):
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(TruncatedReplyError, match="max_tokens"):
        chat_reply(OPENAI, TOOLS, answer({"tool_calls": [call]}, "length"))


def test_tgis_own_tool_for_none_of_them_is_a_text():
    call = {"function": {"name": "no_tool", "arguments": {"content": "Sunny."}}}
    reply = chat_reply(TGI, TOOLS, answer({"tool_calls": [call]}))
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ("Sunny.", (), "stop")
    own = {**TOOL, "function": {**TOOL["function"], "name": "no_tool"}}
    assert chat_reply(TGI, replace(TOOLS, tools=(own,)), answer({"tool_calls": [call]})).tool_calls[0].name == "no_tool"


def test_an_empty_answer_to_a_request_for_tools_is_an_error():
    with pytest.raises(ExpertProtocolError, match="empty"):
        chat_reply(TGI, TOOLS, answer({"content": ""}))
    assert chat_reply(TGI, ASK, answer({"content": ""})).text == ""


def test_logprobs_come_as_they_are():
    listed = [{"token": "OK", "logprob": -0.1, "top_logprobs": []}]
    data = json.loads(answer({"content": "OK"}))
    data["choices"][0]["logprobs"] = {"content": listed}
    assert chat_reply(TGI, ASK, json.dumps(data).encode()).logprobs == tuple(listed)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"OK",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [3]}',
        b'{"choices": [{"message": 3}]}',
        b"[" * 100_000,
        b"\xff",
    ],
)
def test_an_answer_of_another_shape_is_a_protocol_error(data):
    with pytest.raises(ExpertProtocolError, match="'code'"):
        chat_reply(TGI, ASK, data)


def test_an_error_with_status_200_is_an_error():
    with pytest.raises(errors.ContextLengthError):
        chat_reply(
            OPENAI, ASK, b'{"object": "error", "message": "longer than the model\'s context length", "code": 400}'
        )


# Streams


def event(delta=None, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return json.dumps({"model": "m", "choices": choices, **more}).encode()


def say(*texts):
    return [event({"role": "assistant", "content": text}) for text in texts]


END = event({"content": ""}, "stop")
USAGE = event(usage={"prompt_tokens": 3, "completion_tokens": 4})
DONE = b"[DONE]"


def streamed(events, request=ASK, expert=TGI):
    stream = ChatStream(expert, request)
    chunks = []
    for data in events:
        chunk = stream.feed(data)
        if chunk is not None:
            chunks.append(chunk)
        if stream.ended:
            break
    return [*chunks, stream.close()]


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


def calls_of(chunks):
    """Joins the deltas as a framework does: by index, id and name from the first."""
    calls = {}
    for delta in (delta for chunk in chunks for delta in chunk.tool_calls):
        name, arguments = calls.get(delta.index, (delta.name, ""))
        assert (delta.id is not None) == (delta.index not in calls)
        calls[delta.index] = (name, arguments + delta.arguments)
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


def test_a_text_stream():
    chunks = streamed([*say("", "Hel", "lo", ""), END, USAGE, DONE])
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert [chunk.usage for chunk in chunks] == [None, None, Usage(3, 4)]
    assert {chunk.model for chunk in chunks} == {"m"}


def test_the_first_chunk_carries_something():
    stream = ChatStream(TGI, ASK)
    assert [stream.feed(data) for data in [event({"role": "assistant"}), event({}), *say("", ""), USAGE]] == [None] * 5
    assert stream.feed(*say("x")).text == "x"


def test_usage_that_comes_with_every_event_is_given_once():
    chunks = streamed(
        [event({"content": "x"}, usage={"prompt_tokens": 3, "completion_tokens": n}) for n in (1, 2)] + [END, DONE]
    )
    assert [chunk.usage for chunk in chunks] == [None, None, Usage(3, 2)]


def test_logprobs_of_swallowed_tokens_come_with_the_next_chunk():
    def with_logprobs(text, finish=None):
        data = json.loads(event({"content": text}, finish))
        data["choices"][0]["logprobs"] = {"content": [{"token": text or "<eos>"}]}
        return json.dumps(data).encode()

    chunks = streamed([with_logprobs(""), with_logprobs("x"), with_logprobs("", "stop"), DONE])
    assert [[entry["token"] for entry in chunk.logprobs] for chunk in chunks] == [["<eos>", "x"], ["<eos>"]]


@pytest.mark.parametrize("events", [[], say("Hel", "lo"), [*say("Hello"), USAGE]])
def test_a_stream_that_ends_early_is_truncated(events):
    with pytest.raises(TruncatedReplyError, match="'code'"):
        streamed(events)


def test_a_finish_reason_and_the_end_of_the_body_end_a_stream_too():
    assert streamed([*say("Hello"), END])[-1].finish_reason == "stop"


@pytest.mark.parametrize("request_", [ASK, TOOLS], ids=["text", "tools"])
def test_nothing_but_done_is_an_error(request_):
    with pytest.raises(ExpertProtocolError, match="empty"):
        streamed([DONE], request_)


def test_an_empty_text_is_an_answer_but_not_to_a_request_for_tools():
    assert text_of(streamed([END, DONE])) == ""
    with pytest.raises(ExpertProtocolError, match="empty"):
        streamed([END, DONE], TOOLS)


def piece(arguments, name=None, index=0, call_id="0", **more):
    function = {"name": name, "arguments": arguments}
    return event({"tool_calls": [{"index": index, "id": call_id, "type": "function", "function": function}]}, **more)


OLD = ['{"function": {"_name": "f", ', '"x": ', "1}", "}", "<|eot_id|>"]


def old_form(pieces, finish="eos_token"):
    made = [
        {"index": 0, "id": "", "type": "function", "function": {"name": None, "arguments": text}} for text in pieces
    ]
    return [event({"tool_calls": call}, finish if call is made[-1] else None) for call in made]


@pytest.mark.parametrize(
    "events",
    [
        [piece("{", "f"), piece(' "'), piece("x"), piece('": 1'), piece("}")],
        [piece('{"x": 1}', "f", finish="length")],
        [
            event({"role": "assistant", "content": ""}),
            piece("", "f"),
            piece('{"x": 1}', call_id=None),
            event({}, "tool_calls"),
        ],
        [event({"tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]})],
        old_form(OLD),
        [event({"tool_calls": {"function": {"name": "f", "arguments": '{"x": 1}'}}})],
    ],
    ids=["tgi 3.2", "whole", "openai", "an object, no index", "tgi 3.1", "one object"],
)
def test_a_tool_call_in_every_streamed_form(events):
    first, second = (streamed([*events, USAGE, DONE], TOOLS) for _ in range(2))
    assert calls_of(first) == [("f", {"x": 1})]
    assert first[-1].finish_reason == "tool_calls"
    assert first[-1].usage == Usage(3, 4)
    ids = {delta.id for chunk in (*first, *second) for delta in chunk.tool_calls if delta.id}
    assert len(ids) == 2


def test_several_calls_and_a_text_before_them():
    events = [
        *say("Look: "),
        piece('{"x":', "f"),
        piece("1}"),
        piece("{}", "g", index=1),
        event({}, "tool_calls"),
        DONE,
    ]
    chunks = streamed(events, TOOLS, OPENAI)
    assert text_of(chunks) == "Look: "
    assert calls_of(chunks) == [("f", {"x": 1}), ("g", {})]


def test_several_calls_without_an_index():
    made = [{"tool_calls": [{"function": {"name": name, "arguments": "{}"}}]} for name in "fg"]
    assert calls_of(streamed([*map(event, made), DONE], TOOLS)) == [("f", {}), ("g", {})]


def test_a_call_without_arguments_ends_as_an_empty_object():
    chunks = streamed([piece("", "f"), event({}, "tool_calls"), DONE], TOOLS, OPENAI)
    assert calls_of(chunks) == [("f", {})]


@pytest.mark.parametrize(
    "events", [[piece("{", "f"), piece(' "x', finish="length")], [piece("{", "f")], old_form(OLD[:2], "length")]
)
def test_a_cut_tool_call_in_a_stream_is_an_error(events):
    with pytest.raises(TruncatedReplyError, match="max_tokens"):
        streamed([*events, DONE], TOOLS)


def test_a_tool_call_without_done_is_truncated():
    with pytest.raises(TruncatedReplyError):
        streamed([piece('{"x": 1}', "f")], TOOLS)


def test_a_call_without_a_name_is_an_error():
    with pytest.raises(ExpertProtocolError, match="without naming"):
        streamed([piece("{}"), DONE], TOOLS)


def test_no_tool_in_the_old_form_is_a_text():
    events = old_form(['{"function": {"_name": "no_tool", "content": "Sun', 'ny."}}', "</s>"])
    chunks = streamed([*events, DONE], TOOLS)
    assert (text_of(chunks), calls_of(chunks), chunks[-1].finish_reason) == ("Sunny.", [], "stop")


def test_a_first_delta_has_id_and_name_and_the_others_have_not():
    deltas = [d for chunk in streamed([piece("{", "f"), piece("}"), DONE], TOOLS) for d in chunk.tool_calls]
    assert deltas == [ToolCallDelta(0, deltas[0].id, "f", "{"), ToolCallDelta(0, None, None, "}")]


def test_a_stop_text_over_several_chunks_is_cut_and_never_shown():
    chunks = streamed(
        [*say("a", "b", "<", "en", "d>"), event({"content": ""}, "stop_sequence"), USAGE, DONE], ask(stop="<end>")
    )
    assert text_of(chunks) == "ab"
    assert (chunks[-1].finish_reason, chunks[-1].usage) == ("stop", Usage(3, 4))


def test_what_only_looked_like_a_stop_text_is_given_out():
    chunks = streamed([*say("a<", "en", "try"), *say("<e"), END, DONE], ask(stop=["<end>"]))
    assert text_of(chunks) == "a<entry<e"


def test_a_server_that_goes_on_after_a_stop_text_is_left():
    stream = ChatStream(TGI, ask(stop=["END"]))
    assert stream.feed(*say("one END two")).text == "one "
    assert not stream.ended
    assert stream.feed(*say("three")) is None
    assert (stream.ended, stream.done) == (True, False)
    assert (stream.close().finish_reason, stream.partial_text) == ("stop", "one ")


@pytest.mark.parametrize("data", [b"not json", b"[1]", b'"x"'])
def test_an_event_that_is_no_object_is_a_protocol_error(data):
    with pytest.raises(ExpertProtocolError):
        streamed([data])


@pytest.mark.parametrize(
    "data",
    [
        b'{"choices": 3}',
        b'{"choices": [null]}',
        b'{"choices": [{"delta": 3}]}',
        b'{"choices":[{"delta":{"content":4}}]}',
    ],
)
def test_an_event_of_unknown_shape_is_passed_over(data):
    assert text_of(streamed([*say("x"), data, END, DONE])) == "x"


def test_a_server_that_gives_up_is_an_error():
    with pytest.raises(errors.ExpertGenerationError, match="abort"):
        streamed([*say("x"), event({}, "abort"), DONE])


@given(
    st.text(alphabet="ab<>", max_size=30),
    st.lists(st.text(alphabet="ab<>", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 30), max_size=8),
)
def test_a_streamed_text_is_cut_where_the_whole_one_is(text, stops, cuts):
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    chunks = streamed([*say(*pieces), END, DONE], ask(stop=stops))
    whole, cut = cut_at(tuple(stops), text)
    assert text_of(chunks) == whole
    assert cut == any(stop in text for stop in stops)
    assert not any(stop in whole for stop in stops)
    assert text.startswith(whole)


# /generate, /info


def token(text, special=False, **more):
    told = {"id": 1, "text": text, "logprob": -0.5, "special": special}
    return json.dumps({"index": 1, "token": told, "generated_text": None, "details": None, **more}).encode()


def test_a_generation_with_details():
    details = {
        "finish_reason": "eos_token",
        "generated_tokens": 2,
        "prefill": [{"id": 5, "text": "Hi", "logprob": None}],
    }
    details["tokens"] = [{"id": 1, "text": " a", "logprob": -0.1, "special": False}]
    data = json.dumps({"generated_text": " a", "details": details}).encode()
    for form in (data, b"[" + data + b"]"):
        got = generation("code", (), form)
        assert (got.text, got.finish_reason, got.generated_tokens) == (" a", "stop", 2)
        assert (got.tokens[0]["text"], got.prefill[0]["text"]) == (" a", "Hi")


def test_a_generation_is_cut_at_a_stop_text():
    assert generation("code", ("X",), b'{"generated_text": "a X"}').text == "a "


def test_a_generation_stream():
    stream = GenerationStream("code", ())
    last = token("</s>", special=True, generated_text="a b", details={"finish_reason": "length", "generated_tokens": 3})
    steps = [step for data in (token("a"), token(" b"), last) if (step := stream.feed(data))]
    end = stream.close()
    assert [step.text for step in (*steps, end)] == ["a", " b", ""]
    assert (end.finish_reason, end.generated_tokens, len(end.tokens)) == ("length", 3, 1)


def test_a_generation_stream_without_its_end_is_truncated():
    stream = GenerationStream("code", ())
    stream.feed(token("a"))
    with pytest.raises(TruncatedReplyError):
        stream.close()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (
            b'{"error": "Incomplete generation stream", "error_type": "incomplete_generation_stream"}',
            errors.ExpertGenerationError,
        ),
        (b'{"choices": []}', ExpertProtocolError),
    ],
)
def test_an_error_in_a_generation_stream(data, kind):
    with pytest.raises(kind):
        GenerationStream("code", ()).feed(data)


@pytest.mark.parametrize("key", ["max_input_tokens", "max_input_length"])
def test_info_in_both_styles(key):
    told = {"model_id": "m", "version": "3.3.6", key: 10, "max_total_tokens": 20, "max_concurrent_requests": 128}
    info = server_info("code", json.dumps(told).encode())
    assert (info.model_id, info.version, info.max_input_tokens, info.max_total_tokens) == ("m", "3.3.6", 10, 20)
    assert (info.max_concurrent_requests, info.raw) == (128, told)


def test_info_of_servers_that_list_models():
    listed = b'{"object": "list", "data": [{"id": "a"}, {"id": "b", "max_model_len": 4096}]}'
    assert server_info_of_models("code", "b", listed).max_total_tokens == 4096
    assert server_info_of_models("code", None, listed).model_id == "a"
    with pytest.raises(ExpertProtocolError, match="no model"):
        server_info_of_models("code", None, b'{"data": []}')


# Errors


def tgi_error(text, error_type="validation"):
    return json.dumps({"error": text, "error_type": error_type})


LONG = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 4000 `inputs` tokens and 500"


def other_error(message, **more):
    """vLLM's and llama.cpp's form; SGLang's is the same without the outer object."""
    return json.dumps({"error": {"message": message, **more}})


REFUSALS = [
    # TGI
    (422, tgi_error("Input validation error: `temperature` must be strictly positive"), "ExpertRequestError"),
    (422, tgi_error(LONG), "ContextLengthError"),
    (422, tgi_error("Input validation error: `inputs` must have less than 9 tokens. Given: 11"), "ContextLengthError"),
    (422, tgi_error("Template error: no template", "template_error"), "ExpertRequestError"),
    (422, tgi_error("Tool error: Tool with name x not found", "tool_error"), "ExpertRequestError"),
    (422, tgi_error("Tool error: Failed to parse generated text: EOF", "tool_error"), "TruncatedReplyError"),
    (424, tgi_error("Request failed during generation: Server error: OOM", "generation"), "ExpertGenerationError"),
    (429, tgi_error("Model is overloaded", "overloaded"), "ExpertOverloadedError"),
    (500, tgi_error("Incomplete generation", "incomplete_generation"), "ExpertGenerationError"),
    (503, tgi_error("unhealthy", "healthcheck"), "ExpertServerError"),
    (400, "Failed to parse the request body as JSON: EOF", "ExpertRequestError"),
    (413, "Failed to buffer the request body: length limit exceeded", "ContextLengthError"),
    (415, "Expected request with `Content-Type: application/json`", "ExpertRequestError"),
    (422, "Failed to deserialize the JSON body into the target type: stop: invalid type", "ExpertRequestError"),
    (401, "", "ExpertAuthenticationError"),
    (403, "", "ExpertPermissionError"),
    (404, "", "ExpertNotFoundError"),
    (405, "", "ExpertNotFoundError"),
    # proxies
    (408, "", "ExpertTimeoutError"),
    (502, "<html>Bad Gateway</html>", "ExpertServerError"),
    (503, "", "ExpertServerError"),
    (504, "upstream timed out", "ExpertServerError"),
    # vLLM
    (400, other_error("This model's maximum context length is 10 tokens.", code=400), "ContextLengthError"),
    (400, other_error("The prompt is longer than the maximum model length of 8."), "ContextLengthError"),
    (404, other_error("The model `x` does not exist.", type="NotFoundError", code=404), "ExpertNotFoundError"),
    (401, '{"error":"Unauthorized"}', "ExpertAuthenticationError"),
    # SGLang
    (400, '{"object":"error","message":"longer than the model\'s context length (8 tokens)."}', "ContextLengthError"),
    (400, '{"object":"error","message":"bad","type":"BadRequestError","code":400}', "ExpertRequestError"),
    # llama.cpp
    (400, other_error("too large", code=400, type="exceed_context_size_error"), "ContextLengthError"),
    (503, other_error("Loading model", code=503, type="unavailable_error"), "ExpertServerError"),
    # transformers serve
    (422, '{"detail":"Unexpected keys in the request"}', "ExpertRequestError"),
    (422, '{"detail":[{"loc":["body"],"msg":"bad"}]}', "ExpertRequestError"),
    # whatever else
    (204, "", "ExpertProtocolError"),
    (418, "[" * 100_000, "ExpertRequestError"),
    (500, "null", "ExpertServerError"),
]


@pytest.mark.parametrize(("status", "text", "kind"), REFUSALS)
def test_a_refusal_by_its_status(status, text, kind):
    error = error_from_response("code", status, text.encode(), {})
    assert type(error) is getattr(errors, kind)
    assert (error.expert, error.status) == ("code", status)
    assert error.body == text[:2000]
    assert "'code'" in str(error)
    assert str(status) in str(error)


def test_what_tgi_says_stands_in_the_message():
    error = error_from_response("code", 422, tgi_error(LONG).encode(), {})
    assert "must be <= 4096" in str(error)
    assert error.error_type == "validation"
    wrong = (
        b'Failed to deserialize the JSON body into the target type: messages[0].content: invalid type: string "secret"'
    )
    assert "messages[0].content" in str(error_from_response("code", 422, wrong, {}))


@pytest.mark.parametrize(
    "text",
    [
        '{"detail":[{"loc":["body","messages"],"input":"secret prompt"}]}',
        '{"error":{"message":"bad input: secret prompt","type":"x"}}',
        tgi_error('Tool error: Failed to parse generated text: EOF "secret prompt"', "tool_error"),
        'Failed to deserialize the JSON body into the target type: seed: invalid type: string "secret prompt"',
        "<html>secret prompt</html>",
    ],
)
def test_what_may_quote_the_prompt_is_kept_out_of_the_message(text):
    error = error_from_response("code", 422, text.encode(), {})
    assert "secret" not in str(error)
    assert "secret" in error.body


def test_a_redirect_names_the_host_and_nothing_more():
    error = error_from_response("code", 307, b"", {"Location": "https://u:pw@other.example/x?token=secret"})
    assert type(error) is errors.ExpertNotFoundError
    assert "https://other.example" in str(error)
    assert "secret" not in str(error)
    assert "pw" not in str(error)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        *[
            ({"error": {"message": text, "http_status_code": 422}}, kind)
            for text, kind in [
                ("Model is overloaded", "ExpertOverloadedError"),
                (LONG, "ContextLengthError"),
                ("Input validation error: `top_p` must be > 0.0 and < 1.0", "ExpertRequestError"),
                ("Request failed during generation: Server error: OOM", "ExpertGenerationError"),
                ("Incomplete generation stream", "ExpertGenerationError"),
                ("Tool error: Failed to parse generated text", "TruncatedReplyError"),
                ("something new", "ExpertServerError"),
            ]
        ],
        ({"error": "Model is overloaded", "error_type": "overloaded"}, "ExpertOverloadedError"),
        ({"error": "Request failed during generation: x", "error_type": "generation"}, "ExpertGenerationError"),
        ({"error": {"message": "bad", "type": "BadRequestError", "code": 400}}, "ExpertRequestError"),
        ({"error": {"message": "maximum context length is 8", "code": "400"}}, "ContextLengthError"),
        ({"error": {"code": 500, "message": "oops", "type": "server_error"}}, "ExpertServerError"),
        ({"error": "CUDA error"}, "ExpertServerError"),
        ({"error": {}}, "ExpertServerError"),
        ({"error": [1]}, "ExpertServerError"),
    ],
)
def test_an_error_in_a_stream_by_its_text(value, kind):
    error = error_in_answer("code", value)
    assert type(error) is getattr(errors, kind)
    assert (error.expert, error.status) == ("code", None)
    assert "None" not in str(error)
