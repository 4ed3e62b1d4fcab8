"""Remembers the scores of the texts that were routed last, so that a repeated text costs no forward pass."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from torouter.routing.router import Router

Row = NDArray[np.float32]


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
        self._rows: OrderedDict[str, Row] = OrderedDict()
        self._lock = threading.Lock()

    def known(self, text: str) -> Row | None:
        """The scores of `text`, shape (k experts,), None where it has to be scored."""
        with self._lock:
            row = self._rows.get(text)
            if row is not None:
                self._rows.move_to_end(text)
            return row

    def scores(self, texts: Sequence[str]) -> list[Row]:
        """The scores of each text, shape (k experts,); all that are not remembered go through one forward pass."""
        rows = {text: self.known(text) for text in texts}
        missing = [text for text, row in rows.items() if row is None]
        if missing:
            fresh = dict(zip(missing, self._router.scores(missing), strict=True))
            with self._lock:
                self._rows.update(fresh)
                while len(self._rows) > max(self._size, len(rows)):
                    self._rows.popitem(last=False)
            rows.update(fresh)
        return [row for text in texts if (row := rows[text]) is not None]
