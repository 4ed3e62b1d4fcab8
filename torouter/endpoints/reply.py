"""A server's chat answer, whole or event by event, as `ChatReply` and `ChatChunk`s; no input or output is done here.

Servers differ in how an answer ends. It is whole if `[DONE]` came, or a finish reason and a clean end of the body (TGI
up to 2.1 and `transformers serve` know no `[DONE]`). Everything else is an error, never a short answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from torouter.chat import ChatChunk, ChatReply, ChatRequest, FinishReason, Usage
from torouter.endpoints.error_mapping import error_in_answer, is_error
from torouter.endpoints.request import asks_for_tools, stop_texts
from torouter.endpoints.stop_sequences import StopCutter, cut_at
from torouter.endpoints.tool_calls import CallStream, whole_calls
from torouter.errors import ExpertGenerationError, ExpertProtocolError, TruncatedReplyError
from torouter.experts import Expert

DONE = b"[DONE]"

_FINISH: dict[str, FinishReason] = {
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}
_FAILED = ("abort", "error")  # how vLLM and SGLang end what they have given up


def parsed(expert: str, data: bytes) -> Mapping[str, Any]:
    """A body or an event as a JSON object.

    Raises:
        ExpertProtocolError: It is no JSON object.
        ExpertError: It is an error, see `faults.error_in_answer`.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        text = data[:200].decode("utf-8", errors="replace")
        msg = f"expert {expert!r} answers with something that is no JSON object"
        raise ExpertProtocolError(msg, expert=expert, body=text)
    if is_error(value):
        raise error_in_answer(expert, value)
    return value


def finish_reason(expert: str, told: Any) -> FinishReason | None:
    """One of our four, None where the server has not said yet. TGI says `eos_token` and `stop_sequence` for "stop".

    Raises:
        ExpertGenerationError: The server has given up.
    """
    if told in _FAILED:
        msg = f"expert {expert!r} gave up its answer (finish_reason {told})"
        raise ExpertGenerationError(msg, expert=expert)
    return _FINISH.get(told, "stop") if isinstance(told, str) and told else None


def chat_reply(expert: Expert, request: ChatRequest, data: bytes) -> ChatReply:
    """Read the body of a chat answer with status 200.

    For an answer in text to a request with tools, usage and finish reason of TGI from 3.2 on are those of its hidden
    first run; the stream has the right ones.

    Raises:
        ExpertProtocolError: The answer is no chat answer, or an empty one to a request for tools.
        TruncatedReplyError: A tool call does not parse.
        ExpertError: The answer carries an error.
    """
    name = expert.name
    answer = parsed(name, data)
    choice = _first(answer.get("choices"))
    message = choice.get("message") if choice else None
    if choice is None or not isinstance(message, Mapping):
        msg = f"expert {name!r} answers without a message"
        raise ExpertProtocolError(msg, expert=name)
    told, calls = message.get("content"), message.get("tool_calls")
    text, cut = cut_at(stop_texts(expert, request.parameters), told if isinstance(told, str) else "")
    whole, tool_calls = whole_calls(name, request, calls) if calls else ("", ())
    text += whole
    if not (text or cut or tool_calls) and asks_for_tools(request):
        raise _empty(name)
    finish = _settled(finish_reason(name, choice.get("finish_reason")), called=bool(tool_calls), cut=cut)
    return ChatReply(text, tool_calls, finish, _usage(answer), _model(answer), _logprobs(choice))


