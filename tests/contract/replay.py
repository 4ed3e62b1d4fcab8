"""Asks with each of the four classes, synchronously or not, and tells what came in one form for both frameworks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Literal

from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from llama_index.core.base.llms.types import ChatMessage, ChatResponse

from langchain_torouter import ChatTGI, RoutedChatModel
from llamaindex_torouter import TGILLM, RoutedLLM
from tests.contract.exchange import Kind, Request
from tests.support.word_router import WordRouter
from torouter.dispatch import DispatchSettings
from torouter.endpoints import close_sessions
from torouter.errors import TORouterError
from torouter.experts import Expert

ClassName = Literal["ChatTGI", "RoutedChatModel", "TGILLM", "RoutedLLM"]
SINGLE: tuple[ClassName, ...] = ("ChatTGI", "TGILLM")
ROUTED: tuple[ClassName, ...] = ("RoutedChatModel", "RoutedLLM")
Model = ChatTGI | RoutedChatModel | TGILLM | RoutedLLM
Part = AIMessage | ChatResponse

_SYNC = {("ChatTGI", "chat"), ("RoutedChatModel", "chat_stream"), ("TGILLM", "chat_stream"), ("RoutedLLM", "chat")}
"""Who asks for what by a synchronous method. Each class has both, and so has each kind of request."""


@dataclass
class Heard:
    """What one caller got: the pieces as they came, and what all of them together say."""

    pieces: list[str] = field(default_factory=list)
    text: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    call_ids: list[str] = field(default_factory=list)
    finish_reason: str | None = None
    usage: tuple[int, int] | None = None
    model: str | None = None
    logprobs: int = 0
    routing: dict[str, Any] | None = None
    error: TORouterError | None = None


def model_of(name: ClassName, *, first: str, second: str, serves: str | None = None) -> Model:
    """A model of this class that asks the server `first`, and if it can choose `second` after it.

    `serves` is the model that the first one is to serve; without it nobody asks the servers what they serve.
    """
    if name in SINGLE:
        return (ChatTGI if name == "ChatTGI" else TGILLM)(base_url=first, max_retries=0)
    return (RoutedChatModel if name == "RoutedChatModel" else RoutedLLM)(
        router=WordRouter.named({"first": 0.6, "second": 0.5}),
        experts={"first": Expert(name="first", url=first, model=serves), "second": second},
        settings=DispatchSettings(handshake="refuse" if serves else "off"),
    )


def hear(name: ClassName, model: Model, request: Request, kind: Kind) -> Heard:
    """Ask, and keep what came before an error too."""
    parts: list[Any] = []
    error = None
    streamed = kind == "chat_stream"
    try:
        if (name, kind) in _SYNC:
            for part in _parts(model, request, streamed=streamed):
                parts.append(part)  # noqa: PERF402 - what came before an error counts
        else:
            asyncio.run(_acollect(parts, model, request, streamed=streamed))
    except TORouterError as raised:
        error = raised
    heard = Heard()
    if parts and isinstance(model, (ChatTGI, RoutedChatModel)):
        heard = _of_langchain(parts)
    elif parts:
        heard = _of_llamaindex(model, parts)
    heard.error = error
    return heard


def _parts(model: Model, request: Request, *, streamed: bool) -> Iterator[Part]:
    if isinstance(model, (ChatTGI, RoutedChatModel)):
        bound = _with_tools(model, request)
        if streamed:
            yield from bound.stream(request.text, **request.parameters)
        else:
            yield bound.invoke(request.text, **request.parameters)
    elif streamed:
        yield from model.stream_chat([ChatMessage(request.text)], **_keywords(request))
    else:
        yield model.chat([ChatMessage(request.text)], **_keywords(request))


async def _aparts(model: Model, request: Request, *, streamed: bool) -> AsyncIterator[Part]:
    if isinstance(model, (ChatTGI, RoutedChatModel)):
        bound = _with_tools(model, request)
        if streamed:
            async for chunk in bound.astream(request.text, **request.parameters):
                yield chunk
        else:
            yield await bound.ainvoke(request.text, **request.parameters)
    elif streamed:
        async for response in await model.astream_chat([ChatMessage(request.text)], **_keywords(request)):
            yield response
    else:
        yield await model.achat([ChatMessage(request.text)], **_keywords(request))


async def _acollect(parts: list[Any], model: Model, request: Request, *, streamed: bool) -> None:
    try:
        async for part in _aparts(model, request, streamed=streamed):
            parts.append(part)  # noqa: PERF401 - what came before an error counts
    finally:
        await close_sessions()


def _with_tools(model: ChatTGI | RoutedChatModel, request: Request) -> Runnable[Any, AIMessage]:
    return model.bind_tools(request.tool_objects, tool_choice=request.tool_choice) if request.tools else model


def _keywords(request: Request) -> dict[str, Any]:
    """The keywords of a call to a LlamaIndex LLM."""
    tools = {"tools": request.tool_objects, "tool_choice": request.tool_choice} if request.tools else {}
    return {**request.parameters, **tools}


def _of_langchain(messages: list[Any]) -> Heard:
    message = reduce(add, messages[1:], messages[0])
    metadata, usage = message.response_metadata, message.usage_metadata
    return Heard(
        pieces=[piece.text for piece in messages],
        text=message.text,
        calls=[(call["name"], call["args"]) for call in message.tool_calls],
        call_ids=[call["id"] for call in message.tool_calls],
        finish_reason=metadata.get("finish_reason"),
        usage=(usage["input_tokens"], usage["output_tokens"]) if usage else None,
        model=metadata["model_name"],
        logprobs=len(metadata.get("logprobs", {}).get("content", ())),
        routing=metadata.get("routing"),
    )


def _of_llamaindex(model: TGILLM | RoutedLLM, responses: list[Any]) -> Heard:
    last = responses[-1]
    raw = last.raw
    usage = raw.get("usage")
    calls = model.get_tool_calls_from_response(last, error_on_no_tool_call=False)
    return Heard(
        pieces=[last.message.content or "" if piece.delta is None else piece.delta for piece in responses],
        text=last.message.content or "",
        calls=[(call.tool_name, call.tool_kwargs) for call in calls],
        call_ids=[call.tool_id for call in calls],
        finish_reason=raw["finish_reason"],
        usage=(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None,
        model=raw["model"],
        logprobs=len(raw.get("logprobs", {}).get("content", ())),
        routing=last.additional_kwargs.get("routing"),
    )
