"""Contender of `benchmarks.overhead`: huggingface_hub's AsyncInferenceClient."""

from __future__ import annotations

import os
from typing import Any

os.environ.pop("HF_HUB_OFFLINE", None)  # else it refuses 127.0.0.1 too

from huggingface_hub import AsyncInferenceClient

from benchmarks.overhead.call_load import MAX_TOKENS, ChatCompletions, work


class HuggingFace(ChatCompletions):
    """The client of one endpoint; it does not call the Hub."""

    def __init__(self, url: str) -> None:
        self._client: Any = AsyncInferenceClient(base_url=url, api_key="none")

    async def ask(self, messages: list[dict[str, str]], *, stream: bool) -> Any:
        return await self._client.chat_completion(messages, model="tgi", max_tokens=MAX_TOKENS, stream=stream)


if __name__ == "__main__":
    work(HuggingFace, "huggingface-hub", "httpx2")
