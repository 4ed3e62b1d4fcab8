"""What `/generate`, `/generate_stream`, `/info` and `/v1/models` answer, as `Generation`s and `ServerInfo`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torouter.chat import FinishReason
from torouter.endpoints.reply import finish_reason, parsed, truncated
from torouter.endpoints.stop_sequences import StopCutter, cut_at
from torouter.errors import ExpertProtocolError


@dataclass(frozen=True, slots=True)
class Generation:
    """A raw prompt's continuation, or one step of it.

    Attributes:
        text: What was generated, without stop text and special tokens.
        finish_reason: None but on the last step of a stream.
        generated_tokens: The server's count, on a whole answer and on the last step.
        tokens: `{"id", "text", "logprob", "special"}` of each generated token that this step brings.
        prefill: The same (without `special`) of the prompt's tokens: with `decoder_input_details`, and since TGI 3.0
            only from servers started with `--enable-prefill-logprobs`. The first logprob is None.
    """

    text: str
    finish_reason: FinishReason | None = None
    generated_tokens: int | None = None
    tokens: tuple[Mapping[str, Any], ...] = ()
    prefill: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server tells of itself. `raw` is all of it; a limit that it does not tell is None.

    `max_input_tokens` and `max_total_tokens` are of one request, `max_concurrent_requests` of the whole server: one
    more is refused at once.
    """

    model_id: str | None
    version: str | None
    max_input_tokens: int | None
    max_total_tokens: int | None
    max_concurrent_requests: int | None
    raw: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TemplatedChat:
    """A chat as the server's template writes it: the text, and the ids of its tokens."""

    text: str
    ids: tuple[int, ...]


def templated_chat(expert: str, data: bytes) -> TemplatedChat:
    """Read the body of a `/chat_tokenize` answer with status 200.

    Raises:
        ExpertProtocolError: It is none.
    """
    answer = parsed(expert, data)
    text = _word(answer, "templated_text")
    ids = [_count(token, "id") for token in _listed(answer, "tokenize_response")]
    if text is None or None in ids:
        msg = f"expert {expert!r} answers without a templated text and its tokens"
        raise ExpertProtocolError(msg, expert=expert)
    return TemplatedChat(text, tuple(i for i in ids if i is not None))


def generation(expert: str, stops: tuple[str, ...], data: bytes) -> Generation:
    """Read the body of a `/generate` answer with status 200, or the same in the list of one that POST `/` gives.

    Raises:
        ExpertProtocolError: It is none.
        ExpertError: It carries an error.
    """
    answer = parsed(expert, data.strip().removeprefix(b"[").removesuffix(b"]"))
    text, details = answer.get("generated_text"), answer.get("details")
    if not isinstance(text, str):
        msg = f"expert {expert!r} answers without generated_text"
        raise ExpertProtocolError(msg, expert=expert)
    text, cut = cut_at(stops, text)
    if not isinstance(details, Mapping):
        return Generation(text, "stop")
    finish = finish_reason(expert, details.get("finish_reason"))
    return Generation(
        text,
        "stop" if cut or finish is None else finish,
        _count(details, "generated_tokens"),
        _listed(details, "tokens"),
        _listed(details, "prefill"),
    )


class GenerationStream:
    """Turns the events of `/generate_stream`, which knows no `[DONE]`, into steps; see `reply.ChatStream`."""

    def __init__(self, expert: str, stops: tuple[str, ...]) -> None:
        self.done = False
        self.ended = False
        self._expert = expert
        self._text = StopCutter(stops)
        self._given: list[str] = []
        self._tokens: tuple[Mapping[str, Any], ...] = ()
        self._details: Mapping[str, Any] = {}

    @property
    def partial_text(self) -> str:
        """The text of all steps so far."""
        return "".join(self._given)

    def feed(self, data: bytes) -> Generation | None:
        """Take one event's data.

        Raises:
            ExpertError: The event is an error, or none of such a stream.
        """
        event = parsed(self._expert, data)
        token = event.get("token")
        if not isinstance(token, Mapping):
            msg = f"expert {self._expert!r} streams an event without a token"
            raise ExpertProtocolError(msg, expert=self._expert)
        self._tokens += (token,)
        told = token.get("text")
        was_cut = self._text.cut
        text = self._text.feed(told) if isinstance(told, str) and not token.get("special") else ""
        if event.get("generated_text") is not None:
            self.done = self.ended = True
            details = event.get("details")
            self._details = details if isinstance(details, Mapping) else {}
        elif was_cut:
            self.ended = True
        if not text:
            return None
        self._given.append(text)
        tokens, self._tokens = self._tokens, ()
        return Generation(text, tokens=tokens)

    def close(self) -> Generation:
        """The last step.

        Raises:
            TruncatedReplyError: The stream ended too early.
        """
        if not self.ended:
            raise truncated(self._expert)
        finish = finish_reason(self._expert, self._details.get("finish_reason"))
        reason = "stop" if self._text.cut or finish is None else finish
        return Generation(self._text.close(), reason, _count(self._details, "generated_tokens"), self._tokens)


def server_info(expert: str, data: bytes) -> ServerInfo:
    """Read the body of `/info`, in the keys of TGI 3 or in those of 1 and 2."""
    info = parsed(expert, data)
    return ServerInfo(
        _word(info, "model_id"),
        _word(info, "version"),
        _count(info, "max_input_tokens") or _count(info, "max_input_length"),
        _count(info, "max_total_tokens"),
        _count(info, "max_concurrent_requests"),
        info,
    )


def server_info_of_models(expert: str, model: str | None, data: bytes) -> ServerInfo:
    """Read the body of `/v1/models`: of `model` where it is listed, else of the first.

    vLLM tells the window as `max_model_len`, llama.cpp as `meta.n_ctx`.
    """
    listed = _listed(parsed(expert, data), "data")
    if not listed:
        msg = f"expert {expert!r} lists no model"
        raise ExpertProtocolError(msg, expert=expert)
    info = next((entry for entry in listed if entry.get("id") == model), listed[0])
    meta = info.get("meta")
    window = _count(info, "max_model_len") or (_count(meta, "n_ctx") if isinstance(meta, Mapping) else None)
    return ServerInfo(_word(info, "id"), None, None, window, None, info)


def _word(facts: Mapping[str, Any], name: str) -> str | None:
    value = facts.get(name)
    return value if isinstance(value, str) else None


def _count(facts: Mapping[str, Any], name: str) -> int | None:
    value = facts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _listed(facts: Mapping[str, Any], name: str) -> tuple[Mapping[str, Any], ...]:
    value = facts.get(name)
    return tuple(entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, list) else ()
