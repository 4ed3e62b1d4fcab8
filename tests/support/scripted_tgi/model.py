"""A tiny deterministic model: from a conversation to a text, a tool call or JSON that fits a schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.scripted_tgi.replies import Answer, Text, ToolUse

Schema = Mapping[str, Any]

# A number that stands alone or in brackets, not one inside a name such as tool_2.
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
_QUOTED = re.compile(r"(?<!\w)(?:'([^']+)'|\"([^\"]+)\"|“([^”]+)”)(?!\w)")
# One or more capitalised words in a row, not at the start of a sentence: "San Francisco, CA".
_NAME = re.compile(r"(?<=[\w,;(] )\(?([^\W\d_a-z][\w-]*(?:,? [^\W\d_a-z][\w-]*)*)|\(([^\W\d_a-z][^()]*)\)")
_COMMON = frozenset(("the", "tool", "get", "use", "what", "for", "and", "that", "with", "from", "function"))


def tokens(text: str) -> list[str]:
    """The model's tokenizer: each token is a word with the whitespace before it."""
    return re.findall(r"\s*\S+|\s+$", text)


def text_of(content: object) -> str:
    """The text of a message's content, which may be a list of parts."""
    if isinstance(content, list):
        return " ".join(part.get("text", "[image]") for part in content)
    return content if isinstance(content, str) else ""


@dataclass
class Hints:
    """The numbers and strings in a user's text that can fill arguments, in its order; each is used once."""

    text: str
    numbers: list[str] = field(init=False)
    strings: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.numbers = _NUMBER.findall(self.text)
        quoted = ["".join(match) for match in _QUOTED.findall(self.text)]
        self.strings = quoted + ["".join(match) for match in _NAME.findall(_QUOTED.sub("", self.text))]

    def number(self, *, whole: bool) -> float | None:
        for position, number in enumerate(self.numbers):
            if not whole or "." not in number:
                return float(self.numbers.pop(position))
        return None


def example(schema: Schema, text: str = "") -> Any:
    """A value that satisfies the JSON schema, with the numbers, quotations and names of `text` where they fit."""
    return _fill(schema, schema, Hints(text), "value", 0)


