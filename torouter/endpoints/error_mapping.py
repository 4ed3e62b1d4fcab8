"""A server's refusal, in whatever form and words, as one typed error of `torouter.errors`.

TGI, vLLM, SGLang, llama.cpp, `transformers serve` and the proxies before them agree on HTTP statuses at most. So the
status is read first, and the text where no status helps, as in a stream, which is 200 long before its error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

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
"""How much of a server's answer an error keeps."""
QUOTED_CHARACTERS = 300

_Verdict = tuple[type[ExpertError], str]

_BY_STATUS: dict[int, _Verdict] = {
    401: (ExpertAuthenticationError, "the token is missing or wrong: set the expert's api_key or api_key_env"),
    403: (ExpertPermissionError, "the token has no right to this expert"),
    404: (ExpertNotFoundError, "no such path or model: check the expert's url and model"),
    405: (ExpertNotFoundError, "the path takes no such request: check the expert's url"),
    408: (ExpertTimeoutError, "the request took too long"),
    413: (ContextLengthError, "the request has too many bytes for this server"),
    424: (ExpertGenerationError, "generation failed"),
    429: (ExpertOverloadedError, "the server is overloaded"),
}

# TGI's own words (InferError in router/src/infer/mod.rs). They quote no prompt, so the message may repeat them.
_BY_TEXT: dict[str, type[ExpertError]] = {
    "Input validation error": ExpertRequestError,
    "Template error": ExpertRequestError,
    "Missing template": ExpertRequestError,
    "Tool error": ExpertRequestError,
    "Request failed during generation": ExpertGenerationError,
    "Model is overloaded": ExpertOverloadedError,
    "Incomplete generation": ExpertGenerationError,
}
_UNPARSED_CALL = "Failed to parse generated text"
# TGI's two texts; what vLLM, SGLang and llama.cpp have in common.
_TOO_LONG = re.compile(
    r"`inputs` tokens \+|`inputs` must have less than|maximum model length|context[ _](?:length|size|window)",
    re.IGNORECASE,
)
_WRONG_FIELD = re.compile(r"Failed to deserialize the JSON body into the target type: ([\w.\[\]]+):")


def error_from_response(expert: str, status: int, body: bytes, headers: Mapping[str, str]) -> ExpertError:
    """The error that an answer with a status other than 200 means.

    Args:
        expert: Name of the expert.
        status: HTTP status.
        body: The answer's body: TGI's or another server's JSON, plain text, HTML or nothing.
        headers: The answer's headers; `Location` is read.
    """
    raw = body[: 4 * BODY_CHARACTERS].decode("utf-8", errors="replace")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    text, error_type, _ = _told(value) if isinstance(value, Mapping) else (raw, None, None)
    redirected = (ExpertNotFoundError, _redirected(headers.get("Location", "")))
    verdict = redirected if 300 <= status < 400 else _classified(status, text, error_type)
    return _error(expert, verdict, status=status, text=text, error_type=error_type, body=raw)


def error_in_answer(expert: str, value: Mapping[str, Any]) -> ExpertError:
    """The error that an event of a stream, or an answer with status 200, carries.

    TGI's chat says 422 in every such event, whatever happened, so that its text decides; where the text is not TGI's,
    the server's own code does.
    """
    text, error_type, code = _told(value)
    if code is None or not 400 <= code < 600:
        code = 422 if _of_tgi(text) else 500
    return _error(
        expert,
        _classified(code, text, error_type),
        status=None,
        text=text,
        error_type=error_type,
        body=json.dumps(value),
    )


def is_error(value: Mapping[str, Any]) -> bool:
    """Whether an event of a stream, or an answer with status 200, is an error in truth."""
    return bool(value.get("error")) or value.get("object") == "error"


def _told(value: Mapping[str, Any]) -> tuple[str, str | None, int | None]:
    """Text, type and numeric code, wherever this server puts them."""
    error = value.get("error", value)
    told = error if isinstance(error, Mapping) else value
    said = told.get("message") or told.get("error") or told.get("detail") or ""
    text = said if isinstance(said, str) else json.dumps(said)
    kind = told.get("error_type") or told.get("type") or told.get("code")
    code = told.get("code")
    if isinstance(code, str) and code.isdecimal():
        code = int(code)
    return text, kind if isinstance(kind, str) else None, code if isinstance(code, int) else None


def _of_tgi(text: str) -> type[ExpertError] | None:
    return next((kind for words, kind in _BY_TEXT.items() if text.startswith(words)), None)


def _classified(status: int, text: str, error_type: str | None) -> _Verdict:
    if _UNPARSED_CALL in text:
        # The same thing ends a stream as a cut call, whose status nobody sees: one error for both.
        return TruncatedReplyError, "the tool call was cut or does not parse: raise max_tokens"
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return ExpertGenerationError if _of_tgi(text) is ExpertGenerationError else ExpertServerError, "it failed"
    if status >= 400:
        return _refused(text, error_type)
    return ExpertProtocolError, "not an answer that a chat server gives"


def _refused(text: str, error_type: str | None) -> _Verdict:
    # Servers begin with the reason; what follows may be the prompt.
    if _TOO_LONG.search(text[:QUOTED_CHARACTERS]) or _TOO_LONG.search(error_type or ""):
        return ContextLengthError, "the input is too long for its context window"
    kind = _of_tgi(text) or ExpertRequestError
    if kind is not ExpertRequestError:
        return kind, "it can't answer now"
    field = _WRONG_FIELD.match(text)
    return kind, f"it can't read the field {field[1]}" if field else "the request is wrong"


def _redirected(location: str) -> str:
    parts = urlsplit(location)
    to = f" to {parts.scheme}://{parts.hostname}" if parts.hostname else ""
    return f"it redirects{to}, which is not followed, since the token is for this host only: mend the expert's url"


def _error(
    expert: str, verdict: _Verdict, *, status: int | None, text: str, error_type: str | None, body: str
) -> ExpertError:
    kind, hint = verdict
    # Other servers' texts, and TGI's of an unparsed call, may quote the prompt or the answer.
    quotable = _of_tgi(text) is not None and _UNPARSED_CALL not in text
    said = f": {text[:QUOTED_CHARACTERS]}" if quotable else ""
    name = " ".join(str(word) for word in (status, error_type) if word is not None)
    where = "" if status is not None else " within its answer"
    msg = f"expert {expert!r} says {name or 'error'}{where}: {hint}{said}"
    return kind(msg, expert=expert, status=status, error_type=error_type, body=body[:BODY_CHARACTERS])
