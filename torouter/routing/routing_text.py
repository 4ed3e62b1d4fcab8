"""The text that a router scores, set for a block of code whose calls don't take it as an argument.

In retrieval-augmented generation most of a prompt is context, which says little about who answers the question best.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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
