"""Contender of `benchmarks.overhead`: LlamaIndex's OpenAILike, one endpoint, no router."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-untyped]  # in an environment of its own

from benchmarks.overhead.call_load import MAX_TOKENS, work


class LlamaIndex:
    """The LLM, without retries, which nothing here needs."""

    def __init__(self, url: str) -> None:
        self._llm: Any = OpenAILike(
            model="tgi", api_base=f"{url}/v1", api_key="none", is_chat_model=True, max_tokens=MAX_TOKENS, max_retries=0
        )

    async def whole(self, query: str) -> str:
        """The whole answer."""
        return str((await self._llm.achat([ChatMessage(role="user", content=query)])).message.content)

    async def stream(self, query: str) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async for response in await self._llm.astream_chat([ChatMessage(role="user", content=query)]):
            yield response.delta or ""


if __name__ == "__main__":
    work(LlamaIndex, "llama-index-llms-openai-like", "llama-index-core", "openai")
