"""Asks each replica once what it serves, beside its first request: is it the model that the router was trained for?"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping

from torouter.dispatch import Target
from torouter.dispatch.settings import Handshake
from torouter.endpoints import ServerInfo, TGIClient
from torouter.errors import (
    ExpertConnectionError,
    ExpertError,
    ExpertMismatchError,
    ExpertOverloadedError,
    ExpertServerError,
    ExpertTimeoutError,
)
from torouter.experts import Expert
from torouter.runtime.background import background_loop

logger = logging.getLogger(__name__)

_SECONDS = 5.0
"""The most that a handshake may take."""
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
        self._under_way: set[tuple[int, str, str]] = set()
        self._warned: set[str] = set()

    async def before(self, target: Target) -> None:
        """To be awaited before a request to a replica; only "refuse" makes it wait, and only the first one.

        Raises:
            ExpertMismatchError: The mode is "refuse", and the replica serves another model.
        """
        key = (target.expert.name, target.url)
        if self._mode == "off" or key in self._done or not target.url:
            return
        if self._mode == "refuse":
            await self._ask(target)
        elif (os.getpid(), *key) not in self._under_way:  # a forked child has none of its parent's tasks
            # On a loop of ours it outlives an answer that comes first, and leaves nothing behind on the caller's.
            loop = background_loop()
            self._under_way.add((os.getpid(), *key))
            asyncio.run_coroutine_threadsafe(self._beside(target), loop)

    async def _beside(self, target: Target) -> None:
        try:
            await self._ask(target)
        except Exception:
            logger.exception("the handshake with expert %r failed", target.expert.name)
        finally:
            self._under_way.discard((os.getpid(), target.expert.name, target.url))

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
