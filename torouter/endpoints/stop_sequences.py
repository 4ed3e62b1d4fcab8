"""Cuts a text at the first of several stop texts, whatever the pieces in which it comes."""

from __future__ import annotations


class StopCutter:
    """Holds back what may be the start of a stop text, until the next piece tells.

    TGI leaves the stop text at the end of the answer, and misses one that ends inside of a longer token. What counts as
    first is the stop text that is complete first, as for a server that looks after each character.
    """

    __slots__ = ("_held", "_stops", "cut")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.cut = False

    def feed(self, piece: str) -> str:
        """What may be given out now; "" once the text is cut."""
        if not self._stops:
            return piece
        if self.cut:
            return ""
        text = self._held + piece
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.cut = True
            self._held = ""
            return text[: min(found)[1]]
        kept = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def close(self) -> str:
        """What was held back and turned out to be no stop text."""
        held, self._held = self._held, ""
        return held


def cut_at(stops: tuple[str, ...], text: str) -> tuple[str, bool]:
    """A whole text up to the first stop text, and whether there was one."""
    cutter = StopCutter(stops)
    return cutter.feed(text) + cutter.close(), cutter.cut


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that a stop text starts with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
