"""Parses server-sent events: feed it the bytes that come, however they are split, and get each event's data."""

from __future__ import annotations

from collections.abc import Iterator

from torouter.errors import ExpertProtocolError

MAX_EVENT_BYTES = 2**20


class SSEReader:
    """Parses one stream; it does no input or output itself.

    Lines end with LF, CRLF or CR and nothing else: a JSON string may hold U+2028, U+2029 and U+0085 as they are, and
    `str.splitlines()` would break an event there. `bytes.splitlines()` splits at those three only.

    Args:
        expert: Name of the expert, for errors.
        max_event: Most bytes of one event's data, or of one line.
    """

    def __init__(self, expert: str, *, max_event: int = MAX_EVENT_BYTES) -> None:
        self._expert = expert
        self._max_event = max_event
        self._line = bytearray()  # the start of a line whose end has not come
        self._data: list[bytes] = []  # the `data` lines of an event whose end has not come
        self._size = 0
        self._after_cr = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of every event that `piece` completes.

        Raises:
            ExpertProtocolError: An event is larger than `max_event`.
        """
        if self._after_cr and piece.startswith(b"\n"):  # the second half of a CRLF
            piece = piece[1:]
            self._after_cr = False
        if not piece:
            return
        self._after_cr = piece.endswith(b"\r")
        for line in piece.splitlines(keepends=True):
            content = line.rstrip(b"\r\n")
            if len(content) == len(line):  # only the last one can lack its end
                self._grow(self._line, content)
                return
            if self._line:
                self._grow(self._line, content)
                content = bytes(self._line)
                self._line.clear()
            yield from self._process(content)

    def close(self) -> Iterator[bytes]:
        """Yield the data that the stream's end completes: servers may leave out the last line end or blank line."""
        if self._line:
            yield from self._process(bytes(self._line))
            self._line.clear()
        yield from self._process(b"")

    def _process(self, line: bytes) -> Iterator[bytes]:
        if not line:
            if self._data:
                data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                self._data.clear()
                self._size = 0
                yield data
            return
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._size += len(value) + 1  # with its line end: empty lines take memory too
            self._check(self._size)
            self._data.append(value)
        elif name == b"error":
            # llama.cpp's builds of 2025 send an error like this, outside any `data` line.
            yield b'{"error":' + value + b"}"

    def _grow(self, line: bytearray, more: bytes) -> None:
        self._check(len(line) + len(more))
        line += more

    def _check(self, size: int) -> None:
        if size > self._max_event:
            msg = f"expert {self._expert!r} streams an event of more than {self._max_event} bytes"
            raise ExpertProtocolError(msg, expert=self._expert)
