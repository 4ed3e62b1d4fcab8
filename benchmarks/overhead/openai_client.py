"""Contender of `benchmarks.overhead`: OpenAI's own client."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.overhead.call_load import MAX_TOKENS, ChatCompletions, work


class OpenAI(ChatCompletions):
    """The client, without retries, which nothing here needs."""

    def __init__(self, url: str) -> None:
        self._client: Any = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    async def ask(self, messages: list[dict[str, str]], *, stream: bool) -> Any:
        return await self._client.chat.completions.create(
            model="tgi", messages=messages, max_tokens=MAX_TOKENS, stream=stream
        )


if __name__ == "__main__":
    work(OpenAI, "openai", "httpx2")
