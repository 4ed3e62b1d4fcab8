"""What the core owns of a call is the same in both frameworks and for routed models and single endpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from langchain_core.messages import BaseMessage
from langchain_core.tools import tool
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool

from langchain_torouter import ChatTGI, RoutedChatModel
from llamaindex_torouter import TGILLM, RoutedLLM
from tests.support.adapter_calls import Framework, ask, model_of
from tests.support.scripted_tgi import Fault, ScriptedTGI
from tests.support.word_router import WordRouter
from torouter import CallEnded, ConfigurationError, DispatchEvent, RoutingPolicy

ROUTING = {"exclude": ["b"], "routing_text": "a text", "policy": RoutingPolicy(price_weight=1.0), "session": "user-7"}
FRAMEWORKS: tuple[Framework, ...] = ("langchain", "llamaindex")


def add(x: int, y: int) -> int:
    """Add two numbers."""
    return x + y


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_single_endpoint_takes_routing_keywords_and_sends_none_of_them(
    tgi: ScriptedTGI, framework: Framework
) -> None:
    if framework == "langchain":
        ChatTGI(base_url=tgi.url).invoke("hello", **ROUTING)
    else:
        TGILLM(base_url=tgi.url).chat([ChatMessage("hello")], **ROUTING)
    assert not set(ROUTING) & set(tgi.requests[-1].body)


@pytest.mark.parametrize("routed", [True, False], ids=["routed", "single"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_unknown_tool_name_is_refused_before_anybody_is_called(
    tgi: ScriptedTGI, framework: Framework, routed: bool
) -> None:
    options: dict[str, Any] = {"router": WordRouter.named({"a": 0.5}), "experts": {"a": tgi.url}}
    call: Callable[[], Any]
    if framework == "langchain":
        chat = RoutedChatModel(**options) if routed else ChatTGI(base_url=tgi.url)
        call = partial(chat.bind_tools, [tool(add)], tool_choice="subtract")
    else:
        llm = RoutedLLM(**options) if routed else TGILLM(base_url=tgi.url)
        tools = [FunctionTool.from_defaults(add)]
        call = partial(llm.chat_with_tools, tools, user_msg="2 + 3?", tool_choice="subtract")
    with pytest.raises(ConfigurationError, match="tool_choice='subtract' names no bound tool: use one of add"):
        call()
    assert not [request for request in tgi.requests if request.path == "/v1/chat/completions"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_hooks_hear_the_error_that_the_caller_gets_of_the_only_expert(tgi: ScriptedTGI, framework: Framework) -> None:
    tgi.always(Fault.overloaded())
    events: list[DispatchEvent] = []
    model = model_of(
        framework, router=WordRouter.named({"a": 0.5}), experts={"a": tgi.url}, hooks=[events.append], max_retries=0
    )
    error = ask(model, "hello", streamed=False).error
    (ended,) = [event for event in events if isinstance(event, CallEnded)]
    assert ended.error == "ExpertOverloadedError"
    assert ended.error in [kind.__name__ for kind in type(error).__mro__]


async def test_a_function_for_the_routed_text_runs_once_for_each_input_of_a_batch(tgi: ScriptedTGI) -> None:
    read: list[str] = []

    def text(messages: Sequence[BaseMessage]) -> str:
        read.append(messages[-1].text)
        return messages[-1].text

    model = RoutedChatModel(router=WordRouter.named({"a": 0.5}), experts={"a": tgi.url}, routing_text=text)
    model.batch(["one", "two"])
    await model.abatch(["three", "four"])
    assert sorted(read) == ["four", "one", "three", "two"]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_same_words_choose_what_is_read(framework: Framework, tgi: ScriptedTGI) -> None:
    router = WordRouter.named({"a": 0.5, "b": 0.4})
    model = model_of(framework, router=router, experts={"a": tgi.url, "b": tgi.url}, routing_text="conversation")
    turns = [("user", "b first"), ("assistant", "yes"), ("user", "now")]
    messages: Any = (
        turns if framework == "langchain" else [ChatMessage(role=role, content=text) for role, text in turns]
    )
    assert model.route(messages).expert == "b"
    last = model_of(framework, router=router, experts={"a": tgi.url, "b": tgi.url}, routing_text="last_user")
    assert last.route(messages).expert == "a"
