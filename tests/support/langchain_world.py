"""What the tests of RoutedChatModel share: two experts and a chat model that routes between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessageChunk

from langchain_torouter import RoutedChatModel
from tests.support.scripted_tgi import ScriptedTGI
from tests.support.word_router import WordRouter


@dataclass
class World:
    """Two experts behind scripted servers and the model that routes between them."""

    code: ScriptedTGI
    math: ScriptedTGI
    router: WordRouter
    model: RoutedChatModel

    def again(self, **changes: Any) -> RoutedChatModel:
        experts = {"code": self.code.url, "math": self.math.url}
        return RoutedChatModel(**{"router": self.router, "experts": experts, **changes})


@contextmanager
def world() -> Iterator[World]:
    router = WordRouter.named({"code": 0.6, "math": 0.5})
    with ScriptedTGI(model_id="test/code") as code, ScriptedTGI(model_id="test/math") as math:
        model = RoutedChatModel(router=router, experts={"code": code.url, "math": math.url})
        yield World(code, math, router, model)


def merged(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total
