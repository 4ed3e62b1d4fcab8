"""Converts between LangChain's messages and torouter's requests and replies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from torouter.chat import AnswerFacts, ChatChunk, ChatReply, ToolCall, Usage
from torouter.routing.routing_text import Turn

PROVIDER = "torouter"
_ROLES = {"human": "user", "ai": "assistant", "HumanMessageChunk": "user"}


def to_openai(messages: Sequence[BaseMessage]) -> tuple[dict[str, Any], ...]:
    """The messages as OpenAI message objects.

    Plain text, the common case, is converted here; content blocks by langchain-core's own converter.
    """
    return tuple(_message_to_openai(message) for message in messages)


def _message_to_openai(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, AIMessage):
        return _assistant(message)
    if isinstance(message.content, str):
        if isinstance(message, HumanMessage):
            return _with_name({"role": "user", "content": message.content}, message)
        if isinstance(message, SystemMessage):
            return _with_name({"role": "system", "content": message.content}, message)
        if isinstance(message, ToolMessage):
            return {"role": "tool", "content": message.content, "tool_call_id": message.tool_call_id}
    return convert_to_openai_messages(message)


def _with_name(converted: dict[str, Any], message: BaseMessage) -> dict[str, Any]:
    return {**converted, "name": message.name} if message.name else converted


def _assistant(message: AIMessage) -> dict[str, Any]:
    converted: dict[str, Any] = {"role": "assistant", "content": message.text}
    calls = [
        ToolCall(call["id"] or "", call["name"], json.dumps(call["args"], ensure_ascii=False))
        for call in message.tool_calls
    ]
    calls += [ToolCall(call["id"] or "", call["name"] or "", call["args"] or "") for call in message.invalid_tool_calls]
    if calls:
        converted["tool_calls"] = [call.to_openai() for call in calls]
    return _with_name(converted, message)


def usage_metadata(usage: Usage | None) -> UsageMetadata | None:
    """LangChain's form of the token counts."""
    if usage is None:
        return None
    return UsageMetadata(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, total_tokens=usage.total_tokens
    )


def from_reply(reply: ChatReply) -> ChatResult:
    """A whole answer as a ChatResult."""
    parsed = [(call, call.parsed()) for call in reply.tool_calls]
    metadata: dict[str, Any] = {
        "model_name": reply.model,
        "model_provider": PROVIDER,
        "finish_reason": reply.finish_reason,
    }
    if reply.logprobs is not None:
        metadata["logprobs"] = {"content": [dict(token) for token in reply.logprobs]}
    message = AIMessage(
        content=reply.text,
        tool_calls=[tool_call(name=call.name, args=args, id=call.id) for call, args in parsed if args is not None],
        invalid_tool_calls=[
            invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error="not the JSON of an object")
            for call, args in parsed
            if args is None
        ],
        usage_metadata=usage_metadata(reply.usage),
        response_metadata=metadata,
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def from_chunk(chunk: ChatChunk, served_model: str | None = None) -> ChatGenerationChunk:
    """One chunk of a stream.

    `served_model`, the model's name where the server does not state it, must be given with the first chunk only, since
    LangChain concatenates metadata that several chunks carry.
    """
    metadata: dict[str, Any] = {}
    if served_model is not None:
        metadata = {"model_name": chunk.model or served_model, "model_provider": PROVIDER}
    if chunk.finish_reason is not None:
        metadata["finish_reason"] = chunk.finish_reason
    if chunk.logprobs is not None:
        metadata["logprobs"] = {"content": [dict(token) for token in chunk.logprobs]}
    message = AIMessageChunk(
        content=chunk.text,
        tool_call_chunks=[
            tool_call_chunk(name=piece.name, args=piece.arguments, id=piece.id, index=piece.index)
            for piece in chunk.tool_calls
        ],
        usage_metadata=usage_metadata(chunk.usage),
        response_metadata=metadata,
    )
    return ChatGenerationChunk(message=message)


def answer_facts(answer: ChatReply | ChatChunk | ChatResult | ChatGenerationChunk, known: AnswerFacts) -> AnswerFacts:
    """The facts known after an answer or a chunk of it."""
    if isinstance(answer, (ChatReply, ChatChunk)):
        return known.after(answer.model, answer.usage)
    message = (answer.generations[0] if isinstance(answer, ChatResult) else answer).message
    usage: UsageMetadata | None = getattr(message, "usage_metadata", None)
    tokens = None if usage is None else Usage(usage["input_tokens"], usage["output_tokens"])
    return known.after(message.response_metadata.get("model_name"), tokens)


def turns_of(messages: Sequence[BaseMessage]) -> list[Turn]:
    """The messages as routing reads them."""
    return [Turn(_ROLES.get(message.type, message.type), message.text, _has_image(message)) for message in messages]


def _has_image(message: BaseMessage) -> bool:
    return not isinstance(message.content, str) and any(
        isinstance(block, Mapping) and block.get("type") in ("image", "image_url") for block in message.content
    )
