"""Tool calls in every form that servers write, whole or in pieces, as ours: one id, one name, arguments that parse."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator, Mapping
from typing import Any

from torouter.chat import ChatRequest, ToolCall, ToolCallDelta
from torouter.errors import ExpertProtocolError, TruncatedReplyError

# TGI's own functions for "none of the tools": the answer is a text, under this key of the arguments.
_NO_TOOL = {"no_tool": "content", "notify_error": "error"}
_random = random.SystemRandom()
_ID_CHARACTERS = string.ascii_letters + string.digits


def new_call_id() -> str:
    """An id for a tool call. TGI's repeat from turn to turn; nine letters and digits suit Mistral's templates too."""
    return "".join(_random.choices(_ID_CHARACTERS, k=9))


def parse_tool_calls(expert: str, request: ChatRequest, value: Any) -> tuple[str, tuple[ToolCall, ...]]:
    """Read the `tool_calls` of a whole answer; their arguments are objects up to TGI 3.1.1, text from then on.

    Returns:
        The text of calls that mean "none of the tools", and the other calls.

    Raises:
        TruncatedReplyError: A call's arguments are not valid JSON.
        ExpertProtocolError: A call has no name.
    """
    texts, tool_calls = [], []
    for raw_call in value if isinstance(value, list) else [value]:
        function = _function(raw_call)
        name, arguments = function.get("name"), _arguments_text(function.get("arguments")).strip() or "{}"
        if not isinstance(name, str) or not name:
            raise _unnamed_tool_call(expert)
        if (text := _no_tool_text(request, name, _parse_arguments(expert, arguments))) is not None:
            texts.append(text)
        else:
            tool_calls.append(ToolCall(new_call_id(), name, arguments))
    return "".join(texts), tuple(tool_calls)


class ToolCallStream:
    """The tool calls of one stream.

    Servers send a list of pieces with an index, the name in the first. TGI up to 3.1.1 sends one object whose
    arguments are pieces of `{"function": {"_name": ..., ...}}`, followed by the end-of-text token; such a call is
    returned as a whole at the end.
    """

    def __init__(self, expert: str, request: ChatRequest) -> None:
        self._expert = expert
        self._request = request
        self._arguments: dict[int, list[str]] = {}  # by the server's index, in order
        self._old_form: list[str] = []

    @property
    def started(self) -> bool:
        """Whether a delta has been returned."""
        return bool(self._arguments)

    def feed(self, value: Any) -> tuple[ToolCallDelta, ...]:
        """The deltas of one chunk's `tool_calls`.

        Raises:
            ExpertProtocolError: The first piece of a call has no name.
        """
        if isinstance(value, Mapping):
            function = _function(value)
            if not function.get("name"):
                self._old_form.append(_arguments_text(function.get("arguments")))
                return ()
            value = [value]
        return tuple(self._deltas(value)) if isinstance(value, list) else ()

    def close(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """The text and the deltas that only the stream's end completes.

        Raises:
            TruncatedReplyError: A call's arguments are not valid JSON: max_tokens has cut it.
            ExpertProtocolError: A call has no name.
        """
        last_deltas = []
        for position, pieces in enumerate(self._arguments.values()):
            arguments = "".join(pieces)
            if not arguments.strip():  # some servers send nothing for a function without parameters
                last_deltas.append(ToolCallDelta(position, None, None, "{}"))
            else:
                _parse_arguments(self._expert, arguments)
        if not self._old_form:
            return "", tuple(last_deltas)
        name, function = self._old_form_call()
        if (text := _no_tool_text(self._request, name, function)) is not None:
            return text, tuple(last_deltas)
        arguments = json.dumps(function, ensure_ascii=False)
        return "", (*last_deltas, ToolCallDelta(len(self._arguments), new_call_id(), name, arguments))

    def _deltas(self, raw_calls: list[Any]) -> Iterator[ToolCallDelta]:
        for raw_call in raw_calls:
            function = _function(raw_call)
            name, arguments = function.get("name"), _arguments_text(function.get("arguments"))
            index = raw_call.get("index") if isinstance(raw_call, Mapping) else None
            if not isinstance(index, int):  # left out by servers that send each call in one piece
                index = len(self._arguments) - (0 if name else 1)
            pieces = self._arguments.get(index)
            if pieces is None:
                if not isinstance(name, str) or not name:
                    raise _unnamed_tool_call(self._expert)
                self._arguments[index] = [arguments]
                yield ToolCallDelta(len(self._arguments) - 1, new_call_id(), name, arguments)
            elif arguments:
                pieces.append(arguments)
                yield ToolCallDelta(list(self._arguments).index(index), None, None, arguments)

    def _old_form_call(self) -> tuple[str, dict[str, Any]]:
        """Name and arguments of a call in the form of TGI up to 3.1.1."""
        try:
            raw_call, _ = json.JSONDecoder().raw_decode("".join(self._old_form).lstrip())
        except (ValueError, RecursionError):
            raise _truncated_tool_call(self._expert) from None
        function = dict(_function(raw_call))
        name = function.pop("_name", None)
        if not isinstance(name, str):
            raise _unnamed_tool_call(self._expert)
        return name, function


def _function(raw_call: Any) -> Mapping[str, Any]:
    function = raw_call.get("function") if isinstance(raw_call, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def _arguments_text(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def _parse_arguments(expert: str, arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        raise _truncated_tool_call(expert) from None
    if not isinstance(value, dict):
        raise _truncated_tool_call(expert)
    return value


def _no_tool_text(request: ChatRequest, name: str, arguments: Mapping[str, Any]) -> str | None:
    """The answer in text that a call of TGI's own functions stands for, None for a call of the request's tools."""
    if name not in _NO_TOOL or any(_function(tool).get("name") == name for tool in request.tools):
        return None
    return str(arguments.get(_NO_TOOL[name], ""))


def _truncated_tool_call(expert: str) -> TruncatedReplyError:
    msg = (
        f"expert {expert!r}: the arguments of its tool call are not valid JSON, as when max_tokens cuts them: "
        "raise max_tokens"
    )
    return TruncatedReplyError(msg, expert=expert)


def _unnamed_tool_call(expert: str) -> ExpertProtocolError:
    return ExpertProtocolError(f"expert {expert!r} calls a tool without naming it", expert=expert)
