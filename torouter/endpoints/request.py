"""A `ChatRequest`, or a raw prompt, as the JSON body that the expert's server takes.

TGI reads only a part of the OpenAI API, answers 422 where other servers are lenient, and silently ignores what it does
not know. This module settles all of that; nothing else in torouter has to know it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from torouter.chat import ChatRequest
from torouter.endpoints.tool_choice import openai_tool_choice
from torouter.errors import ExpertRequestError
from torouter.experts import Expert

logger = logging.getLogger(__name__)

MAX_TOKENS = 1024
"""Default of max_tokens: without one TGI generates until its context window is full. It is also the most that TGI's own
check of the window counts of a larger value."""
MAX_TOOL_TOKENS = 256
"""The smallest default for a request with tools, whose answer is useless when cut."""
MAX_TGI_STOP_SEQUENCES = 4

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

    The request's own values override the expert's `parameters`; the expert's `prefix` precedes the messages. A system
    message that opens the request moves before the prefix's examples, joined to the prefix's own system message if it
    has one: chat templates take one, at the start. For TGI:

    - Parameters that it does not know or misreads (`presence_penalty`, `logit_bias`, `top_k`, ...) are left out;
      `top_p` is sent inside (0, 1) only, and 0 is sent as `temperature` 0, which means the same.
    - The first 4 stop sequences are sent; the answer is cut at all of them, see `stop_sequences_of`.
    - A JSON schema is sent as `{"type": "json", "value": schema}`, which every version since 1.4 reads. A `json_object`
      without a schema is left out: TGI has no grammar for "any JSON", so the prompt alone asks for it.
    - Text beside tool calls in an assistant's message is left out: with it, TGI would drop the calls.

    Raises:
        ExpertRequestError: The request can't be put into this dialect; the message names the field and the fix.
    """
    tgi = expert.api == "tgi"
    body = _merged(expert.parameters, request.parameters)
    if body.pop("n", 1) != 1:
        raise _request_error(expert, "n", "a request gets one answer: leave it out and send another request instead")
    stop_sequences = stop_sequences_of(expert, request.parameters)
    if tgi:
        body = _for_tgi(expert, body, _TGI_CHAT)
        stop_sequences = stop_sequences[:MAX_TGI_STOP_SEQUENCES]
    tools = [*request.tools] if asks_for_tools(request) or not tgi else []
    body.setdefault("max_tokens", default_max_tokens(expert, tools=bool(tools)))
    body.pop("stop", None)
    if stop_sequences:
        body["stop"] = [*stop_sequences]
    if model := (expert.adapter or "tgi" if tgi else expert.adapter or expert.model):
        body["model"] = model
    body["messages"] = [_message(message, tgi=tgi) for message in _messages(expert, request)]
    if tools:
        body["tools"] = [_tool(tool) for tool in tools]
        if request.tool_choice is not None:
            body["tool_choice"] = openai_tool_choice(request.tool_choice)
    if request.response_format is not None:
        if tgi and tools:
            fix = "TGI can't constrain an answer that may be a tool call: give one of the two"
            raise _request_error(expert, "response_format beside tools", fix)
        response_format = _tgi_grammar(expert, request.response_format) if tgi else dict(request.response_format)
        if response_format is not None:
            body["response_format"] = response_format
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return body


