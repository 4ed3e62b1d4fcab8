"""ChatTGI: one endpoint, its dialects, retries and errors; and an agent that runs through either model."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
)
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from pydantic import ValidationError

from langchain_torouter import ChatTGI, RoutedChatModel
from tests.support.scripted_tgi import Fault, ScriptedTGI, Text, ToolUse
from torouter.errors import (
    ConfigurationError,
    ExpertAuthenticationError,
    ExpertError,
    ExpertGenerationError,
    ExpertOverloadedError,
    TruncatedReplyError,
)
from torouter.routers.baselines import BestSingleRouter


def chat(server: ScriptedTGI, **fields: Any) -> ChatTGI:
    return ChatTGI(**{"base_url": server.url, "max_retries": 0, **fields})


def test_standard_parameters_reach_the_server(tgi: ScriptedTGI) -> None:
    model = chat(tgi, temperature=0.5, max_tokens=17, top_p=0.9, seed=3, stop=["END"])
    model.invoke("hello")
    body = tgi.requests[-1].body
    assert {name: body[name] for name in ("temperature", "max_tokens", "top_p", "seed", "stop")} == {
        "temperature": 0.5,
        "max_tokens": 17,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["END"],
    }
    model.invoke("hello", temperature=0, max_tokens=5, stop=["X"])
    body = tgi.requests[-1].body
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0, 5, ["X"])


def test_the_model_is_a_lora_adapter_of_tgi_and_the_served_model_elsewhere(tgi: ScriptedTGI) -> None:
    chat(tgi).invoke("hello")
    assert tgi.requests[-1].body["model"] == "tgi"
    chat(tgi, model="my-lora").invoke("hello")
    assert tgi.requests[-1].body["model"] == "my-lora"
    with ScriptedTGI(api="openai", model_id="served") as vllm:
        assert chat(vllm, api="openai", model="served").invoke("hello").response_metadata["model_name"] == "served"
        with pytest.raises(ModelNotFoundError):
            chat(vllm, api="openai", model="other").invoke("hello")


def test_an_empty_token_in_the_environment_is_none(tgi: ScriptedTGI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGI_API_KEY", "")
    chat(tgi).invoke("hello")
    assert "authorization" not in tgi.requests[-1].headers


def test_the_token_goes_into_the_header_and_into_nothing_that_is_shown() -> None:
    with ScriptedTGI(api_key="sk-canary") as server:
        model = chat(server, api_key="sk-canary")
        assert model.invoke("hello").text
        assert "canary" not in repr(model) + str(model) + repr(model._endpoint) + repr(model._identifying_params)
        with pytest.raises(ModelAuthenticationError) as caught:
            chat(server, api_key="sk-other-canary").invoke("hello")
        assert "canary" not in repr(caught.value) + str(caught.value)


def test_a_key_in_an_experts_entry_is_not_shown_by_a_validation_error(tgi: ScriptedTGI) -> None:
    with pytest.raises(ValidationError) as caught:
        RoutedChatModel(
            router=BestSingleRouter.of({"a": 1.0}),
            experts={"a": {"url": tgi.url, "api_key": "sk-canary"}},
            timeout="soon",
        )
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "ours", "theirs"),
    [
        (Fault.overloaded(), ExpertOverloadedError, ModelRateLimitError),
        (Fault.status(424), ExpertGenerationError, ModelAPIError),
        (Fault.html_502(), ExpertError, ModelAPIError),
        (Fault.empty_401(), ExpertAuthenticationError, ModelAuthenticationError),
        (Fault.status(403), ExpertError, ModelPermissionDeniedError),
        (Fault.status(404), ExpertError, ModelNotFoundError),
        (Fault.plain_422(), ExpertError, ModelInvalidRequestError),
        (Fault.validation("`inputs` must have less than 16 tokens. Given: 20"), ExpertError, ContextOverflowError),
        (Fault.reset(), ExpertError, ModelConnectionError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_error_is_torouters_and_langchains_at_once(
    tgi: ScriptedTGI, fault: Any, ours: type[Exception], theirs: type[Exception], streamed: bool
) -> None:
    tgi.always(fault)
    model = chat(tgi)
    with pytest.raises(theirs) as caught:
        _ = [chunk async for chunk in model.astream("hello")] if streamed else await model.ainvoke("hello")
    assert isinstance(caught.value, ours)
    with pytest.raises(theirs):
        _ = list(model.stream("hello")) if streamed else model.invoke("hello")


def test_a_cut_stream_is_an_error_that_holds_its_beginning(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.cut(after=2))
    with pytest.raises(TruncatedReplyError) as caught:
        list(chat(tgi).stream("hello"))
    assert caught.value.partial_text


def test_a_passing_failure_is_tried_again_before_the_first_token_only(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.overloaded(), Fault.status(503))
    assert chat(tgi, max_retries=2).invoke("hello").text
    assert len(tgi.requests) == 3
    tgi.script(Fault.overloaded_in_stream())
    assert list(chat(tgi, max_retries=1).stream("hello"))
    assert len(tgi.requests) == 5
    tgi.script(Fault.cut(after=2))
    with pytest.raises(TruncatedReplyError):
        list(chat(tgi, max_retries=2).stream("hello"))
    assert len(tgi.requests) == 6


def test_a_wrong_request_is_not_tried_again(tgi: ScriptedTGI) -> None:
    tgi.always(Fault.plain_422())
    with pytest.raises(ModelInvalidRequestError):
        chat(tgi, max_retries=2).invoke("hello")
    assert len(tgi.requests) == 1


def test_a_bad_url_is_refused_at_construction() -> None:
    with pytest.raises(ConfigurationError, match="url='nowhere'"):
        ChatTGI(base_url="nowhere")


def test_logprobs_come_back_in_the_metadata(tgi: ScriptedTGI) -> None:
    whole = chat(tgi).invoke("hello", logprobs=True)
    assert [token["token"] for token in whole.response_metadata["logprobs"]["content"]]


def test_earlier_tool_calls_are_sent_without_content_since_tgi_would_drop_them(tgi: ScriptedTGI) -> None:
    call = {"name": "square", "args": {"x": 7}, "id": "1"}
    chat(tgi).invoke([HumanMessage("hi"), AIMessage("thinking", tool_calls=[call]), HumanMessage("go on")])
    assert tgi.requests[-1].lost == ()
    assert tgi.requests[-1].body["messages"][1]["tool_calls"][0]["function"]["name"] == "square"


def test_an_earlier_tool_call_is_sent_as_it_was_also_where_its_arguments_are_no_json(tgi: ScriptedTGI) -> None:
    valid = {"name": "add", "args": {"city": "Zürich"}, "id": "call_1", "type": "tool_call"}
    invalid = {"name": "add", "args": '{"a": 1', "id": "call_2", "error": "cut", "type": "invalid_tool_call"}
    turn = AIMessage("", tool_calls=[valid], invalid_tool_calls=[invalid])
    chat(tgi).invoke([HumanMessage("add"), turn, HumanMessage("again")])
    assert tgi.requests[-1].body["messages"][1]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"city": "Zürich"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "add", "arguments": '{"a": 1'}},
    ]


@tool
def square(x: int) -> int:
    """Square a number."""
    return x * x


@pytest.mark.parametrize("routed", [False, True])
def test_an_agent_with_a_tool_runs_through_it(tgi: ScriptedTGI, routed: bool) -> None:
    model: Any = chat(tgi)
    if routed:
        model = RoutedChatModel(router=BestSingleRouter.of({"only": 1.0}), experts={"only": tgi.url})
    tgi.script(ToolUse("square", {"x": 7}), Text("It is 49."))
    state = create_agent(model, [square]).invoke({"messages": [HumanMessage("What is 7 squared?")]})
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][2].content == "49"
    assert state["messages"][3].text == "It is 49."
    assert tgi.requests[-1].lost == ()
