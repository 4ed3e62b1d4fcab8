"""A `ChatRequest`, or a prompt, as the JSON body that the expert's server takes.

TGI reads less than the OpenAI API has, answers 422 where others would shrug, and ignores in silence what it does not
know. All of that is settled here; nothing else in torouter knows of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torouter.chat import ChatRequest
from torouter.errors import ExpertRequestError
from torouter.experts import Expert

logger = logging.getLogger(__name__)

MAX_TOKENS = 1024
"""Default of max_tokens: without one TGI generates until its window is full. It is also all that TGI's check of the
window counts of a larger value."""
MAX_TOOL_TOKENS = 256
"""The least default for a request with tools, whose cut answer is of no use."""
MAX_TGI_STOPS = 4

_TGI_CHAT = frozenset(
    ("temperature", "max_tokens", "top_p", "stop", "seed", "frequency_penalty", "logprobs", "top_logprobs")
)
_TGI_GENERATE = frozenset(
    (
        *("max_new_tokens", "temperature", "top_p", "top_k", "typical_p", "seed", "stop", "truncate", "best_of"),
        *("do_sample", "repetition_penalty", "frequency_penalty", "watermark", "grammar", "adapter_id", "details"),
        *("decoder_input_details", "top_n_tokens", "return_full_text"),
    )
)


def chat_body(expert: Expert, request: ChatRequest, *, stream: bool) -> dict[str, Any]:
    """The body for `/v1/chat/completions`.

    The expert's `parameters` and `prefix` come first, the request's own values win. A system message that opens the
    request is put before the prefix's examples, joined to the prefix's own system message where there is one: chat
    templates take one, at the start. For TGI:

    - Parameters that it does not know or takes for something else (`presence_penalty`, `logit_bias`, `top_k`, ...) are
      left out; `top_p` is sent inside (0, 1) only, and 0 is sent as `temperature` 0, which means the same.
    - The first 4 stop texts are sent; the answer is cut at all of them, see `stop_texts`.
    - A JSON schema goes as `{"type": "json", "value": schema}`, which every version since 1.4 reads. A `json_object`
      without a schema is left out: TGI has no grammar for "any JSON", so the prompt alone asks for it.
    - Text beside tool calls in an assistant's message is left out: with it, TGI would drop the calls.

    Raises:
        ExpertRequestError: The request can't be put into this dialect; the message names the field and the fix.
    """
    tgi = expert.api == "tgi"
    body = _merged(expert.parameters, request.parameters)
    if body.pop("n", 1) != 1:
        raise _wrong(expert, "n", "one request brings one answer: leave it out and ask again for another")
    stops = stop_texts(expert, request.parameters)
    if tgi:
        body = _for_tgi(expert, body, _TGI_CHAT)
        stops = stops[:MAX_TGI_STOPS]
    tools = [*request.tools] if asks_for_tools(request) or not tgi else []
    body.setdefault("max_tokens", default_max_tokens(expert, tools=bool(tools)))
    body.pop("stop", None)
    if stops:
        body["stop"] = [*stops]
    if model := (expert.adapter or "tgi" if tgi else expert.adapter or expert.model):
        body["model"] = model
    body["messages"] = [_message(message, tgi=tgi) for message in _messages(expert, request)]
    if tools:
        body["tools"] = [_tool(tool) for tool in tools]
        if request.tool_choice is not None:
            body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.response_format is not None:
        if tgi and tools:
            fix = "TGI can't constrain an answer that may be a tool call: ask for one of the two"
            raise _wrong(expert, "response_format beside tools", fix)
        form = _response_format(expert, request.response_format) if tgi else dict(request.response_format)
        if form is not None:
            body["response_format"] = form
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def generate_body(expert: Expert, prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The body for TGI's `/generate` and `/generate_stream`.

    Args:
        expert: Its `parameters` are the defaults, its `prefix` is of chats only.
        prompt: The raw text to continue.
        parameters: In TGI's names, or in the chat's (`max_tokens`). Details are asked for unless it says otherwise.
    """
    found = _merged(expert.parameters, parameters)
    if (limit := found.pop("max_tokens", None)) is not None:
        found.setdefault("max_new_tokens", limit)
    found = _for_tgi(expert, found, _TGI_GENERATE)
    stops = _texts(expert, found.pop("stop", None))[:MAX_TGI_STOPS]
    temperature = found.get("temperature")
    if temperature == 0:  # 422 here, where the chat takes it as greedy
        del found["temperature"]
    defaults: dict[str, Any] = {
        "max_new_tokens": default_max_tokens(expert, tools=False),
        "do_sample": bool(temperature),
        "details": True,
        "return_full_text": False,
    }
    if stops:
        defaults["stop"] = [*stops]
    if expert.adapter:
        defaults["adapter_id"] = expert.adapter
    return {"inputs": prompt, "parameters": {**defaults, **found}}


