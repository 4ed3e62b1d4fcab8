"""Counts inputs exactly, by the experts' own tokenizers, where a context window may be too small."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from torouter.experts import Expert
from torouter.routing.requirements import Requirements

if TYPE_CHECKING:
    from tokenizers import Tokenizer

logger = logging.getLogger(__name__)

_FILE = "tokenizer.json"


def near_limit(experts: Sequence[Expert], texts: Sequence[str], requirements: Requirements) -> list[Expert]:
    """The experts whose context window may be too small for `texts`, prefix and answer.

    A token has at least one byte, so a request with no more bytes than the window has tokens fits without counting. All
    of `experts` must have a tokenizer and a window.
    """
    if not experts:
        return []
    length = _bytes(texts) + requirements.reserved
    return [e for e in experts if length + _bytes(_prefix_texts(e)) > cast("int", e.context_window)]


class ExpertTokenizers:
    """The experts' tokenizers, each loaded once, on first use. Threads may share it."""

    def __init__(self) -> None:
        self._loaded: dict[str, Tokenizer | None] = {}  # None for one that can't be used
        self._lock = threading.Lock()

    def counts(self, experts: Iterable[Expert], texts: Sequence[str]) -> dict[str, int]:
        """The number of tokens of `texts` and an expert's prefix, by the expert's name.

        Tokens that a chat template adds are not counted, since the tokenizer does not know them. An expert whose
        tokenizer can't be used is left out, after one warning.
        """
        lengths: dict[str, int] = {}  # by tokenizer, which experts of one base model share
        counts: dict[str, int] = {}
        for expert in experts:
            name = cast("str", expert.tokenizer)
            if (tokenizer := self._tokenizer(expert)) is None:
                continue
            try:
                if name not in lengths:
                    lengths[name] = _count(tokenizer, texts)
                counts[expert.name] = lengths[name] + _count(tokenizer, _prefix_texts(expert))
            except Exception as error:  # noqa: BLE001 - the library raises bare Exceptions, as for an unknown word
                with self._lock:
                    self._give_up(expert, f"can't count: {type(error).__name__}")
        return counts

    def _tokenizer(self, expert: Expert) -> Tokenizer | None:
        name = cast("str", expert.tokenizer)
        with self._lock:
            if name not in self._loaded:
                try:
                    self._loaded[name] = _load(name)
                except Exception as error:  # noqa: BLE001 - bare Exceptions of the library, or the Hub client's own
                    self._give_up(expert, f"can't be loaded: {type(error).__name__}: {error}")
            return self._loaded[name]

    def _give_up(self, expert: Expert, reason: str) -> None:
        name = cast("str", expert.tokenizer)
        if name in self._loaded and self._loaded[name] is None:  # another thread has warned already
            return
        self._loaded[name] = None
        logger.warning(
            "expert %r: tokenizer=%r %s; lengths are estimated from now on: "
            "give the path of a %s, its directory or a Hub id (owner/name), or leave the field out",
            *(expert.name, name, reason, _FILE),
        )


def _load(name: str) -> Tokenizer:
    from tokenizers import Tokenizer

    path = Path(name)
    if path.exists():
        tokenizer = Tokenizer.from_file(str(path / _FILE if path.is_dir() else path))
    elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        tokenizer = Tokenizer.from_pretrained(name)
    else:
        raise FileNotFoundError("no such file")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _count(tokenizer: Tokenizer, texts: Sequence[str]) -> int:
    # Unlike `encode` this releases the GIL. It rejects lone surrogates, which Python strings may contain.
    clean = [text.encode(errors="replace").decode() for text in texts]
    return sum(len(encoding) for encoding in tokenizer.encode_batch_fast(clean, add_special_tokens=False))


def _bytes(texts: Iterable[str]) -> int:
    return sum(len(text.encode(errors="replace")) for text in texts)


def _prefix_texts(expert: Expert) -> list[str]:
    """The texts of the expert's prefix messages."""
    texts: list[str] = []
    for content in (message["content"] for message in expert.prefix):
        blocks = [{"text": content}] if isinstance(content, str) else content or ()
        texts += (b["text"] for b in blocks if isinstance(b, Mapping) and isinstance(b.get("text"), str))
    return texts
