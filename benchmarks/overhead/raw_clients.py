"""Contenders of `benchmarks.overhead` without a client library: plain aiohttp, and sockets as the server's limit.

python -m benchmarks.overhead.raw_clients aiohttp|socket URL CORE
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from benchmarks.overhead.call_load import MAX_TOKENS, Client, messages, work
from benchmarks.overhead.instant_server import TOKENS


def _body(query: str, *, stream: bool) -> dict[str, Any]:
    return {"model": "tgi", "messages": messages(query), "max_tokens": MAX_TOKENS, "stream": stream}


class Aiohttp:
    """One session; JSON in, JSON or the lines of events out."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._session: aiohttp.ClientSession | None = None

    async def whole(self, query: str) -> str:
        """The whole answer."""
        async with self._opened().post(self._url, json=_body(query, stream=False)) as response:
            return str((await response.json())["choices"][0]["message"]["content"])

    async def stream(self, query: str) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async with self._opened().post(self._url, json=_body(query, stream=True)) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])["choices"][0]["delta"]["content"]

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session


class _Connection(asyncio.Protocol):
    """A connection that waits for the end of each answer and reads nothing else of it."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None
        self._transport: Any = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._waiting is not None and self._received.endswith((b"\r\n0\r\n\r\n", b"}}")):
            self._waiting.set_result(None)
            self._waiting = None

    async def request(self, request: bytes) -> bytes:
        """The raw answer to a raw request."""
        self._received = b""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._waiting
        return self._received


class Socket:
    """Sends prepared requests and looks only for the answer's end: the most that the server can do."""

    def __init__(self, url: str) -> None:
        host, port = urlsplit(url).netloc.split(":")
        self._address = (host, int(port))
        self._idle: list[_Connection] = []
        self._requests = {stream: _raw_request(stream=stream) for stream in (False, True)}

    async def whole(self, query: str) -> str:  # noqa: ARG002 - all get the same answer
        """The text that the server is known to send."""
        return await self._request(stream=False)

    async def stream(self, query: str) -> AsyncIterator[str]:  # noqa: ARG002
        """The tokens that the server is known to send, all at the answer's end."""
        await self._request(stream=True)
        for token in TOKENS:
            yield token

    async def _request(self, *, stream: bool) -> str:
        if not self._idle:
            _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        else:
            connection = self._idle.pop()
        await connection.request(self._requests[stream])
        self._idle.append(connection)
        return "".join(TOKENS)


def _raw_request(*, stream: bool) -> bytes:
    body = json.dumps(_body("word " * 30, stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def make(url: str, kind: str) -> Client:
    """The contender of this kind."""
    return Aiohttp(url) if kind == "aiohttp" else Socket(url)


if __name__ == "__main__":
    work(make, "aiohttp")
