"""How chat answers are read, whole and streamed, in every form that servers write."""

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chat_requests import ASK, OPENAI, TGI, TOOL, TOOLS, chat_request
from torouter import errors
from torouter.chat import ToolCallDelta, Usage
from torouter.endpoints.reply import ChatStream, parse_chat_reply
from torouter.endpoints.stop_sequences import cut_at
from torouter.errors import ExpertProtocolError, TruncatedReplyError

# Whole answers


def answer(message, finish="stop", **more):
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    choice = {"index": 0, "message": {"role": "assistant", **message}, "logprobs": None, "finish_reason": finish}
    return json.dumps({"model": "m", "choices": [choice], "usage": usage, **more}).encode()


@pytest.mark.parametrize(
    ("reason", "finish"),
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
def test_a_text_answer(reason, finish):
    reply = parse_chat_reply(TGI, ASK, answer({"content": "Hello"}, reason))
    assert (reply.text, reply.finish_reason, reply.usage, reply.model) == ("Hello", finish, Usage(3, 4), "m")


def test_the_answer_is_cut_at_every_stop_sequence():
    reply = parse_chat_reply(TGI, chat_request(stop=list("VWXYZ")), answer({"content": "one Z two V"}, "length"))
    assert (reply.text, reply.finish_reason) == ("one ", "stop")
    expert = replace(TGI, parameters={"stop": "\n"})
    assert parse_chat_reply(expert, ASK, answer({"content": "one\ntwo"})).text == "one"


@pytest.mark.parametrize("arguments", ['{"x": 1}', {"x": 1}], ids=["text", "object"])
def test_a_tool_call_with_arguments_as_text_or_object(arguments):
    call = {"id": "0", "type": "function", "function": {"name": "f", "arguments": arguments}}
    replies = [parse_chat_reply(TGI, TOOLS, answer({"tool_calls": [call]})) for _ in range(2)]
    (one,), (other,) = (reply.tool_calls for reply in replies)
    assert (one.name, json.loads(one.arguments), replies[0].finish_reason) == ("f", {"x": 1}, "tool_calls")
    assert one.id != other.id
    assert one.id.isalnum()
    assert len(one.id) == 9


def test_arguments_that_are_left_out_are_an_empty_object():
    for arguments in ("", None):
        reply = parse_chat_reply(
            OPENAI, TOOLS, answer({"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]})
        )
        assert reply.tool_calls[0].arguments == "{}"


@pytest.mark.parametrize("arguments", ['{"x": ', "[1]", "x"])
def test_a_cut_tool_call_is_an_error(arguments):
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(TruncatedReplyError, match="max_tokens"):
        parse_chat_reply(OPENAI, TOOLS, answer({"tool_calls": [call]}, "length"))


def test_tgis_own_tool_for_none_of_the_tools_is_a_text():
    call = {"function": {"name": "no_tool", "arguments": {"content": "Sunny."}}}
    reply = parse_chat_reply(TGI, TOOLS, answer({"tool_calls": [call]}))
    assert (reply.text, reply.tool_calls, reply.finish_reason) == ("Sunny.", (), "stop")
    own = {**TOOL, "function": {**TOOL["function"], "name": "no_tool"}}
    assert (
        parse_chat_reply(TGI, replace(TOOLS, tools=(own,)), answer({"tool_calls": [call]})).tool_calls[0].name
        == "no_tool"
    )


def test_an_empty_answer_to_a_request_for_tools_is_an_error():
    with pytest.raises(ExpertProtocolError, match="empty"):
        parse_chat_reply(TGI, TOOLS, answer({"content": ""}))
    assert parse_chat_reply(TGI, ASK, answer({"content": ""})).text == ""


def test_logprobs_come_as_they_are():
    listed = [{"token": "OK", "logprob": -0.1, "top_logprobs": []}]
    data = json.loads(answer({"content": "OK"}))
    data["choices"][0]["logprobs"] = {"content": listed}
    assert parse_chat_reply(TGI, ASK, json.dumps(data).encode()).logprobs == tuple(listed)


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
        parse_chat_reply(TGI, ASK, data)


def test_an_error_with_status_200_is_an_error():
    with pytest.raises(errors.ContextLengthError):
        parse_chat_reply(
            OPENAI, ASK, b'{"object": "error", "message": "longer than the model\'s context length", "code": 400}'
        )


# Streams


def event(delta=None, finish=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    return json.dumps({"model": "m", "choices": choices, **more}).encode()


def text_events(*texts):
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


def tool_calls_of(chunks):
    """Joins the deltas as a framework does: by index, id and name from the first."""
    calls = {}
    for delta in (delta for chunk in chunks for delta in chunk.tool_calls):
        name, arguments = calls.get(delta.index, (delta.name, ""))
        assert (delta.id is not None) == (delta.index not in calls)
        calls[delta.index] = (name, arguments + delta.arguments)
    return [(name, json.loads(arguments)) for name, arguments in calls.values()]


def test_a_text_stream():
    chunks = streamed([*text_events("", "Hel", "lo", ""), END, USAGE, DONE])
    assert [chunk.text for chunk in chunks] == ["Hel", "lo", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert [chunk.usage for chunk in chunks] == [None, None, Usage(3, 4)]
    assert {chunk.model for chunk in chunks} == {"m"}


def test_the_first_chunk_carries_something():
    stream = ChatStream(TGI, ASK)
    events = [event({"role": "assistant"}), event({}), *text_events("", ""), USAGE]
    assert [stream.feed(data) for data in events] == [None] * 5
    assert stream.feed(*text_events("x")).text == "x"


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


@pytest.mark.parametrize("events", [[], text_events("Hel", "lo"), [*text_events("Hello"), USAGE]])
def test_a_stream_that_ends_early_is_truncated(events):
    with pytest.raises(TruncatedReplyError, match="'code'"):
        streamed(events)


def test_a_finish_reason_and_the_end_of_the_body_end_a_stream_too():
    assert streamed([*text_events("Hello"), END])[-1].finish_reason == "stop"


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
    assert tool_calls_of(first) == [("f", {"x": 1})]
    assert first[-1].finish_reason == "tool_calls"
    assert first[-1].usage == Usage(3, 4)
    ids = {delta.id for chunk in (*first, *second) for delta in chunk.tool_calls if delta.id}
    assert len(ids) == 2


def test_several_calls_and_a_text_before_them():
    events = [
        *text_events("Look: "),
        piece('{"x":', "f"),
        piece("1}"),
        piece("{}", "g", index=1),
        event({}, "tool_calls"),
        DONE,
    ]
    chunks = streamed(events, TOOLS, OPENAI)
    assert text_of(chunks) == "Look: "
    assert tool_calls_of(chunks) == [("f", {"x": 1}), ("g", {})]


def test_several_calls_without_an_index():
    made = [{"tool_calls": [{"function": {"name": name, "arguments": "{}"}}]} for name in "fg"]
    assert tool_calls_of(streamed([*map(event, made), DONE], TOOLS)) == [("f", {}), ("g", {})]


def test_a_call_without_arguments_ends_as_an_empty_object():
    chunks = streamed([piece("", "f"), event({}, "tool_calls"), DONE], TOOLS, OPENAI)
    assert tool_calls_of(chunks) == [("f", {})]


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
    assert (text_of(chunks), tool_calls_of(chunks), chunks[-1].finish_reason) == ("Sunny.", [], "stop")


def test_a_first_delta_has_id_and_name_and_the_others_have_not():
    deltas = [d for chunk in streamed([piece("{", "f"), piece("}"), DONE], TOOLS) for d in chunk.tool_calls]
    assert deltas == [ToolCallDelta(0, deltas[0].id, "f", "{"), ToolCallDelta(0, None, None, "}")]


def test_a_stop_sequence_over_several_chunks_is_cut_and_never_shown():
    chunks = streamed(
        [*text_events("a", "b", "<", "en", "d>"), event({"content": ""}, "stop_sequence"), USAGE, DONE],
        chat_request(stop="<end>"),
    )
    assert text_of(chunks) == "ab"
    assert (chunks[-1].finish_reason, chunks[-1].usage) == ("stop", Usage(3, 4))


def test_what_only_looks_like_a_stop_sequence_is_returned():
    chunks = streamed([*text_events("a<", "en", "try"), *text_events("<e"), END, DONE], chat_request(stop=["<end>"]))
    assert text_of(chunks) == "a<entry<e"


def test_a_server_that_goes_on_after_a_stop_sequence_is_ended():
    stream = ChatStream(TGI, chat_request(stop=["END"]))
    assert stream.feed(*text_events("one END two")).text == "one "
    assert not stream.ended
    assert stream.feed(*text_events("three")) is None
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
    assert text_of(streamed([*text_events("x"), data, END, DONE])) == "x"


def test_a_server_that_gives_up_is_an_error():
    with pytest.raises(errors.ExpertGenerationError, match="abort"):
        streamed([*text_events("x"), event({}, "abort"), DONE])


@given(
    st.text(alphabet="ab<>", max_size=30),
    st.lists(st.text(alphabet="ab<>", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 30), max_size=8),
)
def test_a_streamed_text_is_cut_where_the_whole_one_is(text, stops, cuts):
    edges = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[a:b] for a, b in pairwise(edges)]
    chunks = streamed([*text_events(*pieces), END, DONE], chat_request(stop=stops))
    whole, cut = cut_at(tuple(stops), text)
    assert text_of(chunks) == whole
    assert cut == any(stop in text for stop in stops)
    assert not any(stop in whole for stop in stops)
    assert text.startswith(whole)
