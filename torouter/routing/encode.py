"""Texts to feature vectors: tokenizers before an ONNX graph, on one thread, without torch.

Every trained router is such an encoder with a head of its own behind it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routing import checkpoint
from torouter.routing.config import Precision

GRAPHS: dict[Precision, str] = {"fp32": checkpoint.MODEL, "int8": checkpoint.MODEL_INT8}
FEATURES = "features"
"""Name of the graph's output: for each query the vector that the head reads."""

_BATCH_TOKENS = 4096  # of one pass, padding included: more is no faster on a CPU and takes memory
_BATCH_QUERIES = 32
_CHARACTERS_PER_TOKEN = 24
_SLOW_ON_CPUS = ("SkipLayerNormFusion",)
"""The fused sum and norm takes 60 microseconds for 30 tokens where the two take 20: a sixth of an int8 decision."""


class Encoder(Protocol):
    """What a head needs of the model before it."""

    width: int
    """d, the length of a vector."""

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector per text: shape (n, d). Threads may share it."""
        ...

    def content(self) -> Iterator[bytes]:
        """The bytes that the features depend on."""
        ...


class QueryTokenizer:
    """Token ids of queries, cut to `max_length`: of a longer one the first and the last half are kept.

    Prompts tell their task at either end (an instruction before a long context, a question after it), so the middle
    is what a decision can best do without.
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
        """Number of ids that a token can have, counted from 0."""
        return 1 + max(self._tokenizer.get_vocab().values(), default=-1)

    @classmethod
    def load(cls, directory: Path, max_length: int) -> QueryTokenizer:
        """The tokenizer of a checkpoint or an encoder."""
        return cls(checkpoint.read_text(directory, checkpoint.TOKENIZER), max_length)

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids with special tokens, one list per text, none longer than `max_length`."""
        # The middle of a huge text is dropped before tokenizing, so that the cost of a decision is bounded.
        most = self.max_length * _CHARACTERS_PER_TOKEN
        short = [t if len(t) <= most else f"{t[: most // 2]} {t[-(most // 2) :]}" for t in texts]
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
            yield positions, *padded([ids[position] for position in positions], self.pad_id)


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and attention mask of shape (n, longest)."""
    shape = (len(rows), max(map(len, rows)))
    ids, mask = np.full(shape, pad_id, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for position, row in enumerate(rows):
        ids[position, : len(row)] = row
        mask[position, : len(row)] = 1
    return ids, mask


class OnnxEncoder:
    """An encoder served by ONNX Runtime.

    One thread: on a shared machine a pool that spins costs far more than a second thread gains.

    Raises:
        CheckpointError: The graph can't be loaded.
    """

    def __init__(self, graph: Path, tokenizer: QueryTokenizer) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        self._graph, self._tokenizer = graph, tokenizer
        try:
            self._session: Any = ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOW_ON_CPUS
            )
        except Exception as error:  # ORT's exceptions have no common base below it
            raise CheckpointError(f"{graph} can't be loaded by ONNX Runtime: {error}") from error
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        if FEATURES not in outputs:
            raise CheckpointError(f"{graph} has no output {FEATURES!r}: it was not exported by torouter")
        self.width = int(outputs[FEATURES][-1])

    @classmethod
    def load(cls, directory: Path, precision: Precision, max_length: int) -> OnnxEncoder:
        """The encoder of a checkpoint."""
        graph = checkpoint.checked(directory, GRAPHS[precision])
        return cls(graph, QueryTokenizer.load(directory, max_length))

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        found = np.empty((len(texts), self.width), dtype=np.float32)
        for positions, ids, mask in self._tokenizer.batches(texts):
            feed = {"input_ids": ids, "attention_mask": mask}
            found[positions] = self._session.run([FEATURES], feed)[0]
        return found

    def content(self) -> Iterator[bytes]:
        yield self._tokenizer.content.encode()
        yield str(self._tokenizer.max_length).encode()
        with self._graph.open("rb") as file:
            while block := file.read(2**20):
                yield block
