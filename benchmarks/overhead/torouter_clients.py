"""Contenders of `benchmarks.overhead`: torouter's models, with and without a router.

    python -m benchmarks.overhead.torouter_clients langchain|llamaindex ROUTER URL CORE

ROUTER is a checkpoint's directory, optionally with `@int8`; or "none" for one endpoint without a router; or "words" for
a router that costs almost nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from benchmarks.decision.timed_worker import TOPICS
from benchmarks.overhead.call_load import MAX_TOKENS, ChatModel, Client, work
from torouter.dispatch import DispatchSettings
from torouter.routers.router import AutoRouter, Router

SETTINGS = DispatchSettings(rounds=3, max_concurrency=None)
"""The models' defaults without the limit on concurrent calls, which would make callers wait."""


def langchain(url: str, router: str) -> ChatModel:
    """RoutedChatModel, or ChatTGI."""
    from langchain_torouter import ChatTGI, RoutedChatModel

    if router == "none":
        return ChatModel(ChatTGI(base_url=url, max_tokens=MAX_TOKENS))
    return ChatModel(RoutedChatModel(**routed(router, url)))


class LlamaIndex:
    """RoutedLLM, or TGILLM."""

    def __init__(self, url: str, router: str) -> None:
        from llamaindex_torouter import TGILLM, RoutedLLM

        self._llm: Any
        if router == "none":
            self._llm = TGILLM(base_url=url, max_tokens=MAX_TOKENS)
        else:
            self._llm = RoutedLLM(**routed(router, url))

    async def whole(self, query: str) -> str:
        """The whole answer."""
        return str((await self._llm.achat(_messages(query))).message.content)

    async def stream(self, query: str) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async for response in await self._llm.astream_chat(_messages(query)):
            yield response.delta or ""


def _messages(query: str) -> list[Any]:
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(role="user", content=query)]


def routed(name: str, url: str) -> dict[str, Any]:
    """The arguments of a routed model; one server plays all experts."""
    if name == "words":
        from tests.support.word_router import WordRouter

        router: Router = WordRouter.named(dict.fromkeys(TOPICS, 0.5))
    else:
        directory, _, precision = name.partition("@")
        router = AutoRouter.from_pretrained(directory, precision=precision or None)
    experts = dict.fromkeys(router.experts, url)
    return {"router": router, "experts": experts, "settings": SETTINGS, "max_tokens": MAX_TOKENS}


def make(url: str, framework: str, router: str) -> Client:
    """The contender of this framework."""
    return (langchain if framework == "langchain" else LlamaIndex)(url, router)


if __name__ == "__main__":
    work(make, "torouter", "aiohttp", "langchain-core", "llama-index-core", "onnxruntime")