def generate_body(expert: Expert, prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The body for TGI's `/generate` and `/generate_stream`.

    Args:
        expert: Its `parameters` are the defaults; its `prefix` applies to chats only.
        prompt: The raw text to continue.
        parameters: In TGI's names, or in the chat's (`max_tokens`). `details` are requested unless it says otherwise.
    """
    merged = _merged(expert.parameters, parameters)
    if (limit := merged.pop("max_tokens", None)) is not None:
        merged.setdefault("max_new_tokens", limit)
    merged = _for_tgi(expert, merged, _TGI_GENERATE)
    stop_sequences = _checked_stop(expert, merged.pop("stop", None))[:MAX_TGI_STOP_SEQUENCES]
    temperature = merged.get("temperature")
    if temperature == 0:  # 422 here, where the chat route reads it as greedy
        del merged["temperature"]
    defaults: dict[str, Any] = {
        "max_new_tokens": default_max_tokens(expert, tools=False),
        "do_sample": bool(temperature),
        "details": True,
        "return_full_text": False,
    }
    if stop_sequences:
        defaults["stop"] = [*stop_sequences]
    if expert.adapter:
        defaults["adapter_id"] = expert.adapter
    return {"inputs": prompt, "parameters": {**defaults, **merged}}


def stop_sequences_of(expert: Expert, parameters: Mapping[str, Any]) -> tuple[str, ...]:
    """All stop sequences of a request, its own or else the expert's.

    Servers leave them in the answer, or miss some, so the reply is cut at them again.

    Raises:
        ExpertRequestError: `stop` is neither a string nor a list of strings.
    """
    stop = parameters.get("stop")
    return _checked_stop(expert, stop if stop is not None else expert.parameters.get("stop"))


def asks_for_tools(request: ChatRequest) -> bool:
    """Whether the answer may be a tool call."""
    return bool(request.tools) and request.tool_choice != "none"


def encode_body(expert: Expert, body: Mapping[str, Any]) -> bytes:
    """`body` as JSON bytes.

    Raises:
        ExpertRequestError: It holds a value that JSON can't represent.
    """
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:  # its own message quotes the prompt
        reason = "a text holds half a surrogate pair, which is not a character"
    except (TypeError, ValueError, RecursionError) as error:
        reason = str(error)
    msg = f"expert {expert.name!r}: the request can't be sent as JSON: {reason}"
    raise ExpertRequestError(msg, expert=expert.name)


def _request_error(expert: Expert, field: str, fix: str) -> ExpertRequestError:
    return ExpertRequestError(f"expert {expert.name!r} can't take {field}: {fix}", expert=expert.name)


def _merged(*sources: Mapping[str, Any]) -> dict[str, Any]:
    """Later sources override earlier ones; None means not given. TGI refuses some nulls, so none is sent."""
    merged: dict[str, Any] = {}
    for source in sources:
        for name, value in source.items():
            if value is not None:
                merged["max_tokens" if name == "max_completion_tokens" else name] = value
    return merged


def _for_tgi(expert: Expert, parameters: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """The `known` parameters, with values that TGI reads as they are meant."""
    kept = {name: value for name, value in parameters.items() if name in known}
    if len(kept) < len(parameters):
        logger.debug("expert %s: TGI does not read %s", expert.name, sorted(parameters.keys() - known))
    top_p = kept.get("top_p")
    if top_p is not None and not 0 < top_p < 1:
        del kept["top_p"]
        if top_p == 0:  # keeps only the likeliest token: greedy
            kept["temperature"] = 0
    if kept.get("seed", 0) < 0:  # TGI's is unsigned; other servers read -1 as a random seed, as if it were left out
        del kept["seed"]
    return kept


def default_max_tokens(expert: Expert, *, tools: bool = False) -> int:
    """The `max_tokens` that is sent where neither the request nor the expert sets one."""
    half = (expert.context_window or 2 * MAX_TOKENS) // 2
    return max(min(MAX_TOKENS, half), MAX_TOOL_TOKENS if tools else 1)


def _checked_stop(expert: Expert, stop: str | Iterable[str] | None) -> tuple[str, ...]:
    """The non-empty stop sequences of a `stop` parameter."""
    stop_sequences = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if not all(isinstance(text, str) for text in stop_sequences):
        raise _request_error(expert, f"stop={stop!r}", "give a list of strings")
    return tuple(text for text in stop_sequences if text)


def _messages(expert: Expert, request: ChatRequest) -> Iterable[Mapping[str, Any]]:
    if not expert.prefix or not request.messages:
        return request.messages
    first, *rest = request.messages
    if first.get("role") != "system":
        return (*expert.prefix, first, *rest)
    prefix_first, *examples = expert.prefix
    if prefix_first["role"] != "system":
        return (first, prefix_first, *examples, *rest)
    system = {**prefix_first, "content": _joined_contents(prefix_first["content"], first.get("content"))}
    return (system, *examples, *rest)


def _joined_contents(first: Any, second: Any) -> Any:
    if not first or not second:
        return first or second
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_content_parts(first), *_content_parts(second)]


def _content_parts(content: Any) -> Iterable[Any]:
    return ({"type": "text", "text": content},) if isinstance(content, str) else content


def _message(message: Mapping[str, Any], *, tgi: bool) -> dict[str, Any]:
    plain = {key: value for key, value in message.items() if value is not None}
    tool_calls = plain.pop("tool_calls", None)
    if tool_calls:
        plain["tool_calls"] = [_tool_call(tool_call) for tool_call in tool_calls]
        if tgi or not plain.get("content"):
            plain.pop("content", None)
    else:
        plain.setdefault("content", "")
    return plain


def _tool_call(tool_call: Mapping[str, Any]) -> dict[str, Any]:
    function = tool_call["function"]
    arguments = function["arguments"]
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": function["name"], "arguments": arguments}
    return {"id": str(tool_call["id"]), "type": "function", "function": function}


def _tool(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    if not isinstance(function, Mapping) or function.get("parameters") is not None:
        return tool
    # TGI refuses a function without parameters.
    return {**tool, "function": {**function, "parameters": {"type": "object", "properties": {}}}}


def _tgi_grammar(expert: Expert, response_format: Mapping[str, Any]) -> dict[str, Any] | None:
    """The response format in TGI's form, None where it constrains nothing that TGI can enforce."""
    kind = response_format.get("type")
    if "value" in response_format:
        return dict(response_format)
    if kind == "json_schema":
        schema = (response_format.get("json_schema") or {}).get("schema")
    elif kind == "json_object":
        schema = response_format.get("schema")  # llama.cpp's form
        if schema is None:
            logger.debug("expert %s: TGI can't enforce json_object without a schema", expert.name)
            return None
    elif kind == "text":
        return None
    else:
        fix = 'use "json_schema", "json_object" or "text"'
        raise _request_error(expert, f"response_format of type {kind!r}", fix)
    if not isinstance(schema, Mapping):
        raise _request_error(expert, "response_format without a schema", 'give {"json_schema": {"schema": {...}}}')
    return {"type": "json", "value": schema}
