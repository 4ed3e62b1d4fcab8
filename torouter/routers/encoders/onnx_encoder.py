"""OnnxEncoder: texts to feature vectors by a tokenizer and an ONNX graph, on one thread and without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import checkpoint
from torouter.routers.config import Precision
from torouter.routers.encoders.tokenizer import QueryTokenizer

GRAPHS: dict[Precision, str] = {"fp32": checkpoint.MODEL, "int8": checkpoint.MODEL_INT8}
FEATURES = "features"
"""Name of the graph's output: for each query, the vector that the head reads."""

_SLOW_ON_CPUS = ("SkipLayerNormFusion",)
"""The fused sum and norm takes 60 microseconds for 30 tokens, the two alone take 20: a sixth of an int8 decision."""


class Encoder(Protocol):
    """Turns texts into the feature vectors that a head reads."""

    width: int
    """d, the length of a vector."""

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One vector per text: shape (n, d). Threads may share it."""
        ...

    def content(self) -> Iterator[bytes]:
        """The bytes that the features depend on."""
        ...


class OnnxEncoder:
    """An encoder served by ONNX Runtime.

    It uses one thread: on a shared machine a spinning thread pool costs far more than a second thread gains.

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
        except Exception as error:  # ONNX Runtime's exceptions have no common base class but this
            raise CheckpointError(f"{graph} can't be loaded by ONNX Runtime: {error}") from error
        outputs = {output.name: output.shape for output in self._session.get_outputs()}
        if FEATURES not in outputs:
            raise CheckpointError(f"{graph} has no output {FEATURES!r}: it was not exported by torouter")
        self.width = int(outputs[FEATURES][-1])

    @classmethod
    def load(cls, directory: Path, precision: Precision, max_length: int) -> OnnxEncoder:
        """The encoder of a checkpoint."""
        graph = checkpoint.checked_path(directory, GRAPHS[precision])
        return cls(graph, QueryTokenizer.load(directory, max_length))

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        features = np.empty((len(texts), self.width), dtype=np.float32)
        for positions, ids, mask in self._tokenizer.batches(texts):
            feed = {"input_ids": ids, "attention_mask": mask}
            features[positions] = self._session.run([FEATURES], feed)[0]
        return features

    def content(self) -> Iterator[bytes]:
        yield self._tokenizer.content.encode()
        yield str(self._tokenizer.max_length).encode()
        with self._graph.open("rb") as file:
            while block := file.read(2**20):
                yield block
