"""The contender of `benchmarks.overhead` that LangChain is: ChatOpenAI, one endpoint, no router."""

from __future__ import annotations

from collections.abc import AsyncIterator

from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.overhead_load import MAX_TOKENS, work


class LangChain:
    """Without retries, of which there is no need."""

    def __init__(self, url: str) -> None:
        self._model = ChatOpenAI(
            base_url=f"{url}/v1", api_key="none", model="tgi", max_tokens=MAX_TOKENS, max_retries=0
        )

    async def whole(self, query: str) -> str:
        """The whole answer."""
        return str((await self._model.ainvoke(query)).text)

    async def stream(self, query: str) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async for chunk in self._model.astream(query):
            yield str(chunk.text)

    def sync(self, query: str) -> str:
        """The whole answer for a caller without an event loop."""
        return str(self._model.invoke(query).text)


if __name__ == "__main__":
    work(LangChain, "langchain-openai", "langchain-core", "openai")
