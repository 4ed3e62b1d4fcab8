"""Contender of `benchmarks.soak`: torouter's RoutedChatModel; its router reads the first expert's name in the query."""

from __future__ import annotations

from collections.abc import AsyncIterator

from benchmarks.soak.soak_load import ANSWERS, ATTEMPT_SECONDS
from langchain_torouter import RoutedChatModel
from tests.support.word_router import WordRouter
from torouter.dispatch import DispatchSettings
from torouter.endpoints import Timeouts


class Routed:
    """The query names the first expert of the ranking; the others follow in their own order."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._model = RoutedChatModel(
            router=WordRouter.named({name: 0.5 - place / 10 for place, name in enumerate(ANSWERS)}),
            experts=urls,
            # For a call without a stream the limit is the share of the deadline.
            settings=DispatchSettings(deadline=5 * ATTEMPT_SECONDS, attempt_share=0.2),
            timeouts=Timeouts(connect=ATTEMPT_SECONDS, first_byte=ATTEMPT_SECONDS, idle=ATTEMPT_SECONDS),
            max_tokens=64,
        )

    async def call(self, ranking: tuple[str, ...]) -> str:
        """The whole answer."""
        return (await self._model.ainvoke(f"ask {ranking[0]}")).text

    async def stream(self, ranking: tuple[str, ...]) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async for chunk in self._model.astream(f"ask {ranking[0]}"):
            yield chunk.text
