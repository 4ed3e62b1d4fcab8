"""Lets any LangChain chat model serve as an expert, called by its private methods so that one call stays one run.

`model.invoke` inside the routed model's run would open a second run and count every token twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, cast

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessageChunk, BaseMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import RunnableBinding

from langchain_torouter.base import Call
from langchain_torouter.errors import as_expert_error
from langchain_torouter.messages import answer_facts
from torouter.dispatch import AnswerReader
from torouter.errors import ConfigurationError
from torouter.experts import Ability, Expert
from torouter.runtime.endpoint import Endpoint
from torouter.runtime.framework_models import Framework, expert_errors, in_steps


def expert_of(name: str, model: BaseChatModel) -> Expert:
    """The `Expert` that describes a model to a policy, from the model's profile."""
    profile = model.profile or {}
    abilities: set[Ability] = set()
    # A model without a profile may support tools, so only a profile that denies it counts.
    if profile.get("tool_calling", type(model).bind_tools is not BaseChatModel.bind_tools):
        abilities.add("tools")
    if profile.get("structured_output", True):
        abilities.add("json_schema")
    if profile.get("image_inputs", False):
        abilities.add("images")
    return Expert(name=name, abilities=frozenset(abilities), context_window=profile.get("max_input_tokens"))


async def ask_model(model: BaseChatModel, call: Call, name: str) -> ChatResult:
    """The whole answer of `model`.

    Raises:
        ExpertError: The model failed in a way after which another expert may answer.
    """
    arguments: dict[str, Any] = {"stop": call.stop, "run_manager": call.run_manager, **_keywords(model, call)}
    with expert_errors(name, as_expert_error):
        if call.sync:
            return await asyncio.to_thread(model._generate, call.messages, **arguments)  # noqa: SLF001 - see the module
        return await model._agenerate(call.messages, **arguments)  # noqa: SLF001


async def stream_model(model: BaseChatModel, call: Call, name: str) -> AsyncGenerator[ChatGenerationChunk, None]:
    """The answer of `model` as a stream, as one chunk where the model can't stream."""
    if not _streams(model):
        yield _as_chunk((await ask_model(model, call, name)).generations[0])
        return
    keywords = _keywords(model, call)
    with expert_errors(name, as_expert_error):
        if call.sync and type(model)._stream is not BaseChatModel._stream:  # noqa: SLF001
            chunks = in_steps(model._stream(call.messages, stop=call.stop, **keywords))  # noqa: SLF001
        else:
            stream = model._astream(call.messages, stop=call.stop, **keywords)  # noqa: SLF001
            chunks = cast("AsyncGenerator[ChatGenerationChunk, None]", stream)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk


def _streams(model: BaseChatModel) -> bool:
    kind = type(model)
    return kind._stream is not BaseChatModel._stream or kind._astream is not BaseChatModel._astream  # noqa: SLF001


def _as_chunk(generation: ChatGeneration) -> ChatGenerationChunk:
    message = generation.message
    chunk = AIMessageChunk(**{**message.model_dump(exclude={"type"}), "chunk_position": "last"})
    return ChatGenerationChunk(message=cast("BaseMessageChunk", chunk), generation_info=generation.generation_info)


def _keywords(model: BaseChatModel, call: Call) -> dict[str, Any]:
    """The call's keywords in the model's own form, whose tools may differ from OpenAI's."""
    options = call.options
    keywords = {name: value for name, value in options.parameters.items() if name != "stop"}
    if options.response_format is not None:
        keywords["response_format"] = options.response_format
    if options.tools:
        choice = options.tool_choice
        if isinstance(choice, Mapping):
            choice = choice["function"]["name"]
        bound = model.bind_tools(
            [dict(tool) for tool in options.tools],
            **({} if choice is None else {"tool_choice": "any" if choice == "required" else choice}),
        )
        if not isinstance(bound, RunnableBinding):
            kind = type(model).__name__
            msg = f"{kind} can't be an expert for calls with tools: its bind_tools must return a RunnableBinding"
            raise ConfigurationError(msg)
        keywords.update(bound.kwargs)
    return keywords


FRAMEWORK: Framework[BaseChatModel, Endpoint] = Framework(
    model_type=BaseChatModel,  # type: ignore[type-abstract]
    describe=expert_of,
    at_endpoint=lambda endpoint: endpoint,
    reader=AnswerReader(facts=answer_facts, text=lambda item: item.text),
)
"""How the core handles LangChain's models and answers."""
