"""Cuts a text at the first of several stop sequences, whatever the pieces in which it comes."""

from __future__ import annotations


class StopSequenceFilter:
    """Passes a streamed text on up to the first stop sequence; what may be the start of one waits for the next piece.

    TGI leaves the stop sequence at the end of the answer, and misses one that ends inside a longer token. The first
    stop sequence is the one that is complete first, as for a server that checks after each character.

    Attributes:
        cut: Whether a stop sequence was found, so that nothing more is passed on.
    """

    __slots__ = ("_held", "_stop_sequences", "cut")

    def __init__(self, stop_sequences: tuple[str, ...]) -> None:
        self._stop_sequences = stop_sequences
        self._held = ""
        self.cut = False

    def feed(self, piece: str) -> str:
        """The text that can be passed on now; "" once the text is cut."""
        if not self._stop_sequences:
            return piece
        if self.cut:
            return ""
        text = self._held + piece
        ends = [(start + len(stop), start) for stop in self._stop_sequences if (start := text.find(stop)) >= 0]
        if ends:
            self.cut = True
            self._held = ""
            return text[: min(ends)[1]]
        kept = max(_overlap(text, stop) for stop in self._stop_sequences)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept]

    def close(self) -> str:
        """The text that was held back and is no stop sequence after all."""
        held, self._held = self._held, ""
        return held


def cut_at(stop_sequences: tuple[str, ...], text: str) -> tuple[str, bool]:
    """A whole text up to the first stop sequence, and whether it contains one."""
    stop_filter = StopSequenceFilter(stop_sequences)
    return stop_filter.feed(text) + stop_filter.close(), stop_filter.cut


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which the stop sequence `stop` starts."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
