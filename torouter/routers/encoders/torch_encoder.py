"""TorchEncoder: a fine-tuned transformer's features from torch, which needs the `train` extra."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError, MissingExtraError
from torouter.routers import checkpoint
from torouter.routers.encoders.tokenizer import QueryTokenizer

if TYPE_CHECKING:
    import torch


class TorchEncoder:
    """The features from torch: slower than ONNX Runtime, and the reference that the graphs are checked against."""

    def __init__(self, directory: Path, head: str, tokenizer: QueryTokenizer) -> None:
        try:
            from transformers import AutoModelForSequenceClassification
        except ImportError:
            raise MissingExtraError("engine=\"torch\" needs torch: pip install 'torouter[train]'") from None
        self._tokenizer, self._directory = tokenizer, directory
        try:
            self._model = AutoModelForSequenceClassification.from_pretrained(
                directory,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                attn_implementation="eager",
            ).eval()
            self._head = self._model.get_submodule(head)
            self.width = int(self._head.in_features)
        except Exception as error:  # whatever a damaged directory makes transformers raise
            raise CheckpointError(f"{directory} can't be loaded by transformers: {error}") from error

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        import torch

        features = np.empty((len(texts), self.width), dtype=np.float32)
        for positions, ids, mask in self._tokenizer.batches(texts):
            seen = head_input(self._model, self._head, torch.from_numpy(ids), torch.from_numpy(mask))
            features[positions] = seen.numpy()
        return features

    def content(self) -> Iterator[bytes]:
        yield self._tokenizer.content.encode()
        yield (self._directory / checkpoint.WEIGHTS).read_bytes()


def head_input(model: Any, head: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What the layer `head` of `model` reads of each query: shape (n, d), for ids and mask of shape (n, length)."""
    import torch

    seen: list[torch.Tensor] = []
    thread = threading.get_ident()

    def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if threading.get_ident() == thread:  # a hook also hears the passes of other threads
            seen.append(inputs[0])

    hook = head.register_forward_pre_hook(keep)
    try:
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=mask)
    finally:
        hook.remove()
    return seen[0]
