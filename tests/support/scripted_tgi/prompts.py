"""The scripted model's chat template, and its tokens as `/chat_tokenize` and prefill logprobs list them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from typing import Any

from tests.support.scripted_tgi.model import text_of

_TOKEN = re.compile(r"<\|\w+\|>|\s*(?:(?!<\|)\S)+|\s+")
BEGIN = "<|begin|>"


def templated(body: Mapping[str, Any]) -> str:
    """The prompt of a chat body."""
    turns = [f"<|{message['role']}|>{text_of(message.get('content'))}" for message in body["messages"]]
    return "".join((BEGIN, *turns, "<|assistant|>"))


def chat_tokenize(body: Mapping[str, Any]) -> dict[str, Any]:
    text = templated(body)
    prompt_tokens = [
        {"id": _id(match[0]), "text": match[0], "start": match.start(), "stop": match.end()}
        for match in _TOKEN.finditer(text)
    ]
    return {"tokenize_response": prompt_tokens, "templated_text": text}


def prefill(inputs: str) -> list[dict[str, Any]]:
    """The prompt's tokens after the one that `/generate` adds; a logprob is minus a tenth of the token's length."""
    texts = [BEGIN, *(match[0] for match in _TOKEN.finditer(inputs))]
    logprobs = [None, *(-len(text) / 10 for text in texts[1:])]
    return [{"id": _id(text), "text": text, "logprob": logprob} for text, logprob in zip(texts, logprobs, strict=True)]


def _id(text: str) -> int:
    return zlib.crc32(text.encode()) % 50_000
