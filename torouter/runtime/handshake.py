"""Checks once for each replica that it serves the model that the router was trained for."""

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
"""Longest time of a handshake."""
# After these the next request repeats the handshake. Any other error means that the server offers no such information.
_TEMPORARY = (ExpertConnectionError, ExpertTimeoutError, ExpertOverloadedError, ExpertServerError)


class Handshakes:
    """The handshakes of one application. Safe to use from several threads and event loops.

    Args:
        mode: "warn" checks beside the first request, which never waits for it, and logs an expert's mismatch once;
            "refuse" checks before the first request, which is not sent where the models differ; "off" checks nothing.
        trained_for: Ids of the models that the router was trained for, by expert, as far as known.
        client: Returns the client of a replica.
        learn: Called once for each replica that describes itself.
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
        self._checked: set[tuple[str, str]] = set()
        self._under_way: set[tuple[int, str, str]] = set()
        self._warned: set[str] = set()

    async def before(self, target: Target) -> None:
        """Await this before each request to a replica; only in the mode "refuse" does the first request wait.

        Raises:
            ExpertMismatchError: The mode is "refuse", and the replica serves another model.
        """
        key = (target.expert.name, target.url)
        if self._mode == "off" or key in self._checked or not target.url:
            return
        if self._mode == "refuse":
            await self._check(target)
        elif (os.getpid(), *key) not in self._under_way:  # a forked child has none of its parent's tasks
            # On the background loop the check may outlast the answer, and leaves no task on the caller's loop.
            loop = background_loop()
            self._under_way.add((os.getpid(), *key))
            asyncio.run_coroutine_threadsafe(self._check_beside(target), loop)

    async def _check_beside(self, target: Target) -> None:
        try:
            await self._check(target)
        except Exception:
            logger.exception("the handshake with expert %r failed", target.expert.name)
        finally:
            self._under_way.discard((os.getpid(), target.expert.name, target.url))

    async def _check(self, target: Target) -> None:
        expert = target.expert
        seconds = _SECONDS if target.seconds is None else min(_SECONDS, target.seconds)
        try:
            info = await self._client(target).info(deadline=seconds)
        except _TEMPORARY:
            return
        except ExpertError as error:
            logger.debug("expert %s does not state what it serves (%s)", expert.name, type(error).__name__)
        else:
            if (mismatch := self._mismatch(expert, target.url, info.model_id)) is not None:
                if self._mode == "refuse":
                    raise ExpertMismatchError(mismatch, expert=expert.name)
                if expert.name not in self._warned:
                    self._warned.add(expert.name)
                    logger.warning("%s", mismatch)
            self._learn(target, info)
        self._checked.add((expert.name, target.url))

    def _mismatch(self, expert: Expert, url: str, served: str | None) -> str | None:
        expected = {"the router was trained for": self._trained_for.get(expert.name), "it is to serve": expert.model}
        for source, model in expected.items():
            if served is not None and model is not None and served.casefold() != model.casefold():
                return f"expert {expert.name!r} at {url} serves {served!r}, but {source} {model!r}"
        return None
