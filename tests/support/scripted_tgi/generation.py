"""Generates the tokens of the model's answer, under a token limit and stop sequences."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from tests.support.scripted_tgi.model import tokens
from tests.support.scripted_tgi.replies import Answer, ToolUse, ToolUses

NAME_TOKENS = 4
"""Tokens that a tool call takes before its name is complete and anything is streamed."""
NO_TOOL_TOKENS = 12
"""Tokens of the hidden first run in which the model picks `no_tool`."""
EOS = "<|eot_id|>"


@dataclass(frozen=True, slots=True)
class Call:
    """A generated tool call. `pieces` join to its arguments, cut where the token limit was met."""

    use: ToolUse
    pieces: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """`finish` is "length", "eos", "stop_sequence" or a test's own word."""

    prompt_tokens: int
    pieces: tuple[str, ...]
    finish: str
    calls: tuple[Call, ...] = ()

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> int:
        """Generated tokens, the end-of-text token among them."""
        of_calls = sum(NAME_TOKENS + len(call.pieces) for call in self.calls)
        return of_calls + len(self.pieces) + (self.finish == "eos")


def generate(
    answer: Answer, *, limit: int | None, stop_sequences: Sequence[str], prompt_tokens: int, keep_stop: bool
) -> Generation:
    """Generate `answer` under a token limit and stop sequences.

    `keep_stop` is TGI's behaviour: it checks the end of the text after each token and leaves the stop sequence in.
    Other servers cut before it, wherever it is.
    """
    if isinstance(answer, ToolUses):
        calls = tuple(Call(use, _argument_pieces(use)) for use in answer.calls)
        return Generation(prompt_tokens, (), "eos", calls)
    if isinstance(answer, ToolUse):
        pieces = _argument_pieces(answer)
        if limit is None or limit >= NAME_TOKENS + len(pieces):
            return Generation(prompt_tokens, (), "eos", (Call(answer, pieces),))
        kept = pieces[: max(0, limit - NAME_TOKENS)]
        return Generation(prompt_tokens, (), "length", (Call(answer, kept),))
    planned = answer.pieces or tuple(tokens(answer.text))
    text = "".join(planned)
    starts = [text.index(stop) for stop in stop_sequences if stop in text]
    if starts and not keep_stop:
        planned = tuple(tokens(text[: min(starts)]))
    generated: list[str] = []
    finish = "eos"
    for piece in planned:
        generated.append(piece)
        if limit is not None and len(generated) >= limit:
            finish = "length"
        elif any("".join(generated).endswith(stop) for stop in stop_sequences):
            finish = "stop_sequence"
        else:
            continue
        break
    return Generation(prompt_tokens, tuple(generated), answer.finish_reason or finish)


def _argument_pieces(use: ToolUse) -> tuple[str, ...]:
    # Streamed arguments have other spaces than those of a whole answer (CONTRACT section 9).
    text = use.arguments if isinstance(use.arguments, str) else json.dumps(use.arguments, ensure_ascii=False)
    return tuple(re.findall(r'^\{|\s*[^\s"]+|\s*"|\s+', text))
