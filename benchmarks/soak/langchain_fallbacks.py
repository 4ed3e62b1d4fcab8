"""Contender of `benchmarks.soak`: LangChain's ChatOpenAI for each expert, with `with_fallbacks` to the others."""

from __future__ import annotations

from collections.abc import AsyncIterator

from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.soak.soak_load import ATTEMPT_SECONDS, RANKINGS


class Routed:
    """One chain per ranking, without ChatOpenAI's own retries, which would delay the fallback."""

    def __init__(self, urls: dict[str, str]) -> None:
        models = {
            name: ChatOpenAI(
                base_url=f"{url}/v1",
                api_key="none",
                model="tgi",
                max_tokens=64,
                timeout=ATTEMPT_SECONDS,
                max_retries=0,
            )
            for name, url in urls.items()
        }
        self._chains = {
            ranking: models[ranking[0]].with_fallbacks([models[name] for name in ranking[1:]]) for ranking in RANKINGS
        }

    async def call(self, ranking: tuple[str, ...]) -> str:
        """The whole answer."""
        answer = await self._chains[ranking].ainvoke(f"ask {ranking[0]}")
        return str(answer.text)

    async def stream(self, ranking: tuple[str, ...]) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async for chunk in self._chains[ranking].astream(f"ask {ranking[0]}"):
            yield str(chunk.text)