def _fill(schema: Any, root: Schema, hints: Hints, name: str, depth: int) -> Any:
    if not isinstance(schema, Mapping):
        return f"some {name}"
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            target = target[part]
        return _fill(target, root, hints, name, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return next((member for member in schema["enum"] if str(member) in hints.text), schema["enum"][0])
    if "allOf" in schema:
        merged = {k: v for k, v in schema.items() if k != "allOf"}
        for part in schema["allOf"]:
            merged.update(part)
        return _fill(merged, root, hints, name, depth + 1)
    for union in ("anyOf", "oneOf"):
        if union in schema:
            null_last = sorted(schema[union], key=lambda option: option.get("type") == "null")
            return _fill(null_last[0 if depth < 8 else -1], root, hints, name, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    match kind:
        case "object":
            required = schema.get("required", ())
            return {
                key: _fill(value, root, hints, key, depth + 1)
                for key, value in schema.get("properties", {}).items()
                if key in required or re.search(rf"\b{re.escape(key)}\b", hints.text)
            }
        case "array":
            return _array(schema, root, hints, name, depth)
        case "integer" | "number":
            return _number(schema, hints, whole=kind == "integer")
        case "boolean":
            return True
        case "null":
            return None
    return _string(schema, hints, name)


def _array(schema: Schema, root: Schema, hints: Hints, name: str, depth: int) -> list[Any]:
    if "prefixItems" in schema:
        return [_fill(item, root, hints, name, depth + 1) for item in schema["prefixItems"]]
    items = schema.get("items", {})
    wanted = max(1, schema.get("minItems", 1))
    if items.get("type") in ("integer", "number"):
        wanted = max(wanted, len(hints.numbers))
    wanted = min(wanted, schema.get("maxItems", wanted))
    return [_fill(items, root, hints, name, depth + 1) for _ in range(wanted)]


def _number(schema: Schema, hints: Hints, *, whole: bool) -> float:
    value = hints.number(whole=whole) or 0.0
    step = schema.get("multipleOf", 1)
    lowest = schema.get("minimum", schema.get("exclusiveMinimum", float("-inf")) + step)
    highest = schema.get("maximum", schema.get("exclusiveMaximum", float("inf")) - step)
    value = min(max(value, lowest), highest)
    return int(value) if whole else float(value)


def _string(schema: Schema, hints: Hints, name: str) -> str:
    fixed = {"date": "2024-01-31", "date-time": "2024-01-31T12:00:00Z", "time": "12:00:00", "email": "a@example.org"}
    value = fixed.get(schema.get("format", "")) or (hints.strings.pop(0) if hints.strings else f"some {name}")
    return value.ljust(schema.get("minLength", 0), ".")[: schema.get("maxLength")]


def _words(text: str) -> set[str]:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", text)
    return {word for word in re.findall(r"[^\W_]{3,}", spaced.lower()) if word not in _COMMON}


def pick_tool(tools: Sequence[Mapping[str, Any]], text: str) -> Mapping[str, Any] | None:
    """The function whose name or words the text holds, None where no tool is called for."""
    functions: list[Mapping[str, Any]] = [tool["function"] for tool in tools]
    named = [function for function in functions if re.search(rf"\b{re.escape(function['name'])}\b", text)]
    if named:
        return named[0]
    words = _words(text)
    return next((function for function in functions if _words(function["name"]) & words), None)


def call(function: Mapping[str, Any], text: str) -> ToolUse:
    schema = function.get("parameters", function.get("arguments")) or {}
    return ToolUse(function["name"], example({"type": "object", **schema}, text))


def answer(body: Mapping[str, Any], model_id: str) -> Answer:
    """The model's answer to a chat request that has passed the checks."""
    messages = body["messages"]
    question = text_of(next((m.get("content") for m in reversed(messages) if m["role"] == "user"), ""))
    tools, choice = body.get("tools") or (), body.get("tool_choice") or "auto"
    if isinstance(choice, Mapping):
        choice = choice["function"]["name"]
    if tools and choice not in ("auto", "none"):
        named = [tool["function"] for tool in tools if tool["function"]["name"] == choice]
        return call(named[0] if named else pick_tool(tools, question) or tools[0]["function"], question)
    if tools and choice == "auto" and messages[-1]["role"] == "user":
        function = pick_tool(tools, question)
        if function is not None:
            return call(function, question)
    wanted = body.get("response_format")
    return constrained(wanted, question) if wanted else Text(_answer_text(messages, question, model_id))


def _answer_text(messages: Sequence[Mapping[str, Any]], question: str, model_id: str) -> str:
    last = messages[-1]
    if last["role"] == "tool":
        called = any(message.get("tool_calls") for message in messages)
        return f"The tool says: {text_of(last.get('content'))}" if called else "I have called no tool."
    if last["role"] == "assistant":
        return " and so on."
    return free_json(question) or f"Hello from {model_id}. You said: {question}"


def free_json(question: str) -> str:
    """JSON with the quoted keys, where the user asks in words for JSON; else nothing."""
    keys = re.findall(r"'(\w+)'", question) if "JSON" in question else []
    return json.dumps({key: f"some {key}" for key in keys}, ensure_ascii=False) if keys else ""


def constrained(grammar: Mapping[str, Any], question: str) -> Text:
    """Text under a grammar in TGI's form or an OpenAI `response_format`."""
    if grammar["type"] == "regex":
        candidates = (free_json(question), "{}", *_NUMBER.findall(question), *question.split(), *"ABCDEFGHIJ0123456789")
        fitting = next((text for text in candidates if text and re.fullmatch(grammar["value"], text)), None)
        assert fitting is not None, f"the scripted model finds no text for {grammar['value']!r}: script a Text"
        return Text(fitting)
    schema = grammar.get("value", grammar.get("json_schema"))
    if schema is None:
        return Text(free_json(question) or "{}")
    if grammar["type"] == "json_schema":
        schema = schema["schema"]
    return Text(json.dumps(example(schema, question), ensure_ascii=False))
