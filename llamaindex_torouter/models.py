"""Lets any LlamaIndex LLM serve as an expert, called by its public methods, which emit the call's only LLM event.

RoutedLLM's own methods emit none, since LlamaIndex's TokenCountingHandler would count the tokens of both.
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
    """The `Expert` that describes a model to a policy, from the model's metadata."""
    metadata = model.metadata  # which says nothing of images: a chat model may support them
    abilities: set[Ability] = {"images"} if metadata.is_chat_model else set()
    if isinstance(model, ExpertLLM):
        abilities = set(model._abilities())  # noqa: SLF001
    elif metadata.is_function_calling_model:
        abilities.add("tools")
    return Expert(name=name, abilities=frozenset(abilities), context_window=metadata.context_window)


async def ask_model(model: LLM, call: Call, target: Target) -> ChatResponse:
    """The whole answer of `model`.

    Raises:
        ExpertError: The model failed in a way after which another expert may answer.
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
    """The answer of `model` as a stream."""
    messages, keywords = _prepared(model, call, target)
    with expert_errors(target.expert.name):
        async with aclosing(await _open(model, call, messages, keywords)) as responses:
            async for response in responses:
                yield _with_blocks(model, call, response)


def _prompt(model: LLM, messages: list[ChatMessage]) -> str:
    assert model.messages_to_prompt is not None, "LLM's validator sets a default"
    return model.messages_to_prompt(messages)


async def _open(
    model: LLM, call: Call, messages: list[ChatMessage], keywords: dict[str, Any]
) -> AsyncGenerator[ChatResponse, None]:
    if model.metadata.is_chat_model:
        if _in_thread(model, call):
            return in_steps(await asyncio.to_thread(model.stream_chat, messages, **keywords))
        return await model.astream_chat(messages, **keywords)
    prompt = _prompt(model, messages)
    if _in_thread(model, call):
        completions = await asyncio.to_thread(model.stream_complete, prompt, formatted=True, **keywords)
        return in_steps(stream_completion_response_to_chat_response(completions))
    return astream_completion_response_to_chat_response(
        await model.astream_complete(prompt, formatted=True, **keywords)
    )


def _in_thread(model: LLM, call: Call) -> bool:
    """Whether to call the model's synchronous methods in a worker thread.

    A synchronous caller's client may not run on a second event loop, and CustomLLM's asynchronous methods would block
    the loop, since they call its synchronous ones.
    """
    if isinstance(model, ExpertLLM):
        return False
    name = "achat" if model.metadata.is_chat_model else "acomplete"
    return call.sync or next(kind for kind in type(model).__mro__ if name in vars(kind)) is CustomLLM


def _prepared(model: LLM, call: Call, target: Target) -> tuple[list[ChatMessage], dict[str, Any]]:
    """The messages and keywords in the form that the model's methods take."""
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
        msg = f"{type(model).__name__} can't be an expert for calls with tools: it must be a FunctionCallingLLM"
        raise ConfigurationError(msg)
    prepared = model._prepare_chat_with_tools_compat(  # noqa: SLF001 - what its own chat_with_tools calls
        options.tools, chat_history=messages, **call.tool_options, **keywords
    )
    return prepared.pop("messages"), prepared


def _with_blocks(model: LLM, call: Call, response: ChatResponse) -> ChatResponse:
    """The response with its tool calls as blocks; older integrations have a form of their own."""
    if not call.options.tools or not isinstance(model, FunctionCallingLLM):
        return response
    message = response.message
    if not any(isinstance(block, ToolCallBlock) for block in message.blocks):
        tool_calls = model.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        message.blocks.extend(
            ToolCallBlock(tool_call_id=call.tool_id, tool_name=call.tool_name, tool_kwargs=call.tool_kwargs)
            for call in tool_calls
        )
    return response


FRAMEWORK: Framework[LLM, LLM] = Framework(
    model_type=LLM,  # type: ignore[type-abstract]
    describe=expert_of,
    at_endpoint=lambda endpoint: TGILLM.of_expert(endpoint.expert, url=endpoint.client.url, endpoint=endpoint),
    reader=AnswerReader(facts=answer_facts, text=lambda response: response.delta or ""),
)
"""How the core handles LlamaIndex's models and answers."""
