"""RoutedLLM: tools that the routed expert calls, and objects that it fills in by a tool, under a schema or as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, LLMMetadata, MessageRole, ToolCallBlock
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_torouter import TGILLM
from tests.support.llamaindex_world import World, routing, user
from tests.support.scripted_tgi import ScriptedTGI, Text, ToolUse

# --- tools ---


def square(x: int) -> int:
    """The square of a number."""
    return x * x


def cube(x: int) -> int:
    """The cube of a number."""
    return x**3


TOOLS = [FunctionTool.from_defaults(square), FunctionTool.from_defaults(cube)]


@pytest.mark.parametrize("how", ["chat", "achat", "stream", "astream"])
async def test_tools_are_called_by_the_routed_expert(world: World, how: str) -> None:
    ask: dict[str, Any] = {"tools": TOOLS, "user_msg": "ask math for the square of 7"}
    if how == "chat":
        response = world.llm.chat_with_tools(**ask)
    elif how == "achat":
        response = await world.llm.achat_with_tools(**ask)
    elif how == "stream":
        response = list(world.llm.stream_chat_with_tools(**ask))[-1]
    else:
        response = [one async for one in await world.llm.astream_chat_with_tools(**ask)][-1]
    calls = world.llm.get_tool_calls_from_response(response)
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("square", {"x": 7})]
    assert routing(response)["expert"] == "math"
    assert world.math.requests[0].body["tool_choice"] == "auto"


def test_a_tool_can_be_required_or_chosen(world: World) -> None:
    world.llm.chat_with_tools(TOOLS, "ask math", tool_required=True)
    assert world.math.requests[-1].body["tool_choice"] == "required"
    response = world.llm.chat_with_tools(TOOLS, "ask math for 3", tool_choice="cube")
    assert world.llm.get_tool_calls_from_response(response)[0].tool_name == "cube"
    assert world.llm.predict_and_call(TOOLS, "ask math for the square of 9").response == "81"


def test_an_answer_without_a_tool_call_is_an_error_only_where_one_was_needed(world: World) -> None:
    response = world.llm.chat_with_tools(TOOLS, "ask math to say hello")
    assert world.llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="tool_required"):
        world.llm.get_tool_calls_from_response(response)


def test_calls_with_tools_go_to_experts_that_know_tools(world: World) -> None:
    experts = {"code": world.code.url, "math": {"url": world.math.url, "abilities": []}}
    assert routing(world.again(experts=experts).chat_with_tools(TOOLS, "ask math"))["expert"] == "code"


def test_openai_tool_objects_can_be_given_too(world: World) -> None:
    tools = [TOOLS[0].metadata.to_openai_tool()]
    response = world.llm.chat(user("ask math for the square of 5"), tools=tools, tool_choice="required")
    assert world.llm.get_tool_calls_from_response(response)[0].tool_kwargs == {"x": 5}


def test_only_the_first_of_several_calls_is_kept_where_one_is_allowed() -> None:
    with ScriptedTGI(api="openai", model_id="m") as server:
        from tests.support.scripted_tgi import ToolUses

        server.always(ToolUses((ToolUse("square", {"x": 1}), ToolUse("cube", {"x": 2}))))
        llm = TGILLM(base_url=server.url, api="openai", model="m")
        several = llm.chat_with_tools(TOOLS, "both", allow_parallel_tool_calls=True)
        assert [call.tool_name for call in llm.get_tool_calls_from_response(several)] == ["square", "cube"]
        one = llm.chat_with_tools(TOOLS, "both")
        assert [call.tool_name for call in llm.get_tool_calls_from_response(one)] == ["square"]


def test_an_llm_as_expert_gets_the_tools_in_its_own_form(world: World) -> None:
    class Caller(MockFunctionCallingLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(is_chat_model=True, is_function_calling_model=True)

        def _prepare_chat_with_tools(self, tools: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
            return {"messages": kwargs["chat_history"], "its_form": [tool.metadata.name for tool in tools]}

        def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
            block = ToolCallBlock(tool_call_id="1", tool_name=kwargs["its_form"][0], tool_kwargs={"x": 2})
            return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, blocks=[block]))

    llm = world.again(experts={"code": world.code.url, "math": Caller()})
    calls = llm.get_tool_calls_from_response(llm.chat_with_tools(TOOLS, "ask math"))
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("square", {"x": 2})]


# --- structured output ---


class Root(BaseModel):
    """A number and its root."""

    number: int
    root: int


QUESTION = PromptTemplate("ask {who} for number 16 and root 4")


async def test_an_object_is_predicted_through_a_tool(world: World) -> None:
    assert world.llm.structured_predict(Root, QUESTION, who="math") == Root(number=16, root=4)
    assert await world.llm.astructured_predict(Root, QUESTION, who="math") == Root(number=16, root=4)
    assert world.math.requests[0].body["tool_choice"] == "required"
    structured = world.llm.as_structured_llm(Root)
    assert structured.complete("ask math for number 25 and root 5").raw == Root(number=25, root=5)
    assert (await structured.achat(user("ask math for number 9 and root 3"))).raw == Root(number=9, root=3)


async def test_an_object_is_streamed_through_a_tool(world: World) -> None:
    assert list(world.llm.stream_structured_predict(Root, QUESTION, who="math"))[-1] == Root(number=16, root=4)
    stream = await world.llm.astream_structured_predict(Root, QUESTION, who="math")
    assert [one async for one in stream][-1] == Root(number=16, root=4)
    assert {request.body["tool_choice"] for request in world.math.requests} == {"required"}


async def test_an_object_is_predicted_under_a_schema_where_no_expert_knows_tools(world: World) -> None:
    experts = {
        "code": {"url": world.code.url, "abilities": []},
        "math": {"url": world.math.url, "abilities": ["json_schema"]},
    }
    llm = world.again(experts=experts)
    assert llm.metadata.is_function_calling_model is False
    assert llm.structured_predict(Root, QUESTION, who="code") == Root(number=16, root=4)
    assert await llm.astructured_predict(Root, QUESTION, who="math") == Root(number=16, root=4)
    assert list(llm.stream_structured_predict(Root, QUESTION, who="math"))[-1] == Root(number=16, root=4)
    assert world.asked == (0, 3)


def test_an_object_is_read_from_text_where_no_expert_knows_a_schema(world: World) -> None:
    experts = {name: {"url": world.math.url, "abilities": []} for name in ("code", "math")}
    world.math.script(Text('Here it is: {"number": 4, "root": 2}'))
    assert world.again(experts=experts).structured_predict(Root, QUESTION, who="math") == Root(number=4, root=2)
