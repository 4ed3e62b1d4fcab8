"""Keeps the scores of recently routed texts, so that a repeated text needs no forward pass."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from torouter.errors import ConfigurationError
from torouter.routers.router import Router

Row = NDArray[np.float32]

_LONG = 1024
"""Longest text, in characters, that is its own key; a longer one is kept under its hash."""


class ScoreCache:
    """A bounded cache of one router's scores by exact text. Threads may share it.

    Args:
        router: The router that scores the other texts. It never changes, so its scores stay valid.
        size: Most texts that are kept; the least recently used is dropped first. A larger batch is kept whole until the
            next text is stored.
    """

    def __init__(self, router: Router, size: int = 1024) -> None:
        self._router = router
        self._size = size
        self._rows: OrderedDict[str | bytes, Row] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, text: str) -> Row | None:
        """The scores of `text`, shape (k experts,); None where they are not in the cache."""
        key = _key(text)
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def scores(self, texts: Sequence[str]) -> list[Row]:
        """The scores of each text, shape (k experts,). Texts that are not in the cache are scored in one forward pass.

        Raises:
            ConfigurationError: The router gives scores of another shape.
        """
        rows = {text: self.get(text) for text in texts}
        missing = [text for text, row in rows.items() if row is None]
        if missing:
            computed = dict(zip(missing, self.compute(missing), strict=True))
            self.store(computed, room=len(rows))
            rows.update(computed)
        return [row for text in texts if (row := rows[text]) is not None]

    def missing(self, texts: Sequence[str]) -> list[str]:
        """The texts that are not in the cache."""
        return [text for text in texts if self.get(text) is None]

    def compute(self, texts: Sequence[str]) -> list[Row]:
        """The scores of each text by a forward pass, without the cache; raises as `scores` does."""
        scores, shape = self._router.scores(texts), (len(texts), len(self._router.experts))
        if scores.shape != shape:
            name = type(self._router).__name__
            msg = f"{name}.scores returns shape {scores.shape}: it must return {shape}, texts by experts"
            raise ConfigurationError(msg)
        return [row.copy() for row in scores]  # a view would keep the whole array alive

    def store(self, rows: Mapping[str, Row], room: int) -> None:
        """Store scores by text. The cache keeps at least the `room` most recent texts."""
        with self._lock:
            self._rows.update((_key(text), row) for text, row in rows.items())
            while len(self._rows) > max(self._size, room):
                self._rows.popitem(last=False)


def _key(text: str) -> str | bytes:
    """A text's key: the text, or its hash where it is long, so that the cache is bounded in bytes too."""
    if len(text) <= _LONG:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
