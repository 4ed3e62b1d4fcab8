"""The answers that a test can script: a generation, a generation that goes wrong, or raw bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


def dump(value: object) -> bytes:
    """JSON as serde writes it: compact, and raw beyond ASCII."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class Text:
    """The model answers `text`, token by token (`pieces`, by default cut before whitespace).

    `finish_reason` None means what TGI would write: `length`, `stop_sequence` or the end-of-text reason of its version.
    """

    text: str = ""
    pieces: tuple[str, ...] = ()
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The model calls one tool.

    `form` None is the wire form of the server's version; "object" is that of TGI 3.1.1 and older, "pieces" that of 3.2
    and newer, "whole" one chunk with all of the call.
    """

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    form: Literal["object", "pieces", "whole"] | None = None

    @property
    def json(self) -> str:
        if isinstance(self.arguments, str):
            return self.arguments
        return dump(self.arguments).decode()


@dataclass(frozen=True, slots=True)
class ToolUses:
    """Several calls in one answer, which only servers with `api="openai"` give."""

    calls: tuple[ToolUse, ...]


Answer = Text | ToolUse | ToolUses


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error of TGI's own, in the form that the route, `stream` and the version give it."""

    error_type: str
    message: str


@dataclass(frozen=True, slots=True)
class Mishap:
    """A generation to which something happens once `after` events are out. `answer` None is the model's own answer.

    hold: nothing at all is sent, not even the status, until the test calls `release()`.
    stall: the same, but the status and `after` events of a stream are out already.
    error: an error event; `message` is its text. Without a stream: a 424 with that text.
    drop: the connection is closed before the body ends. close: the body ends there, as if all were well.
    no_done: everything is sent, but not `[DONE]`.
    comments: `after` keep-alive comments precede every event.
    """

    then: Literal["hold", "stall", "error", "drop", "close", "no_done", "comments"]
    after: int = 0
    message: str = ""
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer byte for byte. `chunks` sends the body in these pieces, `repeat` sends all of it so often."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    chunks: tuple[bytes, ...] = ()
    repeat: int = 1


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection is reset (RST) before any byte of an answer."""


Reply = Answer | Refusal | Mishap | Raw | Reset

JSON = {"content-type": "application/json"}
PLAIN = {"content-type": "text/plain; charset=utf-8"}
HTML = {"content-type": "text/html"}
EVENTS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}

# TGI's own texts for a status (CONTRACT section 5a); every other status comes with an empty body.
_ERRORS = {
    424: ("generation", "Request failed during generation: Server error: CUDA out of memory"),
    429: ("overloaded", "Model is overloaded"),
    500: ("incomplete_generation", "Incomplete generation"),
    503: ("healthcheck", "unhealthy"),
}


class Fault:
    """Everything that can go wrong with an answer, by name."""

    @staticmethod
    def status(status: int) -> Raw:
        """This status with the body that TGI gives it, before any stream."""
        if status == 413:
            return Raw(413, PLAIN, b"Failed to buffer the request body: length limit exceeded")
        if status not in _ERRORS:
            return Raw(status)
        error_type, message = _ERRORS[status]
        return Raw(status, JSON, dump({"error": message, "error_type": error_type}))

    @staticmethod
    def overloaded() -> Raw:
        """429, also to a stream request, as a gateway does."""
        return Fault.status(429)

    @staticmethod
    def overloaded_in_stream() -> Refusal:
        """TGI's own form: 200 and an error event to a stream request, 429 to any other."""
        return Refusal("overloaded", "Model is overloaded")

    @staticmethod
    def validation(message: str) -> Refusal:
        """For instance "`inputs` must have less than 4095 tokens. Given: 5000"."""
        return Refusal("validation", f"Input validation error: {message}")

    @staticmethod
    def incomplete_generation() -> Refusal:
        return Refusal("incomplete_generation", "Incomplete generation")

    @staticmethod
    def error_midway(after: int = 2, *, text: str = _ERRORS[424][1], answer: Answer | None = None) -> Mishap:
        return Mishap("error", after, text, answer)

    @staticmethod
    def cut(after: int = 2, *, clean: bool = False, answer: Answer | None = None) -> Mishap:
        """The stream ends after so many events: the connection drops, or (`clean`) the body just ends."""
        return Mishap("close" if clean else "drop", after, answer=answer)

    @staticmethod
    def no_done(answer: Answer | None = None) -> Mishap:
        return Mishap("no_done", answer=answer)

    @staticmethod
    def stall(after: int = 0, answer: Answer | None = None) -> Mishap:
        """Silence after so many events, until the client goes or the test calls `release()`."""
        return Mishap("stall", after, answer=answer)

    @staticmethod
    def slow_start(answer: Answer | None = None) -> Mishap:
        """No byte at all until the test calls `release()`."""
        return Mishap("hold", answer=answer)

    @staticmethod
    def keep_alive(comments: int = 1, answer: Answer | None = None) -> Mishap:
        return Mishap("comments", comments, answer=answer)

    @staticmethod
    def raw_unicode() -> Text:
        """Text with U+2028, U+2029, U+0085 and U+007F, raw as JSON allows; `str.splitlines()` splits there."""
        return Text(pieces=("line\u2028sep", " par\u2029sep", " nel\u0085", " del\u007f"))

    @staticmethod
    def plain_422(reason: str = "stop: invalid type: string, expected a sequence") -> Raw:
        text = f"Failed to deserialize the JSON body into the target type: {reason} at line 1 column 42"
        return Raw(422, PLAIN, text.encode())

    @staticmethod
    def html_502() -> Raw:
        page = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>502 Bad Gateway</body>\r\n</html>\r\n"
        return Raw(502, HTML, page)

    @staticmethod
    def empty_401() -> Raw:
        return Raw(401)

    @staticmethod
    def not_json() -> Raw:
        return Raw(200, JSON, b'{"object":"chat.completion","choices":[{"ind')

    @staticmethod
    def oversized_body(megabytes: int = 256) -> Raw:
        """A JSON string of this size, which a reader without a limit reads to the end."""
        return Raw(200, JSON, b'"' + b"x" * (2**20 - 1), repeat=megabytes)

    @staticmethod
    def oversized_event(megabytes: int = 256) -> Raw:
        """A stream with one event without an end."""
        return Raw(200, EVENTS, b"data: " + b"x" * (2**20 - 6), repeat=megabytes)

    @staticmethod
    def redirect(to: str) -> Raw:
        return Raw(307, {"location": to})

    @staticmethod
    def reset() -> Reset:
        return Reset()

    @staticmethod
    def bytes(status: int, headers: Mapping[str, str], body: bytes, chunks: tuple[bytes, ...] = ()) -> Raw:
        return Raw(status, headers, body, chunks)
