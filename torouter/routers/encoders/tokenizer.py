"""QueryTokenizer: texts to token ids, cut to the length that a router reads and padded into batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import checkpoint

_BATCH_TOKENS = 4096  # of one pass, padding included: more is no faster on a CPU and needs more memory
_BATCH_QUERIES = 32
_CHARACTERS_PER_TOKEN = 24


class QueryTokenizer:
    """Token ids of queries, at most `max_length`: a longer query keeps its beginning and its end, half of it each.

    Prompts state their task at one of the ends (an instruction before a long context, a question after it), so the
    middle matters least.
    """

    def __init__(self, tokenizer_json: str, max_length: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(tokenizer_json)
        except Exception as error:  # the library raises bare Exceptions
            raise CheckpointError(f"{checkpoint.TOKENIZER} can't be used: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.max_length = max_length
        self.content = tokenizer_json
        pads = (self._tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>", "<|padding|>"))
        self.pad_id = next((pad for pad in pads if pad is not None), 0)

    @property
    def vocabulary(self) -> int:
        """Number of token ids: all are below it."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    @classmethod
    def load(cls, directory: Path, max_length: int) -> QueryTokenizer:
        """The tokenizer of a checkpoint or an encoder."""
        return cls(checkpoint.read_text(directory, checkpoint.TOKENIZER), max_length)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids with special tokens, one list per text, none longer than `max_length`."""
        # The middle of a huge text is dropped before tokenizing, so that the cost of a decision is bounded.
        limit = self.max_length * _CHARACTERS_PER_TOKEN
        short = [t if len(t) <= limit else f"{t[: limit // 2]} {t[-(limit // 2) :]}" for t in texts]
        if len(short) == 1:  # encode_batch would wake the tokenizer's thread pool
            return [self._cut(self._tokenizer.encode(short[0]).ids)]
        return [self._cut(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(short)]

    def _cut(self, ids: list[int]) -> list[int]:
        if len(ids) <= self.max_length:
            return ids
        tail = self.max_length // 2
        return ids[: self.max_length - tail] + ids[-tail:]

    def batches(self, texts: Sequence[str]) -> Iterator[tuple[list[int], NDArray[np.int64], NDArray[np.int64]]]:
        """Batches of similar length: the texts' positions, their padded ids and the attention mask."""
        ids = self.ids(texts)
        order = sorted(range(len(ids)), key=lambda position: len(ids[position]))
        while order:
            longest = len(ids[order[-1]])
            count = max(1, min(_BATCH_QUERIES, _BATCH_TOKENS // longest))
            positions, order = order[-count:], order[:-count]
            yield positions, *pad([ids[position] for position in positions], self.pad_id)


def pad(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and attention mask of shape (n, longest)."""
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for position, row in enumerate(rows):
        ids[position, : len(row)] = row
        mask[position, : len(row)] = 1
    return ids, mask
