"""The schema of the exchanges in `tests/contract/*/`: one request, the bytes of its reply, and what the reply means.

README.md beside this module describes the fields for whoever writes a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from tests.support.scripted_tgi.replies import Raw, Reply, Reset
from torouter import errors
from torouter.chat import FinishReason
from torouter.errors import TORouterError

Kind = Literal["chat", "chat_stream", "generate", "generate_stream", "nll", "info", "models", "health", "handshake"]
CHATS: tuple[Kind, ...] = ("chat", "chat_stream")
GENERATIONS: tuple[Kind, ...] = ("generate", "generate_stream")
STREAM = "text/event-stream"

_MEANINGS: dict[str, tuple[Kind, ...]] = {
    "answer": CHATS,
    "generation": GENERATIONS,
    "info": ("info", "models"),
    "healthy": ("health",),
    "error": (*CHATS, *GENERATIONS, "nll", "handshake"),
}
"""What an exchange of each kind may mean."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Request(_Facts):
    """What is asked. `kinds` are all requests that get this same reply."""

    kinds: tuple[Kind, ...] = Field(min_length=1)
    text: str = "When does the tide turn?"
    parameters: dict[str, JsonValue] = {}
    tools: tuple[str, ...] = ()
    tool_choice: str | None = None
    model: str | None = None

    @property
    def tool_objects(self) -> list[dict[str, Any]]:
        """The tools in OpenAI's form; what arguments they take is of no meaning to a reply that is written down."""
        schema = {"type": "object", "properties": {"place": {"type": "string"}}}
        return [
            {"type": "function", "function": {"name": name, "description": name, "parameters": schema}}
            for name in self.tools
        ]


class WireReply(_Facts):
    """The reply as it goes over the socket."""

    status: int = 200
    headers: dict[str, str] = {}
    body: str | tuple[str, ...] = ""
    split: int | None = Field(default=None, gt=0)
    reset: bool = False

    @property
    def bytes(self) -> bytes:
        """The whole body."""
        return (self.body if isinstance(self.body, str) else "".join(self.body)).encode()

    def scripted(self, split: int | None = None) -> Reply:
        """The reply for a scripted server; `split` overrides the file's own."""
        if self.reset:
            return Reset()
        split, whole = split or self.split, self.bytes
        if split:
            pieces = tuple(whole[at : at + split] for at in range(0, len(whole), split))
        else:
            pieces = () if isinstance(self.body, str) else tuple(piece.encode() for piece in self.body)
        return Raw(self.status, self.headers, whole, pieces)


class Call(_Facts):
    """One call of a tool."""

    name: str
    arguments: dict[str, JsonValue]


class Answer(_Facts):
    """A chat answer. `usage` is of prompt and completion tokens, `logprobs` the number of their entries."""

    text: str
    finish_reason: FinishReason
    usage: tuple[int, int] | None
    model: str
    tool_calls: tuple[Call, ...] = ()
    logprobs: int = 0


class Generated(_Facts):
    """A raw prompt's continuation. `tokens` and `prefill` are the texts of theirs."""

    text: str
    finish_reason: FinishReason
    generated_tokens: int | None
    tokens: tuple[str, ...] = ()
    prefill: tuple[str, ...] = ()


class Info(_Facts):
    """What a server tells of itself."""

    model_id: str | None
    version: str | None
    max_input_tokens: int | None
    max_total_tokens: int | None
    max_concurrent_requests: int | None


class Failure(_Facts):
    """A typed error.

    `name` is a class of `torouter.errors`; `failover` says whether another expert is asked, `cools_down` whether this
    one is left alone for a while.
    """

    name: str
    status: int | None
    error_type: str | None = None
    partial_text: str = ""
    failover: bool
    cools_down: bool

    @property
    def kind(self) -> type[TORouterError]:
        found: type[TORouterError] = getattr(errors, self.name)
        return found

    @model_validator(mode="after")
    def _class_exists(self) -> Self:
        if self.name not in vars(errors) or not issubclass(self.kind, TORouterError):
            msg = f"torouter.errors has no class {self.name!r}"
            raise ValueError(msg)
        return self


class Meaning(_Facts):
    """What the reply means: one of these."""

    answer: Answer | None = None
    generation: Generated | None = None
    info: Info | None = None
    healthy: bool | None = None
    error: Failure | None = None


class Exchange(_Facts):
    """One file."""

    trap: str = Field(min_length=20)
    source: str = Field(min_length=10)
    tgi: str = Field(min_length=1)
    request: Request
    reply: WireReply
    expected: Meaning
    xfail: str | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        given = self.expected.model_fields_set
        if len(given) != 1:
            msg = f"expected: give exactly one of {', '.join(_MEANINGS)}, not {sorted(given)}"
            raise ValueError(msg)
        (meaning,) = given
        if not set(self.request.kinds) <= set(_MEANINGS[meaning]):
            msg = f"expected: {meaning} is for {', '.join(_MEANINGS[meaning])}, not for {self.request.kinds}"
            raise ValueError(msg)
        streams = [kind.endswith("_stream") for kind in self.request.kinds]
        streamed = self.reply.headers.get("content-type") == STREAM
        if streamed != (all(streams) and self.reply.status == 200 and not self.reply.reset):
            msg = f"reply: {STREAM} goes with stream requests and status 200, and they with it"
            raise ValueError(msg)
        return self

    @classmethod
    def read(cls, file: Path) -> Exchange:
        """Read one file.

        Raises:
            pydantic.ValidationError: It is not as the schema wants it; the error names the field.
        """
        return cls.model_validate_json(file.read_bytes())
