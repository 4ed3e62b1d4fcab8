"""Calls both adapters, sync or async, whole or streamed, and reduces each call to its text, routing block and error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_core.callbacks import BaseCallbackHandler
from llama_index.core.base.llms.types import ChatMessage

from langchain_torouter import RoutedChatModel
from llamaindex_torouter import RoutedLLM
from torouter.errors import TORouterError

Framework = Literal["langchain", "llamaindex"]
Piece = tuple[str, Mapping[str, Any] | None]
"""A piece of text, and the routing block of its message."""


@dataclass
class Received:
    """What one caller received."""

    pieces: list[str] = field(default_factory=list)
    routing: Mapping[str, Any] | None = None
    error: TORouterError | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece[0])
        self.routing = self.routing or piece[1]


def model_of(framework: Framework, **options: Any) -> RoutedChatModel | RoutedLLM:
    """A routed model of this framework; both frameworks take the same options."""
    return (RoutedChatModel if framework == "langchain" else RoutedLLM)(**options)


def ask(
    model: RoutedChatModel | RoutedLLM, text: str, *, streamed: bool, callbacks: list[BaseCallbackHandler] | None = None
) -> Received:
    """Call the synchronous method. `callbacks` are LangChain's."""
    received = Received()
    try:
        for piece in _pieces(model, text, streamed, callbacks or []):
            received.add(piece)
    except TORouterError as error:
        received.error = error
    return received


async def aask(
    model: RoutedChatModel | RoutedLLM, text: str, *, streamed: bool, callbacks: list[BaseCallbackHandler] | None = None
) -> Received:
    """Call the asynchronous method. `callbacks` are LangChain's."""
    received = Received()
    try:
        async for piece in _apieces(model, text, streamed, callbacks or []):
            received.add(piece)
    except TORouterError as error:
        received.error = error
    return received


def _pieces(
    model: RoutedChatModel | RoutedLLM, text: str, streamed: bool, callbacks: list[BaseCallbackHandler]
) -> Iterator[Piece]:
    if isinstance(model, RoutedChatModel):
        config = {"callbacks": callbacks}
        for message in model.stream(text, config) if streamed else [model.invoke(text, config)]:
            yield message.text, message.response_metadata.get("routing")
    elif streamed:
        for response in model.stream_chat([ChatMessage(text)]):
            yield response.delta or "", response.additional_kwargs["routing"]
    else:
        response = model.chat([ChatMessage(text)])
        yield response.message.content or "", response.additional_kwargs["routing"]


async def _apieces(
    model: RoutedChatModel | RoutedLLM, text: str, streamed: bool, callbacks: list[BaseCallbackHandler]
) -> AsyncIterator[Piece]:
    if isinstance(model, RoutedChatModel):
        config = {"callbacks": callbacks}
        if streamed:
            async for message in model.astream(text, config):
                yield message.text, message.response_metadata.get("routing")
        else:
            message = await model.ainvoke(text, config)
            yield message.text, message.response_metadata.get("routing")
    elif streamed:
        async for response in await model.astream_chat([ChatMessage(text)]):
            yield response.delta or "", response.additional_kwargs["routing"]
    else:
        response = await model.achat([ChatMessage(text)])
        yield response.message.content or "", response.additional_kwargs["routing"]
