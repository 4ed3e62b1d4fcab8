"""TGI's checks of a request (CONTRACT sections 5, 7, 9 and 10), so that only a correct client gets an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.support.scripted_tgi.model import text_of, tokens
from tests.support.scripted_tgi.replies import Refusal

Body = Mapping[str, Any]

# The fields of a chat body that have an effect.
_CHAT_FIELDS = frozenset((
    "model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop", "stream",
    "stream_options", "frequency_penalty", "presence_penalty", "logprobs", "top_logprobs", "tools", "tool_choice",
    "tool_prompt", "response_format", "guideline",
))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """The server's limits, as `/info` reports them."""

    max_concurrent_requests: int = 128
    max_best_of: int = 2
    max_stop_sequences: int = 4
    max_input_tokens: int = 4095
    max_total_tokens: int = 4096


class WrongShape(Exception):  # noqa: N818 - it becomes an answer, not an error
    """The body does not deserialize: a plain-text 422."""


def _expect(where: str, value: object, what: str, ok: Callable[[Any], bool], *, nullable: bool = True) -> None:
    if not (ok(value) or (nullable and value is None)):
        kind = {str: "string", dict: "map", list: "sequence", bool: "boolean"}.get(type(value), type(value).__name__)
        raise WrongShape(f"{where}: invalid type: {kind}, expected {what}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_unsigned(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def check_chat_shape(body: Any, version: tuple[int, ...]) -> None:
    """Raises WrongShape as serde would."""
    _expect("body", body, "struct ChatRequest", lambda v: isinstance(v, dict), nullable=False)
    if not isinstance(body.get("messages"), list):
        raise WrongShape("missing field `messages`")
    for index, message in enumerate(body["messages"]):
        _check_message(f"messages[{index}]", message)
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty"):
        _expect(name, body.get(name), "f32", _is_number)
    for name in ("max_tokens", "max_completion_tokens", "seed", "top_logprobs", "n"):
        _expect(name, body.get(name), "u32", _is_unsigned)
    _expect("stop", body.get("stop"), "a sequence", _is_strings)
    _expect("logit_bias", body.get("logit_bias"), "a sequence", lambda v: isinstance(v, list))
    _expect("logprobs", body.get("logprobs"), "a boolean", _is_bool)
    _expect("stream", body.get("stream", False), "a boolean", _is_bool, nullable=False)
    _expect("stream_options", body.get("stream_options", {}), "struct", lambda v: isinstance(v, dict), nullable=False)
    _expect("tools", body.get("tools"), "a sequence", lambda v: isinstance(v, list))
    for index, tool in enumerate(body.get("tools") or ()):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise WrongShape(f"tools[{index}]: missing field `function`")
        if "parameters" not in function and "arguments" not in function:
            raise WrongShape(f"tools[{index}].function: missing field `parameters`")
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and not isinstance(choice.get("function", {}).get("name"), str):
        raise WrongShape("tool_choice: data did not match any variant of untagged enum ToolType")
    _check_grammar("response_format", body.get("response_format"), version)


def _check_message(where: str, message: Any) -> None:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise WrongShape(f"{where}: missing field `role`")
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind == "text" and isinstance(part.get("text"), str):
                continue
            if kind == "image_url" and isinstance(part.get("image_url", {}).get("url"), str):
                continue
            raise WrongShape(f"{where}.content: unknown variant `{kind}`, expected `text` or `image_url`")
    elif not isinstance(content, str):
        if not isinstance(calls, list):
            raise WrongShape(f"{where}: data did not match any variant of untagged enum MessageBody")
        for call in calls:
            function = call.get("function", {})
            named = isinstance(call.get("id"), str) and isinstance(function.get("name"), str)
            if not named or "arguments" not in function:
                raise WrongShape(f"{where}: data did not match any variant of untagged enum MessageBody")


def _check_grammar(where: str, grammar: Any, version: tuple[int, ...]) -> None:
    if grammar is None:
        return
    kinds = ["json", "json_object", "regex"] + (["json_schema"] if version >= (3, 3) else [])
    if not isinstance(grammar, dict) or grammar.get("type") not in kinds:
        raise WrongShape(f"{where}: unknown variant, expected one of {', '.join(kinds)}")
    if "value" not in grammar:
        raise WrongShape(f"{where}: missing field `value`")
    if grammar["type"] == "json_schema" and "schema" not in grammar["value"]:
        raise WrongShape(f"{where}.value: missing field `schema`")


def check_generate_shape(body: Any, version: tuple[int, ...]) -> None:
    """Raises WrongShape as serde would."""
    if not isinstance(body, dict) or not isinstance(body.get("inputs"), str):
        raise WrongShape("missing field `inputs`")
    parameters = body.get("parameters", {})
    _expect("parameters", parameters, "struct GenerateParameters", lambda v: isinstance(v, dict), nullable=False)
    for name in ("temperature", "top_p", "typical_p", "repetition_penalty", "frequency_penalty"):
        _expect(f"parameters.{name}", parameters.get(name), "f32", _is_number)
    for name in ("max_new_tokens", "best_of", "seed", "top_n_tokens", "top_k", "truncate"):
        _expect(f"parameters.{name}", parameters.get(name), "u32", _is_unsigned)
    _expect("parameters.stop", parameters.get("stop", []), "a sequence", _is_strings, nullable=False)
    for name in ("details", "do_sample", "watermark", "decoder_input_details"):
        _expect(f"parameters.{name}", parameters.get(name, False), "a boolean", _is_bool, nullable=False)
    _check_grammar("parameters.grammar", parameters.get("grammar"), version)


def lost(body: Body) -> tuple[str, ...]:
    """What TGI drops silently: unknown fields, and tool calls of a message that has content too."""
    fields = [name for name in body if name not in _CHAT_FIELDS]
    calls = [
        f"messages[{index}].tool_calls"
        for index, message in enumerate(body["messages"])
        if isinstance(message, dict) and message.get("tool_calls") and message.get("content") is not None
    ]
    return (*fields, *calls)


def as_seen(body: Body, path: str) -> Body:
    """The body as TGI understands it: without lost tool calls, and with the default of POST / for the full text."""
    if "messages" not in body:
        full = {"return_full_text": True} if path == "/" else {}
        return {**body, "parameters": {**full, **body.get("parameters", {})}}
    gone = lost(body)
    messages = [
        {k: v for k, v in message.items() if k != "tool_calls"} if f"messages[{index}].tool_calls" in gone else message
        for index, message in enumerate(body["messages"])
    ]
    return {**body, "messages": messages}


def tool_error(body: Body) -> Refusal | None:
    tools, choice = body.get("tools"), body.get("tool_choice")
    if tools is not None and body.get("response_format") is not None:
        return Refusal("tool_error", "Tool error: Grammar and tools are mutually exclusive")
    name = choice["function"]["name"] if isinstance(choice, Mapping) else choice
    if tools and name not in (None, "auto", "none", "required", *(tool["function"]["name"] for tool in tools)):
        return Refusal("tool_error", f"Tool error: Tool with name {name} not found")
    return None


def prompt_tokens(body: Body) -> int:
    """Tokens of the prompt; tools are part of it, as TGI writes them into the template."""
    if "inputs" in body:
        return len(tokens(body["inputs"]))
    tools = str(body["tools"]) if body.get("tools") and body.get("tool_choice") != "none" else ""
    return sum(len(tokens(text_of(m.get("content")) or str(m.get("tool_calls")))) for m in body["messages"]) + len(
        tokens(tools)
    )


def validation(body: Body, limits: Limits, *, stream: bool) -> Refusal | None:
    """TGI's validation of a chat body, or of a /generate body (`inputs` and `parameters`)."""
    text = _invalid(body, limits, stream=stream)
    return Refusal("validation", f"Input validation error: {text}") if text else None


def _invalid(body: Body, limits: Limits, *, stream: bool) -> str | None:
    chat = "messages" in body
    settings = body if chat else body.get("parameters", {})
    temperature, top_p = settings.get("temperature"), settings.get("top_p")
    # On the chat route zero means greedy; /generate refuses it.
    if temperature is not None and (temperature < 0 or (temperature == 0 and not chat)):
        return "`temperature` must be strictly positive"
    if top_p is not None and not 0 < top_p < 1:
        return "`top_p` must be > 0.0 and < 1.0"
    penalty = settings.get("repetition_penalty")
    if chat and settings.get("presence_penalty") is not None:
        penalty = settings["presence_penalty"] + 2.0
    if penalty is not None and penalty <= 0:
        return "`repetition_penalty` must be strictly positive"
    if not -2 <= (settings.get("frequency_penalty") or 0) <= 2:
        return "`frequency_penalty` must be >= -2.0 and <= 2.0"
    stops = len(settings.get("stop") or ())
    if stops > limits.max_stop_sequences:
        return f"`stop` supports up to {limits.max_stop_sequences} stop sequences. Given: {stops}"
    if (settings.get("top_logprobs") or settings.get("top_n_tokens") or 0) > 5:
        return "`top_n_tokens` must be >= 0 and <= 5."
    grammar = settings.get("response_format") or settings.get("grammar")
    if grammar and grammar["type"] != "regex":
        schema = grammar["value"]["schema"] if grammar["type"] == "json_schema" else grammar["value"]
        if not isinstance(schema, Mapping) or "properties" not in schema:
            return "grammar is not valid: Grammar must have a 'properties' field"
    return _invalid_best_of(settings, limits, stream=stream) or _too_long(body, settings, limits)


def _invalid_best_of(settings: Body, limits: Limits, *, stream: bool) -> str | None:
    best_of = settings.get("best_of") or 1
    if best_of > limits.max_best_of:
        return f"`best_of` must be > 0 and <= {limits.max_best_of}. Given: {best_of}"
    if best_of > 1 and stream:
        return "`best_of` != 1 is not supported when streaming tokens"
    if best_of > 1 and not (settings.get("do_sample") or settings.get("temperature")):
        return "you must use sampling when `best_of` is > 1"
    if best_of > 1 and settings.get("seed") is not None:
        return "`seed` must not be set when `best_of` > 1"
    if stream and settings.get("decoder_input_details"):
        return "`decoder_input_details` == true is not supported when streaming tokens"
    return None


def _too_long(body: Body, settings: Body, limits: Limits) -> str | None:
    input_tokens = min(prompt_tokens(body), settings.get("truncate") or limits.max_total_tokens + 1)
    new = max_new_tokens(settings)
    if new == 0:
        return "`max_new_tokens` must be strictly positive"
    if input_tokens > limits.max_input_tokens:
        return f"`inputs` must have less than {limits.max_input_tokens} tokens. Given: {input_tokens}"
    if new is not None and input_tokens + min(new, 1024) > limits.max_total_tokens:
        return (
            f"`inputs` tokens + `max_new_tokens` must be <= {limits.max_total_tokens}."
            f" Given: {input_tokens} `inputs` tokens and {min(new, 1024)} `max_new_tokens`"
        )
    return None


def max_new_tokens(settings: Body) -> int | None:
    """The limit on generated tokens by any of its names, None where the request sets none."""
    names = ("max_tokens", "max_completion_tokens", "max_new_tokens")
    return next((settings[name] for name in names if settings.get(name) is not None), None)


def openai_refusal(body: Any, model_id: str, limits: Limits) -> Refusal | None:
    """What a vLLM-like server refuses: a model it does not serve, TGI's own forms, too long an input."""
    if not isinstance(body, dict) or not body.get("messages"):
        return Refusal("BadRequestError", "messages: Field required")
    if body.get("model", model_id) != model_id:
        return Refusal("not_found", f"The model `{body['model']}` does not exist.")
    wanted = body.get("response_format") or {"type": "text"}
    if wanted.get("type") not in ("text", "json_object", "json_schema") or "value" in wanted:
        return Refusal("BadRequestError", "response_format: Input tag does not match any of the expected tags")
    if wanted["type"] == "json_schema" and "schema" not in wanted.get("json_schema", {}):
        return Refusal("BadRequestError", "response_format.json_schema.schema: Field required")
    if body.get("tool_choice") not in (None, "auto", "none", "required") and not isinstance(body["tool_choice"], dict):
        return Refusal("BadRequestError", "tool_choice: Invalid value; use auto, none, required or a named function")
    prompt, new = prompt_tokens(body), max_new_tokens(body) or 0
    if prompt + new > limits.max_total_tokens:
        text = (
            f"This model's maximum context length is {limits.max_total_tokens} tokens. However, you requested"
            f" {prompt + new} tokens ({prompt} in the messages, {new} in the completion). Please reduce the length of"
            " the messages or completion."
        )
        return Refusal("BadRequestError", text)
    return None
