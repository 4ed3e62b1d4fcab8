"""What is sent: a request in the dialect of the expert's server, and nothing that it would refuse or misread."""

import json
from dataclasses import replace

import pytest

from tests.support.chat_requests import ASK, OPENAI, SCHEMA, TGI, TOOL, TOOLS, USER, chat_request
from torouter.chat import ChatRequest
from torouter.endpoints.request import chat_body, encode_body, generate_body
from torouter.errors import ExpertRequestError


def body(expert, request, *, stream=False):
    return json.loads(encode_body(expert, chat_body(expert, request, stream=stream)))


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
    dropped = {"presence_penalty": 0, "logit_bias": {"5": 1}, "top_k": 5, "user": "u", "parallel_tool_calls": False}
    kept = {"temperature": 0.5, "max_tokens": 7, "top_p": 0.9, "seed": 3, "frequency_penalty": 1.0, "logprobs": True}
    sent = body(TGI, chat_request(**dropped, **kept, top_logprobs=2, n=1, stop="END"))
    assert sent == {"model": "tgi", "messages": [USER], **kept, "top_logprobs": 2, "stop": ["END"]}


def test_other_servers_get_every_parameter():
    sent = body(OPENAI, chat_request(presence_penalty=0, top_k=5, top_p=1.0, seed=-1))
    assert (sent["presence_penalty"], sent["top_k"], sent["top_p"], sent["seed"]) == (0, 5, 1.0, -1)


@pytest.mark.parametrize(("top_p", "sent"), [(1.0, {}), (1, {}), (0.5, {"top_p": 0.5}), (0, {"temperature": 0})])
def test_top_p_is_sent_to_tgi_inside_of_its_range_only(top_p, sent):
    got = body(TGI, chat_request(top_p=top_p))
    assert {key: got[key] for key in ("top_p", "temperature") if key in got} == sent


def test_a_negative_seed_is_no_seed_for_tgi():
    assert "seed" not in body(TGI, chat_request(seed=-1))


def test_only_four_stop_sequences_are_sent_to_tgi():
    assert body(TGI, chat_request(stop=list("abcdef")))["stop"] == ["a", "b", "c", "d"]
    assert body(OPENAI, chat_request(stop=list("abcdef")))["stop"] == list("abcdef")
    assert "stop" not in body(TGI, chat_request(stop=[]))
    with pytest.raises(ExpertRequestError, match="stop"):
        body(TGI, chat_request(stop=[3]))


def test_no_null_is_sent():
    message = {"role": "user", "content": "Hi", "name": None}
    sent = body(TGI, ChatRequest((message,), {"temperature": None, "seed": None}))
    assert sent == {"model": "tgi", "messages": [USER], "max_tokens": 1024}


@pytest.mark.parametrize(
    ("window", "tools", "limit"), [(None, False, 1024), (32768, False, 1024), (1000, False, 500), (300, True, 256)]
)
def test_a_limit_of_tokens_is_always_sent(window, tools, limit):
    assert body(replace(TGI, context_window=window), TOOLS if tools else ASK)["max_tokens"] == limit


def test_the_requests_parameters_override_the_experts():
    expert = replace(TGI, parameters={"temperature": 0.2, "max_tokens": 9, "seed": 1})
    sent = body(expert, chat_request(max_completion_tokens=5, temperature=0, seed=None))
    assert (sent["temperature"], sent["max_tokens"], sent["seed"]) == (0, 5, 1)
    assert "max_completion_tokens" not in sent


def test_more_than_one_answer_is_refused():
    with pytest.raises(ExpertRequestError, match=r"'open'.*n:"):
        body(OPENAI, chat_request(n=2))


EXAMPLES = ({"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"})
SYSTEM = {"role": "system", "content": "Be brief."}
OTHER_SYSTEM = {"role": "system", "content": "Speak Latin."}


def test_the_prefix_precedes_the_messages():
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
    assert "tool_choice" not in body(TGI, replace(TOOLS, tool_choice=None))


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
    ("response_format", "sent"),
    [
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}, {"type": "json", "value": SCHEMA}),
        ({"type": "json_object", "schema": SCHEMA}, {"type": "json", "value": SCHEMA}),
        ({"type": "json_object", "value": SCHEMA}, {"type": "json_object", "value": SCHEMA}),
        ({"type": "regex", "value": "[0-9]+"}, {"type": "regex", "value": "[0-9]+"}),
        ({"type": "json_object"}, None),
        ({"type": "text"}, None),
    ],
)
def test_the_response_format_in_tgis_form(response_format, sent):
    assert body(TGI, replace(ASK, response_format=response_format)).get("response_format") == sent
    assert body(OPENAI, replace(ASK, response_format=response_format))["response_format"] == response_format


@pytest.mark.parametrize(
    "response_format", [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {}}]
)
def test_a_response_format_that_can_not_be_sent_to_tgi(response_format):
    with pytest.raises(ExpertRequestError, match="response_format"):
        body(TGI, replace(ASK, response_format=response_format))


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
