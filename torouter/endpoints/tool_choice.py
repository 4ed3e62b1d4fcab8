"""The one form of `tool_choice` behind the many that callers use."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from torouter.errors import ConfigurationError

ToolChoice = str | Mapping[str, Any]


def normalized_tool_choice(choice: ToolChoice | bool | None, names: Collection[str]) -> ToolChoice | None:
    """OpenAI's form: None, "auto", "none", "required", or the object that names a function.

    Args:
        choice: One of these, True or "any" for "required", or a tool's name. None and False leave it to the expert.
        names: Names of the tools that are offered.

    Raises:
        ConfigurationError: `choice` names a tool that is not offered.
    """
    if choice is None or choice is False:
        return None
    normal = openai_tool_choice(choice)
    if isinstance(normal, str):
        return normal
    function = normal.get("function")
    if not isinstance(function, Mapping) or function.get("name") not in names:
        msg = f"tool_choice={choice!r} names no bound tool: use one of {', '.join(names)}"
        raise ConfigurationError(msg)
    return normal


def openai_tool_choice(choice: ToolChoice | Literal[True]) -> ToolChoice:
    """OpenAI's form of a choice, without a check of the tool that it names."""
    if choice is True or choice == "any":
        return "required"
    if isinstance(choice, str) and choice not in ("auto", "none", "required"):
        return {"type": "function", "function": {"name": choice}}
    return choice
