"""Sends plain requests to a scripted server with http.client, to test the server without torouter's client."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from tests.support.scripted_tgi.server import ScriptedTGI

CHAT = "/v1/chat/completions"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {
            "type": "object",
            "properties": {"location": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["location", "days"],
        },
    },
}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


@contextmanager
def connected(server: ScriptedTGI) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=5)
    try:
        yield connection
    finally:
        connection.close()


def send(
    server: ScriptedTGI, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, str, bytes]:
    """Status, content type and body."""
    with connected(server) as connection:
        connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.getheader("content-type", ""), response.read()


def post(server: ScriptedTGI, body: Any, path: str = CHAT) -> tuple[int, Any]:
    """Status and answer: JSON, or text where the server does not speak JSON."""
    status, kind, data = send(server, "POST", path, json.dumps(body).encode())
    return status, json.loads(data) if kind == "application/json" else data.decode()


def chat_payload(text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """The body of a chat request."""
    return {"model": "tgi", "messages": [{"role": "user", "content": text}], "max_tokens": 100, **fields}


def events(stream: str) -> list[Any]:
    """The data of each event, checked to be framed as axum frames it. `[DONE]` stays a string."""
    blocks = stream.split("\n\n")
    assert blocks.pop() == ""
    data = [block.removeprefix("data:").strip(" ") for block in blocks if block != ":"]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def deltas(stream: str) -> list[dict[str, Any]]:
    return [event["choices"][0]["delta"] for event in events(stream) if event != "[DONE]" and event["choices"]]
