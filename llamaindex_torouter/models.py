"""Any LlamaIndex LLM as an expert: asked by its public methods, which open the one LLM event of the call.

RoutedLLM's own methods open none: LlamaIndex's TokenCountingHandler would count the tokens of both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
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
from llama_index.core.tools.types import BaseTool

from llamaindex_torouter.base import ExpertLLM
from torouter import errors
from torouter.experts import Ability, Expert
from torouter.runtime.framework_models import expert_errors, stepwise


@dataclass(frozen=True, slots=True)
class Call:
    """One call of RoutedLLM, before it is known which expert answers it."""

    messages: list[ChatMessage]
    seconds: float | None
    """What the call may take in all."""
    options: dict[str, Any]
    """Keywords for the expert: request parameters, response_format, OpenAI tools, ..."""
    tools: Sequence[BaseTool] = ()
    """LlamaIndex's tools, which each integration puts into its own form."""
    tool_options: dict[str, Any] | None = None
    """Keywords of `chat_with_tools` that go with them."""
    sync: bool = False
    """Whether the caller used a synchronous method."""

    def within(self, seconds: float | None) -> Call:
        """The call with this deadline."""
        return self if seconds is None else replace(self, options={**self.options, "timeout": seconds})


def expert_of(name: str, model: LLM) -> Expert:
    """What the policy can know of a model from its metadata, which say nothing of images: only its server knows."""
    facts = model.metadata
    abilities: set[Ability] = {"images"} if facts.is_chat_model else set()
    if isinstance(model, ExpertLLM):
        abilities = set(model._abilities())  # noqa: SLF001
    elif facts.is_function_calling_model:
        abilities.add("tools")
    return Expert(name=name, abilities=frozenset(abilities), context_window=facts.context_window)


async def ask_model(model: LLM, call: Call, name: str) -> ChatResponse:
    """A whole answer of `model`.

    Raises:
        ExpertError: The model failed in a way that another expert, or a later try, may not.
    """
    messages, options = _prepared(model, call)
    with expert_errors(name):
        if not model.metadata.is_chat_model:
            prompt = _prompt(model, messages)
            if _in_thread(model, call):
                completion = await asyncio.to_thread(model.complete, prompt, formatted=True, **options)
            else:
                completion = await model.acomplete(prompt, formatted=True, **options)
            return completion_response_to_chat_response(completion)
        if _in_thread(model, call):
            response = await asyncio.to_thread(model.chat, messages, **options)
        else:
            response = await model.achat(messages, **options)
        return _with_blocks(model, call, response)


async def stream_model(model: LLM, call: Call, name: str) -> AsyncGenerator[ChatResponse, None]:
    """The answer of `model` as it comes."""
    messages, options = _prepared(model, call)
    with expert_errors(name):
        async with aclosing(await _opened(model, call, messages, options)) as responses:
            async for response in responses:
                yield _with_blocks(model, call, response)


def _prompt(model: LLM, messages: list[ChatMessage]) -> str:
    assert model.messages_to_prompt is not None, "LLM's validator sets a default"
    return model.messages_to_prompt(messages)


async def _opened(
    model: LLM, call: Call, messages: list[ChatMessage], options: dict[str, Any]
) -> AsyncGenerator[ChatResponse, None]:
    if model.metadata.is_chat_model:
        if _in_thread(model, call):
            return stepwise(await asyncio.to_thread(model.stream_chat, messages, **options))
        return await model.astream_chat(messages, **options)
    prompt = _prompt(model, messages)
    if _in_thread(model, call):
        steps = await asyncio.to_thread(model.stream_complete, prompt, formatted=True, **options)
        return stepwise(stream_completion_response_to_chat_response(steps))
    return astream_completion_response_to_chat_response(await model.astream_complete(prompt, formatted=True, **options))


def _in_thread(model: LLM, call: Call) -> bool:
    """Whether the model's synchronous methods are asked, in a worker thread.

    A client that the caller uses synchronously may not live on two event loops, and CustomLLM's asynchronous methods
    call its synchronous ones, on the loop.
    """
    if isinstance(model, ExpertLLM):
        return False
    name = "achat" if model.metadata.is_chat_model else "acomplete"
    return call.sync or next(kind for kind in type(model).__mro__ if name in vars(kind)) is CustomLLM


def _prepared(model: LLM, call: Call) -> tuple[list[ChatMessage], dict[str, Any]]:
    if not call.tools:
        return call.messages, call.options
    if not isinstance(model, FunctionCallingLLM):
        kind = type(model).__name__
        msg = f"{kind} can't be an expert for calls with tools: it is no FunctionCallingLLM"
        raise errors.ConfigurationError(msg)
    prepared = model._prepare_chat_with_tools_compat(  # noqa: SLF001 - what its own chat_with_tools calls
        call.tools, chat_history=call.messages, **(call.tool_options or {}), **call.options
    )
    return prepared.pop("messages"), prepared


def _with_blocks(model: LLM, call: Call, response: ChatResponse) -> ChatResponse:
    """The response with its tool calls as blocks, which older integrations keep in a form of their own."""
    if not call.tools or not isinstance(model, FunctionCallingLLM):
        return response
    message = response.message
    if not any(isinstance(block, ToolCallBlock) for block in message.blocks):
        calls = model.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        message.blocks.extend(
            ToolCallBlock(tool_call_id=one.tool_id, tool_name=one.tool_name, tool_kwargs=one.tool_kwargs)
            for one in calls
        )
    return response
