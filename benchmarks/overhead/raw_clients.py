"""The contenders of `benchmarks.overhead` without a client library: aiohttp alone, and sockets, which show the server.

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


class _Answer(asyncio.Protocol):
    """A connection that counts bytes."""

    def __init__(self) -> None:
        self._waiting: asyncio.Future[None] | None = None
        self._transport: Any = None
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._got += data
        if self._waiting is not None and self._got.endswith((b"\r\n0\r\n\r\n", b"}}")):
            self._waiting.set_result(None)
            self._waiting = None

    async def asked(self, request: bytes) -> bytes:
        """The raw answer to a raw request."""
        self._got = b""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._waiting
        return self._got


class Socket:
    """Sends what stands in memory and reads nothing of the answer but its end: as much as the server can do."""

    def __init__(self, url: str) -> None:
        host, port = urlsplit(url).netloc.split(":")
        self._address = (host, int(port))
        self._free: list[_Answer] = []
        self._requests = {stream: self._request(stream=stream) for stream in (False, True)}

    async def whole(self, query: str) -> str:  # noqa: ARG002 - all get the same answer
        """The text that the server is known to send."""
        return await self._asked(stream=False)

    async def stream(self, query: str) -> AsyncIterator[str]:  # noqa: ARG002
        """The tokens that it is known to send, all at the answer's end."""
        await self._asked(stream=True)
        for token in TOKENS:
            yield token

    async def _asked(self, *, stream: bool) -> str:
        if not self._free:
            _, answer = await asyncio.get_running_loop().create_connection(_Answer, *self._address)
        else:
            answer = self._free.pop()
        await answer.asked(self._requests[stream])
        self._free.append(answer)
        return "".join(TOKENS)

    def _request(self, *, stream: bool) -> bytes:
        body = json.dumps(_body("word " * 30, stream=stream)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body


def make(url: str, kind: str) -> Client:
    """The contender."""
    return Aiohttp(url) if kind == "aiohttp" else Socket(url)


if __name__ == "__main__":
    work(make, "aiohttp")
