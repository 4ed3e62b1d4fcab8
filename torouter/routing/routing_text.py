"""The text that a router reads: a part of the conversation, or what the caller sets around calls without an argument.

In retrieval-augmented generation most of a prompt is context, which says little about which expert answers best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal

TextSource = Literal["last_user", "conversation"]
"""Which part of a conversation is read: the last user turn, so that a tool loop stays with its expert, or all turns."""

_given: ContextVar[str | None] = ContextVar("torouter_routing_text", default=None)


@contextmanager
def routing_text(text: str) -> Iterator[None]:
    """Route every call inside the block by `text`, in this thread or task and those that inherit its context.

        with routing_text(question):
            chain.invoke({"context": documents, "question": question})

    A call's own `routing_text` overrides it.
    """
    token = _given.set(text)
    try:
        yield
    finally:
        _given.reset(token)


def given_routing_text() -> str | None:
    """The text of the innermost block, None outside any block."""
    return _given.get()


@dataclass(frozen=True, slots=True)
class Turn:
    """One message as routing sees it: OpenAI's role, the text, and whether it holds an image."""

    role: str
    text: str
    has_image: bool = False


def text_of(turns: Sequence[Turn], source: TextSource) -> str:
    """The text of the last user turn (the last turn where there is no user's), or of all turns but tools'."""
    if source == "conversation":
        return "\n".join(turn.text for turn in turns if turn.text and turn.role != "tool")
    for turn in reversed(turns):
        if turn.role == "user":
            return turn.text
    return turns[-1].text if turns else ""
