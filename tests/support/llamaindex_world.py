"""What the tests of the LlamaIndex adapter share: two experts, LLMs that route or are experts, and event recorders."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # a re-export
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from pydantic import Field

from llamaindex_torouter import RoutedLLM
from tests.support.scripted_tgi import ScriptedTGI
from tests.support.word_router import WordRouter


@dataclass
class World:
    """Two experts behind scripted servers and the LLM that routes between them."""

    code: ScriptedTGI
    math: ScriptedTGI
    router: WordRouter
    llm: RoutedLLM

    def again(self, **changes: Any) -> RoutedLLM:
        experts = {"code": self.code.url, "math": self.math.url}
        return RoutedLLM(**{"router": self.router, "experts": experts, **changes})

    @property
    def asked(self) -> tuple[int, int]:
        """How many requests the experts code and math have received."""
        return len(self.code.requests), len(self.math.requests)


@contextmanager
def world() -> Iterator[World]:
    router = WordRouter.named({"code": 0.6, "math": 0.5})
    limits = {"max_input_tokens": 16_383, "max_total_tokens": 16_384}
    with ScriptedTGI(model_id="test/code", **limits) as code, ScriptedTGI(model_id="test/math", **limits) as math:
        llm = RoutedLLM(router=router, experts={"code": code.url, "math": math.url})
        yield World(code, math, router, llm)


class _Collector(BaseEventHandler):
    events: list[BaseEvent] = []  # noqa: RUF012 - a pydantic field

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        self.events.append(event)


@contextmanager
def listening() -> Iterator[list[BaseEvent]]:
    """Record all events of LlamaIndex's instrumentation inside the block."""
    root, collector = get_dispatcher(), _Collector()
    root.event_handlers.append(collector)
    try:
        yield collector.events
    finally:
        root.event_handlers.remove(collector)


def experts_of(events: list[BaseEvent]) -> list[str]:
    """The experts that answered, in order."""
    return [event.expert for event in events if event.class_name() == "RouteServedEvent"]  # type: ignore[attr-defined]


def counter() -> tuple[TokenCountingHandler, CallbackManager]:
    """LlamaIndex's own token counter; where usage is reported it uses that instead of its tokenizer."""
    handler = TokenCountingHandler(tokenizer=str.split)
    return handler, CallbackManager([handler])


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=text)]


def routing(response: ChatResponse | CompletionResponse) -> dict[str, Any]:
    block: dict[str, Any] = response.additional_kwargs["routing"]
    return block


class Sure(CustomLLM):
    """A completion model that counts itself, as integrations do."""

    calls: list[str] = Field(default_factory=list)
    failure: Any = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=512, model_name="sure")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.calls.append(prompt)
        if self.failure is not None:
            raise self.failure
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        return CompletionResponse(text="Sure.", raw={"usage": usage})

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def steps() -> CompletionResponseGen:
            for text in ("Su", "Sure."):
                usage = {"prompt_tokens": 3, "completion_tokens": 2}
                yield CompletionResponse(text=text, delta=text[-3:], raw={"usage": usage})

        return steps()
