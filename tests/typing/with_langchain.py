"""The LangChain adapter: a chat model like any other, with the core's types behind it."""

from __future__ import annotations

from typing import assert_type

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate

from langchain_torouter import ChatTGI, RoutedChatModel
from torouter import AutoRouter, Expert, ExpertPool, Health, RouteDecision, RoutingPolicy


def building() -> list[BaseChatModel]:
    router = AutoRouter.from_pretrained("my-router")
    by_url = RoutedChatModel(router="my-router", experts={"code": "http://127.0.0.1:8080"})
    by_value = RoutedChatModel(
        router=router,
        experts=ExpertPool([Expert(name="code", url="http://127.0.0.1:8080")]),
        policy=RoutingPolicy(default_expert="code", min_confidence=0.3),
        routing_text=lambda messages: str(messages[-1].content),
    )
    by_model = RoutedChatModel(router=router, experts={"code": ChatTGI(base_url="http://127.0.0.1:8080")})
    return [by_url, by_value, by_model]


def asking(model: RoutedChatModel) -> None:
    assert_type(model.invoke("What is 2 + 3?", exclude=["chat"]), AIMessage)
    assert_type(model.route("What is 2 + 3?"), RouteDecision)
    assert_type(model.health(), Health)
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | model
    assert_type(chain.invoke({"question": "What is 2 + 3?"}), AIMessage)


async def streaming(model: RoutedChatModel) -> str:
    return "".join([chunk.text async for chunk in model.astream("Count to three.")])