class ChatStream:
    """Turns the events of one chat stream into chunks.

    The first chunk carries something: chunks with a role only, and the empty text of special tokens, are swallowed, so
    that whoever waits for the first one knows that the expert answers. The last one, and no other, has the finish
    reason and the usage.

    Attributes:
        done: The server has said all.
        ended: Nothing more is wanted: done, or the server goes on after a stop text that it has missed.
    """

    def __init__(self, expert: Expert, request: ChatRequest) -> None:
        self.done = False
        self.ended = False
        self._expert = expert.name
        self._may_call = asks_for_tools(request)
        self._calls = CallStream(expert.name, request)
        self._text = StopCutter(stop_texts(expert, request.parameters))
        self._given: list[str] = []
        self._finish: FinishReason | None = None
        self._usage: Usage | None = None
        self._model: str | None = None
        self._logprobs: tuple[Mapping[str, Any], ...] | None = None

    @property
    def partial_text(self) -> str:
        """The text of all chunks so far."""
        return "".join(self._given)

    def feed(self, data: bytes) -> ChatChunk | None:
        """Take one event's data.

        Raises:
            ExpertError: The event is an error, or none of a chat stream.
        """
        if data == DONE:
            self.done = self.ended = True
            return None
        event = parsed(self._expert, data)
        if event.get("usage"):
            self._usage = _usage(event)
        self._model = _model(event) or self._model
        choice = _first(event.get("choices"))
        if choice is None:
            return None
        delta = choice.get("delta")
        if not isinstance(delta, Mapping):
            delta = {}
        told, calls = delta.get("content"), delta.get("tool_calls")
        finish = choice.get("finish_reason")
        if finish:
            self._finish = finish_reason(self._expert, finish)
        if logprobs := _logprobs(choice):
            self._logprobs = (*(self._logprobs or ()), *logprobs)
        was_cut = self._text.cut
        text = self._text.feed(told) if isinstance(told, str) and told else ""
        if was_cut and told and not finish:
            self.ended = True
        deltas = self._calls.feed(calls) if calls else ()
        if not text and not deltas:
            return None
        self._given.append(text)
        logprobs, self._logprobs = self._logprobs, None
        return ChatChunk(text, deltas, None, None, self._model, logprobs)

    def close(self) -> ChatChunk:
        """The last chunk, at the stream's end.

        Raises:
            TruncatedReplyError: The stream ended too early.
            ExpertProtocolError: It was empty.
        """
        cut = self._text.cut
        if not self.done and not cut and self._finish is None:
            raise truncated(self._expert)
        said, deltas = self._calls.close()
        text = self._text.close() + said
        called = self._calls.started or bool(deltas)
        empty = not (called or cut or text or any(self._given))
        if empty and (self._may_call or self._finish is None):
            # TGI says no more than [DONE] where max_tokens cut a call before its name, and 2.4.0 after an error.
            raise _empty(self._expert)
        finish = _settled(self._finish, called=called, cut=cut)
        return ChatChunk(text, deltas, finish, self._usage, self._model, self._logprobs)


def truncated(expert: str) -> TruncatedReplyError:
    """The error of a stream that ends without saying so."""
    msg = f"expert {expert!r} ended its answer without a finish reason: it was cut"
    return TruncatedReplyError(msg, expert=expert)


def _settled(told: FinishReason | None, *, called: bool, cut: bool) -> FinishReason:
    """TGI says "stop", nothing or even "length" at the end of a complete call, which is all that matters then."""
    if called:
        return "tool_calls"
    return "stop" if cut or told is None or told == "tool_calls" else told


def _empty(expert: str) -> ExpertProtocolError:
    msg = f"expert {expert!r} gave an empty answer; for a tool call, max_tokens may be too small"
    return ExpertProtocolError(msg, expert=expert)


def _first(choices: Any) -> Mapping[str, Any] | None:
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, Mapping) else None


def _usage(answer: Mapping[str, Any]) -> Usage | None:
    told = answer.get("usage")
    if not isinstance(told, Mapping):
        return None
    given, generated = told.get("prompt_tokens"), told.get("completion_tokens")
    if not isinstance(given, int) or not isinstance(generated, int):
        return None
    return Usage(given, generated)


def _model(answer: Mapping[str, Any]) -> str | None:
    model = answer.get("model")
    return model if isinstance(model, str) and model else None


def _logprobs(choice: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...] | None:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, Mapping) else None
    return tuple(content) if isinstance(content, list) else None