def stop_texts(expert: Expert, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """All texts at which the answer ends. Servers leave them in, or miss some, so the reply is cut at them again."""
    given = parameters.get("stop")
    return _texts(expert, given if given is not None else expert.parameters.get("stop"))


def asks_for_tools(request: ChatRequest) -> bool:
    """Whether the answer may be a tool call."""
    return bool(request.tools) and request.tool_choice != "none"


def encoded(expert: Expert, body: Mapping[str, Any]) -> bytes:
    """`body` as JSON bytes.

    Raises:
        ExpertRequestError: It holds something that JSON can't carry.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # its text quotes the prompt
        reason = "a text holds half a surrogate pair, which is no character"
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    msg = f"expert {expert.name!r}: the request can't be sent as JSON: {reason}"
    raise ExpertRequestError(msg, expert=expert.name)


def _wrong(expert: Expert, field: str, fix: str) -> ExpertRequestError:
    return ExpertRequestError(f"expert {expert.name!r} can't be asked with {field}: {fix}", expert=expert.name)


def _merged(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Later sources win; None means not given. TGI refuses some nulls, so none is sent."""
    merged: dict[str, Any] = {}
    for source in sources:
        for name, value in source.items():
            if value is not None:
                merged["max_tokens" if name == "max_completion_tokens" else name] = value
    return merged


def _for_tgi(expert: Expert, parameters: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    kept = {name: value for name, value in parameters.items() if name in known}
    if len(kept) < len(parameters):
        logger.debug("expert %s: TGI has no use for %s", expert.name, sorted(parameters.keys() - known))
    top_p = kept.get("top_p")
    if top_p is not None and not 0 < top_p < 1:
        del kept["top_p"]
        if top_p == 0:  # only the likeliest token is left: greedy
            kept["temperature"] = 0
    if kept.get("seed", 0) < 0:  # unsigned there; elsewhere -1 asks for a random one, as no seed does
        del kept["seed"]
    return kept


def default_max_tokens(expert: Expert, *, tools: bool = False) -> int:
    """The most tokens of an answer where neither the request nor the expert says it."""
    half = (expert.context_window or 2 * MAX_TOKENS) // 2
    return max(min(MAX_TOKENS, half), MAX_TOOL_TOKENS if tools else 1)


def _texts(expert: Expert, stop: str | Iterable[str] | None) -> tuple[str, ...]:
    texts = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(isinstance(text, str) for text in texts):
        raise _wrong(expert, f"stop={stop!r}", "give a list of texts")
    return tuple(text for text in texts if text)


def _messages(expert: Expert, request: ChatRequest) -> Iterable[Mapping[str, Any]]:
    if not expert.prefix or not request.messages:
        return request.messages
    first, *rest = request.messages
    if first.get("role") != "system":
        return (*expert.prefix, first, *rest)
    opening, *examples = expert.prefix
    if opening["role"] != "system":
        return (first, opening, *examples, *rest)
    joined = {**opening, "content": _joined(opening["content"], first.get("content"))}
    return (joined, *examples, *rest)


def _joined(one: Any, other: Any) -> Any:
    if not one or not other:
        return one or other
    if isinstance(one, str) and isinstance(other, str):
        return f"{one}\n\n{other}"
    return [*_parts(one), *_parts(other)]


def _parts(content: Any) -> Iterable[Any]:
    return ({"type": "text", "text": content},) if isinstance(content, str) else content


def _message(message: Mapping[str, Any], *, tgi: bool) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if value is not None}
    calls = plain.pop("tool_calls", None)
    if calls:
        plain["tool_calls"] = [_call(call) for call in calls]
        if tgi or not plain.get("content"):
            plain.pop("content", None)
    else:
        plain.setdefault("content", "")
    return plain


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"id": str(call["id"]), "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping) or function.get("parameters") is not None:
        return tool
    # TGI refuses a function without them.
    return {**tool, "function": {**function, "parameters": {"type": "object", "properties": {}}}}


def _tool_choice(choice: str | Mapping[str, Any]) -> Any:
    if choice == "any":
        return "required"
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        return {"type": "function", "function": {"name": choice}}
    return choice


def _response_format(expert: Expert, form: Mapping[str, Any]) -> dict[str, Any] | None:
    """TGI's form, None where nothing is to be asked of it."""
    kind = form.get("type")
    if "value" in form:
        return dict(form)
    if kind == "json_schema":
        schema = (form.get("json_schema") or {}).get("schema")
    elif kind == "json_object":
        schema = form.get("schema")  # llama.cpp's form
        if schema is None:
            logger.debug("expert %s: TGI can't enforce json_object without a schema", expert.name)
            return None
    elif kind == "text":
        return None
    else:
        raise _wrong(expert, f"response_format of type {kind!r}", 'use "json_schema", "json_object" or "text"')
    if not isinstance(schema, Mapping):
        raise _wrong(expert, "response_format without a schema", 'give {"json_schema": {"schema": {...}}}')
    return {"type": "json", "value": schema}
