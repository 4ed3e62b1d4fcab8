"""Converts between LlamaIndex's messages and torouter's requests and replies."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    ChatResponse,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from torouter.chat import AnswerFacts, ChatChunk, ChatReply, GrowingReply, ToolCall
from torouter.errors import ConfigurationError
from torouter.routing.routing_text import Turn

_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}


def to_openai(messages: Sequence[ChatMessage]) -> tuple[dict[str, Any], ...]:
    """The messages as OpenAI message objects.

    Raises:
        ConfigurationError: A message holds a block, such as audio, that can't be sent to an expert.
    """
    return tuple(_message_to_openai(message) for message in messages)


def _message_to_openai(message: ChatMessage) -> dict[str, Any]:
    role = _ROLES.get(message.role, message.role.value)
    converted: dict[str, Any] = {"role": role, "content": _content(message)}
    if role == "tool":
        converted["tool_call_id"] = message.additional_kwargs.get("tool_call_id", "")
    if name := message.additional_kwargs.get("name"):
        converted["name"] = name
    # Integrations older than ToolCallBlock keep OpenAI's objects in the additional keywords.
    calls = [_call_to_openai(block) for block in message.blocks if isinstance(block, ToolCallBlock)]
    calls = calls or message.additional_kwargs.get("tool_calls", [])
    if calls:
        converted["tool_calls"] = calls
    return converted


def _content(message: ChatMessage) -> str | list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for block in message.blocks:
        if isinstance(block, TextBlock):
            parts.append({"type": "text", "text": block.text})
        elif isinstance(block, ImageBlock):
            url = str(block.url) if block.url is not None else block.inline_url()
            parts.append({"type": "image_url", "image_url": {"url": url}})
        elif not isinstance(block, (ToolCallBlock, ThinkingBlock, CachePoint)):
            msg = f"a {block.block_type} block can't be sent to an expert: use text and images"
            raise ConfigurationError(msg)
    if _has_image(message):
        return parts
    return "\n".join(part["text"] for part in parts)


def _call_to_openai(block: ToolCallBlock) -> dict[str, Any]:
    arguments = block.tool_kwargs
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return ToolCall(block.tool_call_id or "", block.tool_name, arguments).to_openai()


def turns_of(messages: Sequence[ChatMessage]) -> list[Turn]:
    """The messages as routing reads them."""
    return [Turn(_ROLES.get(m.role, m.role.value), m.content or "", _has_image(m)) for m in messages]


def _has_image(message: ChatMessage) -> bool:
    return any(isinstance(block, ImageBlock) for block in message.blocks)


def answer_facts(response: ChatResponse, known: AnswerFacts) -> AnswerFacts:
    """The facts known after a response, where its integration keeps the server's OpenAI-like object."""
    raw = response.raw
    if not isinstance(raw, (dict, Mapping)):  # the first spares the slow check of the second
        return known
    usage = raw.get("usage")
    if not isinstance(usage, Mapping):
        return known.after(raw.get("model"), None)
    return known.updated(AnswerFacts(raw.get("model"), usage.get("prompt_tokens"), usage.get("completion_tokens")))


def from_reply(reply: ChatReply | GrowingReply, step: ChatChunk | None = None) -> ChatResponse:
    """An answer; of a streamed one, the answer so far, of which `step` is the newest chunk."""
    calls = [_block(call) for call in reply.tool_calls]
    blocks: list[Any] = [TextBlock(text=reply.text), *calls] if reply.text or not calls else calls
    # LlamaIndex's streamed structured output reads the calls here and not in the blocks.
    extra = {"tool_calls": [_call_to_openai(call) for call in calls]} if calls else {}
    message = ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=extra)
    raw: dict[str, Any] = {"model": reply.model, "finish_reason": reply.finish_reason}
    if (usage := reply.usage) is not None:
        raw["usage"] = {
            "prompt_tokens": usage.input_tokens,
            "completion_tokens": usage.output_tokens,
            "total_tokens": usage.total_tokens,
        }
    if reply.logprobs:
        raw["logprobs"] = {"content": [dict(token) for token in reply.logprobs]}
    return ChatResponse(message=message, delta=None if step is None else step.text, raw=raw)


def _block(call: ToolCall) -> ToolCallBlock:
    arguments = call.parsed()
    return ToolCallBlock(
        tool_call_id=call.id or None,
        tool_name=call.name,
        tool_kwargs=call.arguments if arguments is None else arguments,  # the text of an incomplete or invalid object
    )
