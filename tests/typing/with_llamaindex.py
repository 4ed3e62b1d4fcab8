"""The LlamaIndex adapter: an LLM and a selector like any other, with the core's types behind them."""

from __future__ import annotations

from typing import assert_type

from llama_index.core.base.base_selector import BaseSelector
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse
from llama_index.core.llms import LLM

from llamaindex_torouter import TGILLM, RoutedLLM, TORouterSelector
from torouter import AutoRouter, Health, RouteDecision, RoutingPolicy


def building() -> list[LLM]:
    router = AutoRouter.from_pretrained("my-router")
    by_path = RoutedLLM(router="my-router", experts="experts.yaml", policy=RoutingPolicy(max_seconds=10))
    by_llm = RoutedLLM(router=router, experts={"code": TGILLM(base_url="http://127.0.0.1:8080")})
    return [by_path, by_llm]


def selecting() -> BaseSelector:
    TORouterSelector("my-router", top=2)  # type: ignore[call-arg]
    return TORouterSelector("my-router", names={"code_engine": "code"}, top_n=2, threshold=0.4)


def asking(llm: RoutedLLM) -> None:
    messages = [ChatMessage("What is 2 + 3?")]
    assert_type(llm.chat(messages, exclude=["chat"]), ChatResponse)
    assert_type(llm.complete("What is 2 + 3?"), CompletionResponse)
    assert_type(llm.route(messages), RouteDecision)
    assert_type(llm.health(), Health)


async def streaming(llm: RoutedLLM) -> str:
    stream = await llm.astream_chat([ChatMessage("Count to three.")])
    return "".join([response.delta or "" async for response in stream])
