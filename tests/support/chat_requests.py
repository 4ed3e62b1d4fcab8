"""Requests, experts and helpers that the tests of the endpoints share."""

import pytest

from torouter.chat import ChatRequest
from torouter.endpoints import TGIClient
from torouter.experts import Expert

TGI = Expert(name="code", url="http://127.0.0.1:1")
OPENAI = Expert(name="open", url="http://127.0.0.1:1", api="openai", model="served/model")
USER = {"role": "user", "content": "Hi"}
ASK = ChatRequest((USER,))
SCHEMA = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
TOOLS = ChatRequest((USER,), tools=(TOOL,), tool_choice="required")


def chat_request(**parameters):
    """`ASK` with these parameters."""
    return ChatRequest((USER,), parameters)


def client_of(server, *, timeouts=None, **fields):
    """A client of this server; `fields` are the expert's."""
    return TGIClient(Expert(name="code", url=server.url, **fields), timeouts=timeouts)


async def collect_chunks(stream):
    return [chunk async for chunk in stream]


async def answer_text(client, request=ASK, *, stream, **limits):
    """The text of the whole or of the streamed answer, so that one test can cover both."""
    if not stream:
        return (await client.chat(request, **limits)).text
    return "".join([chunk.text async for chunk in client.chat_stream(request, **limits)])


whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["call", "stream"])
