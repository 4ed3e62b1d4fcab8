"""The event reader accepts any split of the bytes, knows three line ends only, and limits the size of an event."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torouter.endpoints.sse import SSEReader
from torouter.errors import ExpertProtocolError

# Every form that a server may send: both colons, three line ends, comments, other fields, data on two lines, characters
# that str.splitlines() takes for line ends, a bare error line, and an end without any line end.
STREAM = (
    b": keep-alive\n\n"
    b'data: {"a":1}\n\n'
    b'data:{"b":2}\r\n\r\n'
    b"event: x\rid: 7\rretry: 1\rdata: c\r\r"
    b"data: one\ndata:  two\n\n"
    b"data\n\n"
    + 'data: "\u2028 \u2029 \u0085 \x0b \x7f é"\n\n'.encode()
    + b":\r\n\r\n\n\n"
    + b'error: {"code":500}\n'
    + b"data: [DONE]"
)
EVENTS = [
    b'{"a":1}',
    b'{"b":2}',
    b"c",
    b"one\n two",
    b"",
    '"\u2028 \u2029 \u0085 \x0b \x7f é"'.encode(),
    b'{"error": {"code":500}}',
    b"[DONE]",
]


def read(*pieces: bytes, max_event: int = 1000) -> list[bytes]:
    reader = SSEReader("code", max_event=max_event)
    return [data for piece in pieces for data in reader.feed(piece)] + list(reader.close())


def test_every_form_of_event_is_read():
    assert read(STREAM) == EVENTS


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_a_cut_at_any_byte_changes_nothing(at):
    assert read(STREAM[:at], STREAM[at:]) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_any_chunking_changes_nothing(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    assert read(*(STREAM[a:b] for a, b in pairwise(edges))) == EVENTS


def test_an_event_is_given_out_as_soon_as_its_blank_line_is_there():
    reader = SSEReader("code")
    assert list(reader.feed(b"data: 1\n")) == []
    assert list(reader.feed(b"\ndata: 2")) == [b"1"]


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: " + b"x" * 200 + b"\n\n"],
        [b"data: "] + [b"x"] * 200,
        [b"data: " + b"x" * 60 + b"\n"] * 3,
        [b"data\n"] * 200,
        [b":" + b"x" * 90, b"x" * 90],
    ],
    ids=["one piece", "a line without end", "many data lines", "many empty ones", "a comment without end"],
)
def test_an_event_beyond_the_cap_is_refused(pieces):
    with pytest.raises(ExpertProtocolError, match=r"'code'.*100 bytes") as caught:
        read(*pieces, max_event=100)
    assert caught.value.expert == "code"


def test_the_cap_is_of_one_event_and_not_of_the_stream():
    reader = SSEReader("code", max_event=100)
    assert len([data for _ in range(50) for data in reader.feed(b"data: " + b"x" * 90 + b"\n\n")]) == 50
