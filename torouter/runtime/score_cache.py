"""Remembers the scores of the texts that were routed last, so that a repeated text costs no forward pass."""

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
"""Characters from which on a text is remembered by its hash."""


class ScoreCache:
    """A bounded cache of one router's scores by exact text. Threads may share it.

    Args:
        router: The router that scores what is not remembered. It never changes, so nothing goes stale.
        size: Most texts that are kept, but for a larger batch, which is kept whole until the next text comes; the one
            not used for longest goes first.
    """

    def __init__(self, router: Router, size: int = 1024) -> None:
        self._router = router
        self._size = size
        self._rows: OrderedDict[str | bytes, Row] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, text: str) -> Row | None:
        """The scores of `text`, shape (k experts,), None where it has to be scored."""
        key = _key(text)
        with self._lock:
            row = self._rows.get(key)
            if row is not None:
                self._rows.move_to_end(key)
            return row

    def scores(self, texts: Sequence[str]) -> list[Row]:
        """The scores of each text, shape (k experts,); all that are not remembered go through one forward pass.

        Raises:
            ConfigurationError: The router gives scores of another shape.
        """
        rows = {text: self.known(text) for text in texts}
        missing = [text for text, row in rows.items() if row is None]
        if missing:
            fresh = dict(zip(missing, self.passed(missing), strict=True))
            self.keep(fresh, room=len(rows))
            rows.update(fresh)
        return [row for text in texts if (row := rows[text]) is not None]

    def missing(self, texts: Sequence[str]) -> list[str]:
        """Those that have to be scored."""
        return [text for text in texts if self.known(text) is None]

    def passed(self, texts: Sequence[str]) -> list[Row]:
        """The scores of each text by a forward pass, whatever is remembered; raises as `scores` does."""
        found, shape = self._router.scores(texts), (len(texts), len(self._router.experts))
        if found.shape != shape:
            msg = f"{type(self._router).__name__}.scores gives shape {found.shape}; let it give {shape}: texts, experts"
            raise ConfigurationError(msg)
        return [row.copy() for row in found]  # a row of the pass's own array would keep all of it

    def keep(self, rows: Mapping[str, Row], room: int) -> None:
        """Remember scores, those of `room` texts at least."""
        with self._lock:
            self._rows.update((_key(text), row) for text, row in rows.items())
            while len(self._rows) > max(self._size, room):
                self._rows.popitem(last=False)


def _key(text: str) -> str | bytes:
    """What stands for a text: itself, or its hash where it is long, so that the size in bytes is bounded too."""
    if len(text) <= _LONG:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
