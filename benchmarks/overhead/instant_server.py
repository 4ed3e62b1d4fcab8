"""The server of `benchmarks.overhead`: answers TGI's chat at once, so that the time is the client's.

It is one process with one thread and reads only what it needs of a request. It prints its url as a line of JSON and
ends when its standard input does. `python -m benchmarks.overhead.instant_server [CORE]` binds it to a core.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

TOKENS = tuple(f"{' ' * (number > 0)}word{number}" for number in range(50))
TEXT = "".join(TOKENS)
USAGE = {"prompt_tokens": 40, "completion_tokens": len(TOKENS), "total_tokens": 40 + len(TOKENS)}
INFO = {
    "model_id": "loopback",
    "model_sha": None,
    "model_pipeline_tag": None,
    "max_concurrent_requests": 4096,
    "max_best_of": 2,
    "max_stop_sequences": 4,
    "max_input_tokens": 8191,
    "max_total_tokens": 8192,
    "validation_workers": 2,
    "max_client_batch_size": 4,
    "router": "text-generation-router",
    "version": "3.3.6",
    "sha": None,
    "docker_label": None,
}
_LENGTH = re.compile(rb"content-length:\s*(\d+)", re.IGNORECASE)
_STREAM = re.compile(rb'"stream":\s*true')
_USAGE = re.compile(rb'"include_usage":\s*true')


def _object(kind: str, **fields: Any) -> bytes:
    common = {"object": kind, "id": "", "created": 1, "model": "loopback", "system_fingerprint": "3.3.6-loopback"}
    return json.dumps({**common, **fields}, separators=(",", ":")).encode()


def _json(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _event(data: bytes) -> bytes:
    """One event, as one chunk of a chunked body."""
    event = b"data: " + data + b"\n\n"
    return f"{len(event):x}\r\n".encode() + event + b"\r\n"


def _token(text: str, finish_reason: str | None) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "logprobs": None}
    return _event(
        _object("chat.completion.chunk", choices=[{**choice, "finish_reason": finish_reason}], usage=None),
    )


_MESSAGE = {"index": 0, "message": {"role": "assistant", "content": TEXT}, "logprobs": None, "finish_reason": "length"}
_WHOLE = _json(_object("chat.completion", choices=[_MESSAGE], usage=USAGE))
_INFO = _json(json.dumps(INFO).encode())
_MISSING = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_END = _event(b"[DONE]") + b"0\r\n\r\n"
_PIECES = (
    _HEAD + _token(TOKENS[0], None),
    *(_token(token, None) for token in TOKENS[1:-1]),
    _token(TOKENS[-1], "length"),
)
_STREAMED = (*_PIECES, _END)
_WITH_USAGE = (*_PIECES, _event(_object("chat.completion.chunk", choices=[], usage=USAGE)) + _END)


class Connection(asyncio.Protocol):
    """One client's connection, kept alive; it answers one request after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._received, 0, head)
        if len(self._received) < head + 4 + (int(length[1]) if length else 0):
            return
        request, self._received = self._received, b""
        if request.startswith(b"GET /info "):
            self._transport.write(_INFO)
        elif not request.startswith(b"POST /v1/chat/completions "):
            self._transport.write(_MISSING)
        elif _STREAM.search(request, head):
            self._send(iter(_WITH_USAGE if _USAGE.search(request, head) else _STREAMED))
        else:
            self._transport.write(_WHOLE)

    def _send(self, pieces: Iterator[bytes]) -> None:
        """Write a piece, then let the other connections write theirs, as a generating server does."""
        piece = next(pieces, None)
        if piece is not None and not self._transport.is_closing():
            self._transport.write(piece)
            self._loop.call_soon(self._send, pieces)


async def serve() -> None:
    """Serve on a free port of 127.0.0.1 until standard input ends."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Connection, "127.0.0.1", 0, backlog=1024)
    async with server:
        print(json.dumps({"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"}), flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    if sys.argv[1:]:
        os.sched_setaffinity(0, {int(sys.argv[1])})
    asyncio.run(serve())
