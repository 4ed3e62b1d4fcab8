"""TGI's answers to raw prompts: `/generate` whole, `/generate_stream` event by event, and `/chat_tokenize`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torouter.chat import FinishReason
from torouter.endpoints.json_fields import integer_field, object_list, parse_object, string_field
from torouter.endpoints.reply import parse_finish_reason, truncated_stream
from torouter.endpoints.stop_sequences import StopSequenceFilter, cut_at
from torouter.errors import ExpertProtocolError


@dataclass(frozen=True, slots=True)
class Generation:
    """A raw prompt's continuation, or one step of it.

    Attributes:
        text: The generated text, without stop sequence and special tokens.
        finish_reason: None except on the last step of a stream.
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
class TemplatedChat:
    """A chat as the server's chat template renders it: the text, and the ids of its tokens."""

    text: str
    ids: tuple[int, ...]


def parse_templated_chat(expert: str, data: bytes) -> TemplatedChat:
    """Read the body of a `/chat_tokenize` answer with status 200.

    Raises:
        ExpertProtocolError: It has no templated text or no tokens.
        ExpertError: It is an error.
    """
    answer = parse_object(expert, data)
    text = string_field(answer, "templated_text")
    ids = [integer_field(token, "id") for token in object_list(answer, "tokenize_response")]
    if text is None or None in ids:
        msg = f"expert {expert!r} answers without a templated text and its tokens"
        raise ExpertProtocolError(msg, expert=expert)
    return TemplatedChat(text, tuple(token_id for token_id in ids if token_id is not None))


def parse_generation(expert: str, stop_sequences: tuple[str, ...], data: bytes) -> Generation:
    """Read the body of a `/generate` answer with status 200, or the list with one such answer that POST `/` gives.

    Raises:
        ExpertProtocolError: It has no generated text.
        ExpertError: It is an error.
    """
    answer = parse_object(expert, data.strip().removeprefix(b"[").removesuffix(b"]"))
    text, details = answer.get("generated_text"), answer.get("details")
    if not isinstance(text, str):
        msg = f"expert {expert!r} answers without generated_text"
        raise ExpertProtocolError(msg, expert=expert)
    text, cut = cut_at(stop_sequences, text)
    if not isinstance(details, Mapping):
        return Generation(text, "stop")
    finish = parse_finish_reason(expert, details.get("finish_reason"))
    return Generation(
        text,
        "stop" if cut or finish is None else finish,
        integer_field(details, "generated_tokens"),
        object_list(details, "tokens"),
        object_list(details, "prefill"),
    )


class GenerationStream:
    """Turns the events of `/generate_stream`, which has no `[DONE]`, into steps; attributes as in `reply.ChatStream`.

    Args:
        expert: Name of the expert, for errors.
        stop_sequences: Where to cut the text.
    """

    def __init__(self, expert: str, stop_sequences: tuple[str, ...]) -> None:
        self.done = False
        self.ended = False
        self._expert = expert
        self._filter = StopSequenceFilter(stop_sequences)
        self._texts: list[str] = []
        self._tokens: tuple[Mapping[str, Any], ...] = ()
        self._details: Mapping[str, Any] = {}

    @property
    def partial_text(self) -> str:
        """The text of all steps so far."""
        return "".join(self._texts)

    def feed(self, data: bytes) -> Generation | None:
        """Take one event's data; the step that it completes, None where it brings no text.

        Raises:
            ExpertError: The event is an error, or has no token.
        """
        event = parse_object(self._expert, data)
        token = event.get("token")
        if not isinstance(token, Mapping):
            msg = f"expert {self._expert!r} streams an event without a token"
            raise ExpertProtocolError(msg, expert=self._expert)
        self._tokens += (token,)
        token_text = token.get("text")
        was_cut = self._filter.cut
        text = self._filter.feed(token_text) if isinstance(token_text, str) and not token.get("special") else ""
        if event.get("generated_text") is not None:
            self.done = self.ended = True
            details = event.get("details")
            self._details = details if isinstance(details, Mapping) else {}
        elif was_cut:
            self.ended = True
        if not text:
            return None
        self._texts.append(text)
        tokens, self._tokens = self._tokens, ()
        return Generation(text, tokens=tokens)

    def close(self) -> Generation:
        """The last step.

        Raises:
            TruncatedReplyError: The stream ended too early.
        """
        if not self.ended:
            raise truncated_stream(self._expert)
        finish = parse_finish_reason(self._expert, self._details.get("finish_reason"))
        reason = "stop" if self._filter.cut or finish is None else finish
        generated_tokens = integer_field(self._details, "generated_tokens")
        return Generation(self._filter.close(), reason, generated_tokens, self._tokens)
