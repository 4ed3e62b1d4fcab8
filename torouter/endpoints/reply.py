"""A server's chat answer, whole or event by event, as a `ChatReply` or `ChatChunk`s; it does no input or output.

Servers differ in how an answer ends. It is whole if `[DONE]` came, or a finish reason and a clean end of the body (TGI
up to 2.1 and `transformers serve` send no `[DONE]`). Everything else is an error, never a short answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torouter.chat import ChatChunk, ChatReply, ChatRequest, FinishReason, Usage
from torouter.endpoints.json_fields import parse_object
from torouter.endpoints.request import asks_for_tools, stop_sequences_of
from torouter.endpoints.stop_sequences import StopSequenceFilter, cut_at
from torouter.endpoints.tool_calls import ToolCallStream, parse_tool_calls
from torouter.errors import ExpertGenerationError, ExpertProtocolError, TruncatedReplyError
from torouter.experts import Expert

DONE = b"[DONE]"

_FINISH_REASONS: dict[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_FAILED = ("abort", "error")  # how vLLM and SGLang end an answer that they give up


def parse_finish_reason(expert: str, reason: Any) -> FinishReason | None:
    """The server's finish reason as one of ours, None where it has none yet.

    TGI writes `eos_token` and `stop_sequence` for "stop".

    Raises:
        ExpertGenerationError: The server has given up the answer.
    """
    if reason in _FAILED:
        msg = f"expert {expert!r} gave up its answer (finish_reason {reason})"
        raise ExpertGenerationError(msg, expert=expert)
    return _FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) and reason else None


def parse_chat_reply(expert: Expert, request: ChatRequest, data: bytes) -> ChatReply:
    """Read the body of a chat answer with status 200.

    For an answer in text to a request with tools, usage and finish reason of TGI from 3.2 on are those of its hidden
    first run; the stream has the right ones.

    Raises:
        ExpertProtocolError: The answer has no message, or is an empty one to a request for tools.
        TruncatedReplyError: The arguments of a tool call are not valid JSON.
        ExpertError: The answer is an error.
    """
    name = expert.name
    answer = parse_object(name, data)
    choice = _first_choice(answer.get("choices"))
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, Mapping):
        msg = f"expert {name!r} answers without a message"
        raise ExpertProtocolError(msg, expert=name)
    content, raw_tool_calls = message.get("content"), message.get("tool_calls")
    text, cut = cut_at(stop_sequences_of(expert, request.parameters), content if isinstance(content, str) else "")
    no_tool_text, tool_calls = parse_tool_calls(name, request, raw_tool_calls) if raw_tool_calls else ("", ())
    text += no_tool_text
    if not (text or cut or tool_calls) and asks_for_tools(request):
        raise _empty_answer(name)
    reason = parse_finish_reason(name, choice.get("finish_reason"))
    finish = _final_finish_reason(reason, tool_called=bool(tool_calls), cut=cut)
    return ChatReply(text, tool_calls, finish, _usage(answer), _model(answer), _logprobs(choice))


class ChatStream:
    """Turns the events of one chat stream into chunks.

    The first chunk has content: chunks with only a role, and the empty text of special tokens, are dropped, so that
    whoever waits for the first one knows that the expert answers. The last chunk, and no other, has the finish reason
    and the usage.

    Attributes:
        done: The server has sent everything.
        ended: No more events are wanted: `done`, or the server goes on after a stop sequence that it has missed.
    """

    def __init__(self, expert: Expert, request: ChatRequest) -> None:
        self.done = False
        self.ended = False
        self._expert = expert.name
        self._asks_for_tools = asks_for_tools(request)
        self._tool_calls = ToolCallStream(expert.name, request)
        self._filter = StopSequenceFilter(stop_sequences_of(expert, request.parameters))
        self._texts: list[str] = []
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None
        self._model: str | None = None
        self._logprobs: tuple[Mapping[str, Any], ...] | None = None

    @property
    def partial_text(self) -> str:
        """The text of all chunks so far."""
        return "".join(self._texts)

    def feed(self, data: bytes) -> ChatChunk | None:
        """Take one event's data; the chunk that it completes, None where it brings no content.

        Raises:
            ExpertError: The event is an error, or not one of a chat stream.
        """
        if data == DONE:
            self.done = self.ended = True
            return None
        event = parse_object(self._expert, data)
        if event.get("usage"):
            self._usage = _usage(event)
        self._model = _model(event) or self._model
        choice = _first_choice(event.get("choices"))
        if choice is None:
            return None
        delta = choice.get("delta")
        if not isinstance(delta, Mapping):
            delta = {}
        content, raw_tool_calls = delta.get("content"), delta.get("tool_calls")
        reason = choice.get("finish_reason")
        if reason:
            self._finish = parse_finish_reason(self._expert, reason)
        if logprobs := _logprobs(choice):
            self._logprobs = (*(self._logprobs or ()), *logprobs)
        was_cut = self._filter.cut
        text = self._filter.feed(content) if isinstance(content, str) and content else ""
        if was_cut and content and not reason:
            self.ended = True
        tool_calls = self._tool_calls.feed(raw_tool_calls) if raw_tool_calls else ()
        if not text and not tool_calls:
            return None
        self._texts.append(text)
        logprobs, self._logprobs = self._logprobs, None
        return ChatChunk(text, tool_calls, None, None, self._model, logprobs)

    def close(self) -> ChatChunk:
        """The last chunk, at the stream's end.

        Raises:
            TruncatedReplyError: The stream ended too early.
            ExpertProtocolError: It was empty.
        """
        cut = self._filter.cut
        if not self.done and not cut and self._finish is None:
            raise truncated_stream(self._expert)
        no_tool_text, tool_calls = self._tool_calls.close()
        text = self._filter.close() + no_tool_text
        tool_called = self._tool_calls.started or bool(tool_calls)
        empty = not (tool_called or cut or text or any(self._texts))
        if empty and (self._asks_for_tools or self._finish is None):
            # TGI sends only [DONE] where max_tokens cut a call before its name, and 2.4.0 after an error.
            raise _empty_answer(self._expert)
        finish = _final_finish_reason(self._finish, tool_called=tool_called, cut=cut)
        return ChatChunk(text, tool_calls, finish, self._usage, self._model, self._logprobs)


def truncated_stream(expert: str) -> TruncatedReplyError:
    """The error of a stream that ends without a finish reason."""
    msg = f"expert {expert!r} ended its answer without a finish reason: it was cut"
    return TruncatedReplyError(msg, expert=expert)


def _final_finish_reason(reason: FinishReason | None, *, tool_called: bool, cut: bool) -> FinishReason:
    """TGI writes "stop", nothing or even "length" at the end of a complete tool call, which alone counts then."""
    if tool_called:
        return "tool_calls"
    return "stop" if cut or reason is None or reason == "tool_calls" else reason


def _empty_answer(expert: str) -> ExpertProtocolError:
    msg = f"expert {expert!r} gave an empty answer; for a tool call, max_tokens may be too small"
    return ExpertProtocolError(msg, expert=expert)


def _first_choice(choices: Any) -> Mapping[str, Any] | None:
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else None


def _usage(answer: Mapping[str, Any]) -> Usage | None:
    usage = answer.get("usage")
    if not isinstance(usage, Mapping):
        return None
    input_tokens, output_tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(input_tokens, int) or not isinstance(output_tokens, int):
        return None
    return Usage(input_tokens, output_tokens)


def _model(answer: Mapping[str, Any]) -> str | None:
    model = answer.get("model")
    return model if isinstance(model, str) and model else None


def _logprobs(choice: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...] | None:
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    return tuple(content) if isinstance(content, list) else None
