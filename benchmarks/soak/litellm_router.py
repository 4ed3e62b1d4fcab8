"""Contender of `benchmarks.soak`: LiteLLM's Router, each expert a model with the others as fallbacks."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import downloads a file

from litellm import Router  # type: ignore[import-not-found]  # in an environment of its own

from benchmarks.soak.soak_load import ATTEMPT_SECONDS, RANKINGS


class Routed:
    """The router, without retries of the same expert, which would delay the fallback."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._router: Any = Router(
            model_list=[
                {
                    "model_name": name,
                    "litellm_params": {"model": "openai/tgi", "api_base": f"{url}/v1", "api_key": "none"},
                }
                for name, url in urls.items()
            ],
            fallbacks=[{first: others} for first, *others in RANKINGS],
            num_retries=0,
            timeout=ATTEMPT_SECONDS,
            stream_timeout=ATTEMPT_SECONDS,
        )

    async def call(self, ranking: tuple[str, ...]) -> str:
        """The whole answer."""
        answer = await self._ask(ranking, stream=False)
        return answer.choices[0].message.content or ""

    async def stream(self, ranking: tuple[str, ...]) -> AsyncIterator[str]:
        """The answer piece by piece."""
        async for chunk in await self._ask(ranking, stream=True):
            yield chunk.choices[0].delta.content or "" if chunk.choices else ""

    async def _ask(self, ranking: tuple[str, ...], *, stream: bool) -> Any:
        messages = [{"role": "user", "content": f"ask {ranking[0]}"}]
        return await self._router.acompletion(model=ranking[0], messages=messages, max_tokens=64, stream=stream)
