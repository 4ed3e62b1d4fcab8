"""Contender of `benchmarks.overhead`: LiteLLM's Router with one model."""

from __future__ import annotations

import os
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import downloads a file

from litellm import Router  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.overhead.call_load import MAX_TOKENS, ChatCompletions, work


class LiteLLM(ChatCompletions):
    """The router, without retries, which nothing here needs."""

    def __init__(self, url: str) -> None:
        parameters = {"model": "openai/tgi", "api_base": f"{url}/v1", "api_key": "none"}
        self._router: Any = Router(model_list=[{"model_name": "one", "litellm_params": parameters}], num_retries=0)

    async def ask(self, messages: list[dict[str, str]], *, stream: bool) -> Any:
        return await self._router.acompletion(model="one", messages=messages, max_tokens=MAX_TOKENS, stream=stream)


if __name__ == "__main__":
    work(LiteLLM, "litellm", "openai", "aiohttp")
