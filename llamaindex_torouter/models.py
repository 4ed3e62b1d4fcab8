"""Any LlamaIndex LLM as an expert: asked by its public methods, which open the one LLM event of the call.

RoutedLLM's own methods open none: LlamaIndex's TokenCountingHandler would count the tokens of both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from llama_index.core.base.llms.generic_utils import (
    astream_completion_response_to_chat_response,
    completion_response_to_chat_response,
    stream_completion_response_to_chat_response,
)
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, ToolCallBlock
from llama_index.core.llms.custom import CustomLLM
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM

from llamaindex_torouter.base import Call, ExpertLLM
from llamaindex_torouter.messages import answer_facts
from llamaindex_torouter.tgi_llm import TGILLM
from torouter.dispatch import AnswerReader, Target
from torouter.errors import ConfigurationError
from torouter.experts import Ability, Expert
from torouter.runtime.framework_models import Framework, expert_errors, in_steps


def expert_of(name: str, model: LLM) -> Expert:
    """What the policy can know of a model from its metadata, which say nothing of images: only its server knows."""
    facts = model.metadata
    abilities: set[Ability] = {"images"} if facts.is_chat_model else set()
    if isinstance(model, ExpertLLM):
        abilities = set(model._abilities())  # noqa: SLF001
    elif facts.is_function_calling_model:
        abilities.add("tools")
    return Expert(name=name, abilities=frozenset(abilities), context_window=facts.context_window)


async def ask_model(model: LLM, call: Call, target: Target) -> ChatResponse:
    """A whole answer of `model`.

    Raises:
        ExpertError: The model failed in a way that another expert, or a later try, may not.
    """
    messages, keywords = _prepared(model, call, target)
    with expert_errors(target.expert.name):
        if not model.metadata.is_chat_model:
            prompt = _prompt(model, messages)
            if _in_thread(model, call):
                completion = await asyncio.to_thread(model.complete, prompt, formatted=True, **keywords)
            else:
                completion = await model.acomplete(prompt, formatted=True, **keywords)
            return completion_response_to_chat_response(completion)
        if _in_thread(model, call):
            response = await asyncio.to_thread(model.chat, messages, **keywords)
        else:
            response = await model.achat(messages, **keywords)
        return _with_blocks(model, call, response)


async def stream_model(model: LLM, call: Call, target: Target) -> AsyncGenerator[ChatResponse, None]:
    """The answer of `model` as it arrives."""
    messages, keywords = _prepared(model, call, target)
    with expert_errors(target.expert.name):
        async with aclosing(await _opened(model, call, messages, keywords)) as responses:
            async for response in responses:
                yield _with_blocks(model, call, response)


def _prompt(model: LLM, messages: list[ChatMessage]) -> str:
    assert model.messages_to_prompt is not None, "LLM's validator sets a default"
    return model.messages_to_prompt(messages)


async def _opened(
    model: LLM, call: Call, messages: list[ChatMessage], keywords: dict[str, Any]
) -> AsyncGenerator[ChatResponse, None]:
    if model.metadata.is_chat_model:
        if _in_thread(model, call):
            return in_steps(await asyncio.to_thread(model.stream_chat, messages, **keywords))
        return await model.astream_chat(messages, **keywords)
    prompt = _prompt(model, messages)
    if _in_thread(model, call):
        steps = await asyncio.to_thread(model.stream_complete, prompt, formatted=True, **keywords)
        return in_steps(stream_completion_response_to_chat_response(steps))
    return astream_completion_response_to_chat_response(
        await model.astream_complete(prompt, formatted=True, **keywords)
    )


def _in_thread(model: LLM, call: Call) -> bool:
    """Whether the model's synchronous methods are asked, in a worker thread.

    A client that the caller uses synchronously may not live on two event loops, and CustomLLM's asynchronous methods
    call its synchronous ones, on the loop.
    """
    if isinstance(model, ExpertLLM):
        return False
    name = "achat" if model.metadata.is_chat_model else "acomplete"
    return call.sync or next(kind for kind in type(model).__mro__ if name in vars(kind)) is CustomLLM


def _prepared(model: LLM, call: Call, target: Target) -> tuple[list[ChatMessage], dict[str, Any]]:
    """The messages and the keywords in the form that the model's methods take."""
    options = call.options
    keywords = dict(options.parameters)
    if options.response_format is not None:
        keywords["response_format"] = options.response_format
    if isinstance(model, ExpertLLM) and target.url and target.seconds is not None:
        keywords["timeout"] = target.seconds
    messages = list(call.messages)
    if not options.tools:
        return messages, keywords
    if isinstance(options.tools[0], Mapping):
        return messages, {**keywords, "tools": options.tools, "tool_choice": options.tool_choice}
    if not isinstance(model, FunctionCallingLLM):
        msg = f"{type(model).__name__} can't be an expert for calls with tools: it is no FunctionCallingLLM"
        raise ConfigurationError(msg)
    prepared = model._prepare_chat_with_tools_compat(  # noqa: SLF001 - what its own chat_with_tools calls
        options.tools, chat_history=messages, **call.tool_options, **keywords
    )
    return prepared.pop("messages"), prepared


def _with_blocks(model: LLM, call: Call, response: ChatResponse) -> ChatResponse:
    """The response with its tool calls as blocks, which older integrations keep in a form of their own."""
    if not call.options.tools or not isinstance(model, FunctionCallingLLM):
        return response
    message = response.message
    if not any(isinstance(block, ToolCallBlock) for block in message.blocks):
        calls = model.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        message.blocks.extend(
            ToolCallBlock(tool_call_id=one.tool_id, tool_name=one.tool_name, tool_kwargs=one.tool_kwargs)
            for one in calls
        )
    return response


FRAMEWORK: Framework[LLM, LLM] = Framework(
    model_type=LLM,  # type: ignore[type-abstract]
    describe=expert_of,
    at_endpoint=lambda endpoint: TGILLM.of_expert(endpoint.expert, url=endpoint.client.url, endpoint=endpoint),
    reader=AnswerReader(facts=answer_facts, text=lambda response: response.delta or ""),
)
"""LlamaIndex, as the core sees it."""
