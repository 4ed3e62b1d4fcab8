"""Tool calls as servers write them, whole or in pieces, turned into ours: one id, one name, arguments that parse."""

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


def whole_calls(expert: str, request: ChatRequest, told: Any) -> tuple[str, tuple[ToolCall, ...]]:
    """The text and the calls of a whole answer's `tool_calls`, whose arguments are objects up to TGI 3.1.1.

    Raises:
        TruncatedReplyError: A call's arguments do not parse.
        ExpertProtocolError: A call has no name.
    """
    texts, calls = [], []
    for call in told if isinstance(told, list) else [told]:
        function = _function(call)
        name, arguments = function.get("name"), _as_text(function.get("arguments")).strip() or "{}"
        if not isinstance(name, str) or not name:
            raise _nameless(expert)
        if (said := _said_without_tool(request, name, _checked(expert, arguments))) is not None:
            texts.append(said)
        else:
            calls.append(ToolCall(new_call_id(), name, arguments))
    return "".join(texts), tuple(calls)


class CallStream:
    """The tool calls of one stream.

    Servers send a list of pieces with an index, the name in the first. TGI up to 3.1.1 sends one object whose
    arguments are pieces of `{"function": {"_name": ..., ...}}`, the end-of-text token after it; that form is given out
    as a whole at the end.
    """

    def __init__(self, expert: str, request: ChatRequest) -> None:
        self._expert = expert
        self._request = request
        self._arguments: dict[int, list[str]] = {}  # by the server's index, in order
        self._old_form: list[str] = []

    @property
    def started(self) -> bool:
        """Whether a delta has been given out."""
        return bool(self._arguments)

    def feed(self, told: Any) -> tuple[ToolCallDelta, ...]:
        """The deltas of one chunk's `tool_calls`."""
        if isinstance(told, Mapping):
            function = _function(told)
            if not function.get("name"):
                self._old_form.append(_as_text(function.get("arguments")))
                return ()
            told = [told]
        return tuple(self._deltas(told)) if isinstance(told, list) else ()

    def close(self) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """The text and the deltas that only the stream's end completes.

        Raises:
            TruncatedReplyError: A call's arguments do not parse: max_tokens has cut it.
        """
        late = []
        for position, pieces in enumerate(self._arguments.values()):
            arguments = "".join(pieces)
            if not arguments.strip():  # some servers have nothing to say for a function without parameters
                late.append(ToolCallDelta(position, None, None, "{}"))
            else:
                _checked(self._expert, arguments)
        if not self._old_form:
            return "", tuple(late)
        name, function = self._old_call()
        if (said := _said_without_tool(self._request, name, function)) is not None:
            return said, tuple(late)
        text = json.dumps(function, ensure_ascii=False)
        return "", (*late, ToolCallDelta(len(self._arguments), new_call_id(), name, text))

    def _deltas(self, told: list[Any]) -> Iterator[ToolCallDelta]:
        for piece in told:
            function = _function(piece)
            name, arguments = function.get("name"), _as_text(function.get("arguments"))
            index = piece.get("index") if isinstance(piece, Mapping) else None
            if not isinstance(index, int):  # left out by servers that send each call in one piece
                index = len(self._arguments) - (0 if name else 1)
            pieces = self._arguments.get(index)
            if pieces is None:
                if not isinstance(name, str) or not name:
                    raise _nameless(self._expert)
                self._arguments[index] = [arguments]
                yield ToolCallDelta(len(self._arguments) - 1, new_call_id(), name, arguments)
            elif arguments:
                pieces.append(arguments)
                yield ToolCallDelta(list(self._arguments).index(index), None, None, arguments)

    def _old_call(self) -> tuple[str, dict[str, Any]]:
        try:
            call, _ = json.JSONDecoder().raw_decode("".join(self._old_form).lstrip())
        except (ValueError, RecursionError):
            raise _cut(self._expert) from None
        function = dict(_function(call))
        name = function.pop("_name", None)
        if not isinstance(name, str):
            raise _nameless(self._expert)
        return name, function


def _function(call: Any) -> Mapping[str, Any]:
    function = call.get("function") if isinstance(call, Mapping) else None
    return function if isinstance(function, Mapping) else {}


def _as_text(arguments: Any) -> str:
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(arguments, ensure_ascii=False)


def _checked(expert: str, arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        raise _cut(expert) from None
    if not isinstance(value, dict):
        raise _cut(expert)
    return value


def _said_without_tool(request: ChatRequest, name: str, arguments: Mapping[str, Any]) -> str | None:
    if name not in _NO_TOOL or any(_function(tool).get("name") == name for tool in request.tools):
        return None
    return str(arguments.get(_NO_TOOL[name], ""))


def _cut(expert: str) -> TruncatedReplyError:
    msg = f"expert {expert!r}: the arguments of its tool call do not parse, as when max_tokens has cut them: raise it"
    return TruncatedReplyError(msg, expert=expert)


def _nameless(expert: str) -> ExpertProtocolError:
    return ExpertProtocolError(f"expert {expert!r} calls a tool without naming it", expert=expert)
