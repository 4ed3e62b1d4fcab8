"""Requests to an expert and its replies, independent of any framework and of any server's dialect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One chat call in OpenAI's names; `torouter.endpoints` translates it into the dialect of the expert's server.

    Attributes:
        messages: OpenAI message objects (`role`, `content`, `tool_calls`, `tool_call_id`).
        parameters: temperature, max_tokens, top_p, stop (list of str), seed, frequency_penalty, logprobs, top_logprobs.
        tools: OpenAI tool objects (`{"type": "function", "function": {...}}`).
        tool_choice: None, "auto", "none", "required" or the OpenAI object that names a function.
        response_format: The OpenAI object (`json_object` or `json_schema`), or TGI's `{"type": "regex", "value": ...}`.
    """

    messages: tuple[Mapping[str, Any], ...]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str | Mapping[str, Any] | None = None
    response_format: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as the server reports them."""

    input_tokens: int
    output_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One complete tool call. `arguments` is the JSON text of an object; `id` is unique within the process."""

    id: str
    name: str
    arguments: str

    def parsed(self) -> dict[str, Any] | None:
        """The arguments as an object; None where they are not the JSON of one, or not complete yet."""
        try:
            value = json.loads(self.arguments or "{}")
        except ValueError:
            return None
        return value if isinstance(value, dict) else None

    def to_openai(self) -> dict[str, Any]:
        """The call as OpenAI's object."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a streamed tool call: only the first piece has id and name; the pieces of `arguments` are joined."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A whole answer. `model` is the server's name of the model, `logprobs` its `content` list if requested."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: FinishReason = "stop"
    usage: Usage | None = None
    model: str | None = None
    logprobs: tuple[Mapping[str, Any], ...] | None = None


@dataclass(frozen=True, slots=True)
class ChatChunk:
    """One step of a streamed answer. The chunk with a finish reason is the last; usage is on exactly one chunk."""

    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    model: str | None = None
    logprobs: tuple[Mapping[str, Any], ...] | None = None


class GrowingReply:
    """A `ChatReply` that grows by a stream's chunks, in place, since it does so at every token.

    It has ChatReply's fields; `finish_reason` is None until the stream states it.
    """

    __slots__ = ("_calls", "_logprobs", "finish_reason", "model", "text", "usage")

    def __init__(self, served_model: str | None = None) -> None:
        self.text = ""
        self.finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.model = served_model
        self._calls: dict[int, ToolCall] = {}
        self._logprobs: list[Mapping[str, Any]] = []

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(self._calls.values())

    @property
    def logprobs(self) -> tuple[Mapping[str, Any], ...] | None:
        return tuple(self._logprobs) or None

    def add(self, chunk: ChatChunk) -> None:
        """Take one more step."""
        self.text += chunk.text
        self.finish_reason = chunk.finish_reason or self.finish_reason
        self.usage = chunk.usage or self.usage
        self.model = chunk.model or self.model
        if chunk.logprobs:
            self._logprobs += chunk.logprobs
        for piece in chunk.tool_calls:
            call = self._calls.get(piece.index, ToolCall("", "", ""))
            self._calls[piece.index] = ToolCall(
                call.id or piece.id or "", call.name or piece.name or "", call.arguments + piece.arguments
            )


@dataclass(frozen=True, slots=True)
class AnswerFacts:
    """What an answer states about itself: its model and its tokens, None where it states nothing."""

    model: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None

    def after(self, model: str | None, usage: Usage | None) -> AnswerFacts:
        """The facts after an answer, or a step of one, that states these; itself where nothing is new."""
        if usage is not None:
            return AnswerFacts(model or self.model, usage.input_tokens, usage.output_tokens)
        return self if model is None or model == self.model else replace(self, model=model)

    def updated(self, news: AnswerFacts) -> AnswerFacts:
        """The same with every fact that `news` states."""
        return AnswerFacts(
            self.model if news.model is None else news.model,
            self.input_tokens if news.input_tokens is None else news.input_tokens,
            self.output_tokens if news.output_tokens is None else news.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One expert that was asked and failed: the error's class name and its message, which hold no secret."""

    expert: str
    error: str
    message: str
    milliseconds: float
    url: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without the url, which may name a private host."""
        return {
            "expert": self.expert,
            "error": self.error,
            "message": self.message,
            "milliseconds": round(self.milliseconds, 3),
        }
