"""Asks each replica once what it serves, beside its first request: is it the model that the router was trained for?"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from torouter.dispatch import Target
from torouter.dispatch.settings import Handshake
from torouter.errors import (
    ExpertConnectionError,
    ExpertError,
    ExpertMismatchError,
    ExpertOverloadedError,
    ExpertServerError,
    ExpertTimeoutError,
)
from torouter.experts import Expert
from torouter.tgi import ServerInfo, TGIClient

logger = logging.getLogger(__name__)

_SECONDS = 5.0
"""The most that a handshake may take."""
_NOTHING = nullcontext()
# After these the next request asks again; after any other error the server has no answer to give, which is no fault.
_PASSING = (ExpertConnectionError, ExpertTimeoutError, ExpertOverloadedError, ExpertServerError)


class Handshakes:
    """The handshakes of one application. Safe to use from several threads and event loops.

    Args:
        mode: "warn" asks beside the first request, whose answer never waits for it, and logs a mismatch once for each
            expert; "refuse" asks before the first request, which goes to nobody where it finds a mismatch; "off" asks
            nobody.
        trained_for: Model ids that the router was trained for, by expert, as far as it knows them.
        client: Gives the client of a replica.
        learn: Called once for each replica that tells of itself.
    """

    def __init__(
        self,
        mode: Handshake,
        trained_for: Mapping[str, str],
        client: Callable[[Target], TGIClient],
        learn: Callable[[Target, ServerInfo], None],
    ) -> None:
        self._mode = mode
        self._trained_for = trained_for
        self._client = client
        self._learn = learn
        self._done: set[tuple[str, str]] = set()
        self._under_way: set[tuple[str, str]] = set()
        self._warned: set[str] = set()

    def beside(self, target: Target) -> AbstractAsyncContextManager[None]:
        """Put it around one request to a replica.

        Raises (on entering):
            ExpertMismatchError: The mode is "refuse", and the replica serves another model.
        """
        key = (target.expert.name, target.url)
        if self._mode == "off" or key in self._done or not target.url:
            return _NOTHING
        return self._first(target) if self._mode == "refuse" else self._alongside(target)

    @asynccontextmanager
    async def _first(self, target: Target) -> AsyncGenerator[None, None]:
        await self._ask(target)
        yield

    @asynccontextmanager
    async def _alongside(self, target: Target) -> AsyncGenerator[None, None]:
        key = (target.expert.name, target.url)
        if key in self._under_way:
            yield
            return
        self._under_way.add(key)
        task = asyncio.ensure_future(self._ask(target))
        try:
            yield
        finally:
            # An answer that came first does not wait: the next request asks again.
            task.cancel()
            self._under_way.discard(key)
            await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                logger.error("the handshake with expert %r failed", target.expert.name, exc_info=error)

    async def _ask(self, target: Target) -> None:
        expert = target.expert
        seconds = _SECONDS if target.seconds is None else min(_SECONDS, target.seconds)
        try:
            info = await self._client(target).info(deadline=seconds)
        except _PASSING:
            return
        except ExpertError as error:
            logger.debug("expert %s does not tell what it serves (%s)", expert.name, type(error).__name__)
        else:
            if (mismatch := self._mismatch(expert, target.url, info.model_id)) is not None:
                if self._mode == "refuse":
                    raise ExpertMismatchError(mismatch, expert=expert.name)
                if expert.name not in self._warned:
                    self._warned.add(expert.name)
                    logger.warning("%s", mismatch)
            self._learn(target, info)
        self._done.add((expert.name, target.url))

    def _mismatch(self, expert: Expert, url: str, served: str | None) -> str | None:
        wanted = {"the router was trained for": self._trained_for.get(expert.name), "it is to serve": expert.model}
        for who, model in wanted.items():
            if served is not None and model is not None and served.casefold() != model.casefold():
                return f"expert {expert.name!r} at {url} serves {served!r}, but {who} {model!r}"
        return None
