"""Sends an answer: whole, as a stream, or broken off as a mishap says."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

from aiohttp import web

from tests.support.scripted_tgi.replies import EVENTS, Mishap, Raw

Hold = Callable[[], Awaitable[None]]


async def send(request: web.BaseRequest, raw: Raw) -> web.StreamResponse:
    response = web.StreamResponse(status=raw.status, headers=raw.headers)
    if raw.chunks or raw.repeat > 1 or raw.headers.get("content-type") == EVENTS["content-type"]:
        response.enable_chunked_encoding()
    else:
        response.content_length = len(raw.body)
    await response.prepare(request)
    for _ in range(raw.repeat):
        for piece in raw.chunks or (raw.body,):
            if piece:
                await response.write(piece)
    return response


async def send_whole(request: web.BaseRequest, raw: Raw, mishap: Mishap | None, *, hold: Hold) -> web.StreamResponse:
    half = raw.body[: len(raw.body) // 2]
    then = mishap.then if mishap else None
    if then == "stall":
        await hold()
    elif then == "close":
        return await send(request, Raw(raw.status, raw.headers, half))
    elif then == "drop":
        response = web.StreamResponse(headers={**raw.headers, "content-length": str(len(raw.body))})
        await response.prepare(request)
        await response.write(half)
        await _hang_up(request)
    return await send(request, raw)


async def send_stream(
    request: web.BaseRequest,
    events: Sequence[bytes],
    done: bytes,
    mishap: Mishap | None,
    *,
    errors: Sequence[bytes],
    hold: Hold,
) -> web.StreamResponse:
    response = web.StreamResponse(headers=EVENTS)
    response.enable_chunked_encoding()
    await response.prepare(request)
    then, after = (mishap.then, mishap.after) if mishap else (None, 0)
    breaks_at = min(after, len(events)) if then in ("stall", "error", "drop", "close") else len(events)
    for event in events[:breaks_at]:
        await response.write((b":\n\n" * after if then == "comments" else b"") + event)
    if then == "drop":
        await _hang_up(request)
    elif then == "stall":
        await hold()
    rest = {"error": errors, "close": (), "no_done": ()}.get(then or "", (*events[breaks_at:], done))
    for event in rest:
        if event:
            await response.write(event)
    return response


async def reset(request: web.BaseRequest) -> NoReturn:
    assert request.transport is not None
    # Linger 0 makes the close a reset.
    request.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await _hang_up(request)


async def _hang_up(request: web.BaseRequest) -> NoReturn:
    """Close the connection after what has been written."""
    assert request.transport is not None
    request.transport.close()
    await gone()


async def gone() -> NoReturn:
    """Wait for aiohttp to cancel the handler of a connection that is closed."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("aiohttp has not cancelled the handler")
