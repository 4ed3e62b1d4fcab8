"""LangChain messages in, LangChain messages out: the only place that knows both shapes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    convert_to_openai_messages,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from torouter.chat import ChatChunk, ChatReply, Usage
from torouter.dispatch import AnswerFacts

PROVIDER = "torouter"


def to_openai(messages: Sequence[BaseMessage]) -> tuple[dict[str, Any], ...]:
    """The messages as OpenAI message objects.

    Plain text, which nearly every message is, is converted here; content blocks go through langchain-core's converter.
    """
    return tuple(_one_to_openai(message) for message in messages)


def _one_to_openai(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, AIMessage):
        return _assistant(message)
    if isinstance(message.content, str):
        if isinstance(message, HumanMessage):
            return _named({"role": "user", "content": message.content}, message)
        if isinstance(message, SystemMessage):
            return _named({"role": "system", "content": message.content}, message)
        if isinstance(message, ToolMessage):
            return {"role": "tool", "content": message.content, "tool_call_id": message.tool_call_id}
    return convert_to_openai_messages(message)


def _named(converted: dict[str, Any], message: BaseMessage) -> dict[str, Any]:
    return {**converted, "name": message.name} if message.name else converted


def _assistant(message: AIMessage) -> dict[str, Any]:
    converted: dict[str, Any] = {"role": "assistant", "content": message.text}
    calls = [
        {
            "id": call["id"] or "",
            "type": "function",
            "function": {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)},
        }
        for call in message.tool_calls
    ]
    calls += [
        {"id": call["id"] or "", "type": "function", "function": {"name": call["name"], "arguments": call["args"]}}
        for call in message.invalid_tool_calls
    ]
    if calls:
        converted["tool_calls"] = calls
    return _named(converted, message)


def usage_metadata(usage: Usage | None) -> UsageMetadata | None:
    """LangChain's form of the token counts."""
    if usage is None:
        return None
    return UsageMetadata(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, total_tokens=usage.total_tokens
    )


def from_reply(reply: ChatReply, *, model_name: str, extra: Mapping[str, Any]) -> ChatResult:
    """A whole answer as a ChatResult; `extra` goes into `response_metadata` beside model name and finish reason."""
    calls: list[ToolCall] = []
    invalid: list[InvalidToolCall] = []
    for call in reply.tool_calls:
        arguments, error = _parsed(call.arguments)
        if arguments is None:
            invalid.append(
                InvalidToolCall(type="invalid_tool_call", id=call.id, name=call.name, args=call.arguments, error=error)
            )
        else:
            calls.append(tool_call(name=call.name, args=arguments, id=call.id))
    metadata: dict[str, Any] = {
        "model_name": model_name,
        "model_provider": PROVIDER,
        "finish_reason": reply.finish_reason,
        **extra,
    }
    if reply.logprobs is not None:
        metadata["logprobs"] = {"content": [dict(token) for token in reply.logprobs]}
    message = AIMessage(
        content=reply.text,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        usage_metadata=usage_metadata(reply.usage),
        response_metadata=metadata,
    )
    return ChatResult(generations=[ChatGeneration(message=message)])


def _parsed(arguments: str) -> tuple[dict[str, Any] | None, str | None]:
    try:
        value = json.loads(arguments or "{}")
    except ValueError as error:
        return None, f"the arguments are no JSON: {error}"
    if not isinstance(value, dict):
        return None, "the arguments are no JSON object"
    return value, None


def from_chunk(chunk: ChatChunk, metadata: Mapping[str, Any]) -> ChatGenerationChunk:
    """One step of a stream. `metadata` is for the first chunk only: LangChain adds up what stands on several."""
    response_metadata = dict(metadata)
    if chunk.finish_reason is not None:
        response_metadata["finish_reason"] = chunk.finish_reason
    if chunk.logprobs is not None:
        response_metadata["logprobs"] = {"content": [dict(token) for token in chunk.logprobs]}
    message = AIMessageChunk(
        content=chunk.text,
        tool_call_chunks=[
            tool_call_chunk(name=piece.name, args=piece.arguments, id=piece.id, index=piece.index)
            for piece in chunk.tool_calls
        ],
        usage_metadata=usage_metadata(chunk.usage),
        response_metadata=response_metadata,
    )
    return ChatGenerationChunk(message=message)


def answer_facts(generation: ChatGeneration) -> AnswerFacts | None:
    """What an answer, or a chunk of it, says of its model and tokens; None where it says nothing."""
    usage: UsageMetadata | None = getattr(generation.message, "usage_metadata", None)
    model = generation.message.response_metadata.get("model_name")
    if usage is None:
        return None if model is None else AnswerFacts(model)
    return AnswerFacts(model, usage["input_tokens"], usage["output_tokens"])


def last_human_text(messages: Sequence[BaseMessage]) -> str:
    """The text of the last human turn, which is what a router is trained on; of the last message where nobody spoke."""
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return message.text
    return messages[-1].text if messages else ""


def conversation_text(messages: Sequence[BaseMessage]) -> str:
    """The texts of all turns but tools', oldest first."""
    return "\n".join(message.text for message in messages if message.text and not isinstance(message, ToolMessage))
