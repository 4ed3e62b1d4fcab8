"""Maps a server's error answer, in whatever form and wording, to one typed error of `torouter.errors`.

TGI, vLLM, SGLang, llama.cpp, `transformers serve` and the proxies before them agree on HTTP statuses at most. So the
status is read first, and the text where no status helps, as in a stream, whose status is 200 long before its error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from torouter.endpoints.retry_after import retry_after
from torouter.errors import (
    ContextLengthError,
    ExpertAuthenticationError,
    ExpertError,
    ExpertGenerationError,
    ExpertNotFoundError,
    ExpertOverloadedError,
    ExpertPermissionError,
    ExpertProtocolError,
    ExpertRequestError,
    ExpertServerError,
    ExpertTimeoutError,
    TruncatedReplyError,
)

BODY_CHARACTERS = 2000
"""How much of a server's answer an error keeps as `body`."""
QUOTED_CHARACTERS = 300
"""How much of TGI's own text an error's message quotes."""

_Mapped = tuple[type[ExpertError], str]
"""The error's class, and the hint in its message."""

_BY_STATUS: dict[int, _Mapped] = {
    401: (ExpertAuthenticationError, "the token is missing or wrong: set the expert's api_key or api_key_env"),
    403: (ExpertPermissionError, "the token has no right to this expert"),
    404: (ExpertNotFoundError, "no such path or model: check the expert's url and model"),
    405: (ExpertNotFoundError, "the path takes no such request: check the expert's url"),
    408: (ExpertTimeoutError, "the request took too long"),
    413: (ContextLengthError, "the request has too many bytes for this server"),
    424: (ExpertGenerationError, "generation failed"),
    429: (ExpertOverloadedError, "the server is overloaded"),
}

# How TGI's own texts begin (InferError in router/src/infer/mod.rs). They quote no prompt, so the message may.
_BY_TGI_TEXT: dict[str, type[ExpertError]] = {
    "Input validation error": ExpertRequestError,
    "Template error": ExpertRequestError,
    "Missing template": ExpertRequestError,
    "Tool error": ExpertRequestError,
    "Request failed during generation": ExpertGenerationError,
    "Model is overloaded": ExpertOverloadedError,
    "Incomplete generation": ExpertGenerationError,
}
_UNPARSED_TOOL_CALL = "Failed to parse generated text"
# TGI's two texts, then the words that vLLM, SGLang and llama.cpp share.
_TOO_LONG = re.compile(
    r"`inputs` tokens \+|`inputs` must have less than|maximum model length|context[ _](?:length|size|window)",
    re.IGNORECASE,
)
_WRONG_FIELD = re.compile(r"Failed to deserialize the JSON body into the target type: ([\w.\[\]]+):")


def error_from_response(expert: str, status: int, body: bytes, headers: Mapping[str, str]) -> ExpertError:
    """The error for an answer with a status other than 200.

    Args:
        expert: Name of the expert.
        status: HTTP status.
        body: The answer's body: TGI's or another server's JSON, plain text, HTML or nothing.
        headers: The answer's headers; `Location` and `Retry-After` are read.
    """
    raw = body[: 4 * BODY_CHARACTERS].decode("utf-8", errors="replace")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    text, error_type, _ = _error_fields(value) if isinstance(value, Mapping) else (raw, None, None)
    if 300 <= status < 400:
        mapped: _Mapped = (ExpertNotFoundError, _redirect_hint(headers.get("Location", "")))
    else:
        mapped = _classify(status, text, error_type)
    error = _expert_error(expert, mapped, status=status, text=text, error_type=error_type, body=raw)
    error.retry_after = retry_after(headers)
    return error


def error_in_answer(expert: str, value: Mapping[str, Any]) -> ExpertError:
    """The error for an event of a stream, or an answer with status 200, that is an error object.

    TGI's chat gives 422 in every such event, whatever happened, so its text decides; where the text is not TGI's, the
    server's own code does.
    """
    text, error_type, code = _error_fields(value)
    if code is None or not 400 <= code < 600:
        code = 422 if _tgi_error_kind(text) else 500
    return _expert_error(
        expert,
        _classify(code, text, error_type),
        status=None,
        text=text,
        error_type=error_type,
        body=json.dumps(value),
    )


def is_error(value: Mapping[str, Any]) -> bool:
    """Whether an event of a stream, or an answer with status 200, is an error object."""
    return bool(value.get("error")) or value.get("object") == "error"


def _error_fields(value: Mapping[str, Any]) -> tuple[str, str | None, int | None]:
    """Text, type and numeric code, wherever this server puts them."""
    error = value.get("error", value)
    fields = error if isinstance(error, Mapping) else value
    message = fields.get("message") or fields.get("error") or fields.get("detail") or ""
    text = message if isinstance(message, str) else json.dumps(message)
    error_type = fields.get("error_type") or fields.get("type") or fields.get("code")
    code = fields.get("code")
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    return text, error_type if isinstance(error_type, str) else None, code if isinstance(code, int) else None


def _tgi_error_kind(text: str) -> type[ExpertError] | None:
    """The error of one of TGI's own texts, None for any other text."""
    return next((kind for start, kind in _BY_TGI_TEXT.items() if text.startswith(start)), None)


def _classify(status: int, text: str, error_type: str | None) -> _Mapped:
    if _UNPARSED_TOOL_CALL in text:
        # A stream ends in the same case with a cut tool call and no status: the same error for both.
        return TruncatedReplyError, "the tool call was cut or is not valid JSON: raise max_tokens"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        generation = _tgi_error_kind(text) is ExpertGenerationError
        return ExpertGenerationError if generation else ExpertServerError, "it failed"
    if status >= 400:
        return _classify_refusal(text, error_type)
    return ExpertProtocolError, "not an answer that a chat server gives"


def _classify_refusal(text: str, error_type: str | None) -> _Mapped:
    """What a 4xx means whose status alone says only that the request is refused."""
    # Servers begin with the reason; what follows may be the prompt.
    if _TOO_LONG.search(text[:QUOTED_CHARACTERS]) or _TOO_LONG.search(error_type or ""):
        return ContextLengthError, "the input is too long for its context window"
    kind = _tgi_error_kind(text) or ExpertRequestError
    if kind is not ExpertRequestError:
        return kind, "it can't answer now"
    field = _WRONG_FIELD.match(text)
    return kind, f"it can't read the field {field[1]}" if field else "the request is wrong"


def _redirect_hint(location: str) -> str:
    parts = urlsplit(location)
    target = f" to {parts.scheme}://{parts.hostname}" if parts.hostname else ""
    return f"it redirects{target}, which is not followed, as the token is for this host only: correct the expert's url"


def _expert_error(
    expert: str, mapped: _Mapped, *, status: int | None, text: str, error_type: str | None, body: str
) -> ExpertError:
    kind, hint = mapped
    # Other servers' texts, and TGI's about an unparsed tool call, may quote the prompt or the answer.
    quotable = _tgi_error_kind(text) is not None and _UNPARSED_TOOL_CALL not in text
    quote = f": {text[:QUOTED_CHARACTERS]}" if quotable else ""
    name = " ".join(str(word) for word in (status, error_type) if word is not None)
    where = "" if status is not None else " within its answer"
    msg = f"expert {expert!r} says {name or 'error'}{where}: {hint}{quote}"
    return kind(msg, expert=expert, status=status, error_type=error_type, body=body[:BODY_CHARACTERS])
