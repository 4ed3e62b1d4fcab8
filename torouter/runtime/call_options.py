"""CallOptions: splits the keywords of one call into those that routing reads and those that an expert is sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torouter.chat import ChatRequest
from torouter.endpoints.tool_choice import ToolChoice, normalized_tool_choice
from torouter.routing.policy import RoutingPolicy

ROUTING_KEYWORDS = ("model", "exclude", "routing_text", "policy", "session")
"""The keywords that routing reads. A single endpoint reads `model` and ignores the others, so that it can replace a
routed model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """The options of one call, in the OpenAI names.

    Attributes:
        model: The one expert that may answer; for a single endpoint, its adapter or served model.
        exclude: Experts that may not answer.
        routing_text: The text to route by.
        policy: A policy for this call alone.
        session: Key of a conversation that stays with its expert unless another expert is much better.
        timeout: Seconds for the whole call.
        tools: OpenAI tool objects, or a framework's own tools.
        tool_choice: OpenAI's form.
        response_format: OpenAI's object.
        parameters: Everything else: temperature, max_tokens, stop, ...
    """

    model: str | None = None
    exclude: Collection[str] = ()
    routing_text: str | None = None
    policy: RoutingPolicy | None = None
    session: str | None = None
    timeout: float | None = None
    tools: tuple[Any, ...] = ()
    tool_choice: ToolChoice | None = None
    response_format: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, *sources: Mapping[str, Any], ignored: Collection[str] = ()) -> CallOptions:
        """Options from keywords.

        Args:
            sources: Keywords by name; later sources override earlier ones, and None means "not given".
            ignored: Keywords that are the framework's own and mean nothing to an expert.

        Raises:
            ConfigurationError: `tool_choice` names a tool that is not offered.
        """
        keywords = {name: value for source in sources for name, value in source.items() if value is not None}
        for name in ignored:
            keywords.pop(name, None)
        routing = {name: keywords.pop(name) for name in ROUTING_KEYWORDS if name in keywords}
        tools = tuple(keywords.pop("tools", ()))
        choice = keywords.pop("tool_choice", None)
        return cls(
            **{name: value for name, value in routing.items() if value != ""},
            timeout=keywords.pop("timeout", None),
            tools=tools,
            tool_choice=normalized_tool_choice(choice, [_tool_name(tool) for tool in tools]) if tools else None,
            response_format=keywords.pop("response_format", None),
            parameters=keywords,
        )

    @property
    def asks_for_schema(self) -> bool:
        """Whether the answer must follow a JSON schema."""
        return (self.response_format or {}).get("type") == "json_schema"

    def request(self, messages: tuple[Mapping[str, Any], ...]) -> ChatRequest:
        """The request to an expert behind a url; `messages` are OpenAI message objects."""
        return ChatRequest(
            messages=messages,
            parameters=self.parameters,
            tools=self.tools,
            tool_choice=self.tool_choice,
            response_format=self.response_format,
        )


def _tool_name(tool: Any) -> str:
    """The name of an OpenAI tool object, or of a framework's tool."""
    if isinstance(tool, Mapping):
        function = tool.get("function")
        return str(function.get("name")) if isinstance(function, Mapping) else ""
    return str(tool.metadata.name)
