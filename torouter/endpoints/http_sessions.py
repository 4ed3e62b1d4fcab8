"""One aiohttp session per event loop, shared by all clients, so that connections outlive any one of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp

_open: dict[asyncio.AbstractEventLoop, tuple[aiohttp.ClientSession, AsyncGenerator[aiohttp.ClientSession, None]]] = {}


async def session() -> aiohttp.ClientSession:
    """The running loop's session.

    It sets no limit on connections and keeps no cookies. Proxies and credentials of the environment (`HTTP_PROXY`,
    `.netrc`) are not used: prompts and tokens go to the expert's own host only.
    """
    loop = asyncio.get_running_loop()
    entry = _open.get(loop)
    if entry is None:
        for other in list(_open):
            if other.is_closed():
                _open.pop(other, None)
        owner = _session_owner()
        # It awaits nothing before its yield, so no second caller runs in between.
        entry = _open[loop] = (await anext(owner), owner)
    return entry[0]


async def close_sessions() -> None:
    """Close the running loop's session with its connections; the next call opens a new one.

    The session of the library's own loop, which synchronous calls and handshakes use, is closed when the process ends.
    """
    entry = _open.get(asyncio.get_running_loop())
    if entry is not None:
        await entry[1].aclose()


async def _session_owner() -> AsyncGenerator[aiohttp.ClientSession, None]:
    """Keeps a session open. A loop closes its asynchronous generators before it ends, and so this session."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        # Answers are small or streams: compressing them costs more time than it saves, and delays streams.
        headers={"Accept-Encoding": "identity", "User-Agent": "torouter"},
    ) as client_session:
        try:
            yield client_session
        finally:
            _open.pop(asyncio.get_running_loop(), None)
