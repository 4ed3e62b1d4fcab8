"""BertRouter: a fine-tuned transformer for sequence classification, one output per expert (the paper's BERT-Router).

The checkpoint is a stock Hugging Face directory that `AutoModelForSequenceClassification` opens, with `router.json` and
the ONNX graphs beside it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import checkpoint
from torouter.routers.config import ExpertFacts, RouterConfig, Serving
from torouter.routers.encoded import EncodedRouter
from torouter.routers.encoders import onnx_export
from torouter.routers.encoders.onnx_encoder import GRAPHS, Encoder, OnnxEncoder
from torouter.routers.encoders.tokenizer import QueryTokenizer
from torouter.routers.encoders.torch_encoder import TorchEncoder
from torouter.routers.heads import Head, fit_expert, probabilities
from torouter.routers.outcome_matrix import OutcomeMatrix

_DESCRIPTION = (checkpoint.CONFIG, checkpoint.CARD)


class BertRouter(EncodedRouter):
    """Scores experts with a fine-tuned transformer; made by `torouter train` or `from_pretrained`.

    The last layer is applied here and not in the graph, so that experts can be added and removed without a new encoder.
    """

    kind: ClassVar[str] = "bert"
    engines = ("onnx", "torch")

    def __init__(self, config: RouterConfig, encoder: Encoder, head: Head, source: Path) -> None:
        if len(head.bias) != len(config.experts):
            raise CheckpointError(f"the head has {len(head.bias)} outputs for {len(config.experts)} experts")
        self._head, self._source = head, source
        super().__init__(config, encoder)

    def scores_of(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return probabilities(self._head.logits(features), self.config.objective)

    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:
        config = self.config.with_expert(ExpertFacts(name=name))
        head = fit_expert(self._head, config, self.features(outcomes.queries), outcomes)
        return type(self)(config, self._encoder, head, self._source)

    def remove_expert(self, name: str) -> Self:
        config = self.config.without_expert(name)
        kept = [self.config.position(expert) for expert in config.names]
        return type(self)(config, self._encoder, self._head.rows(kept), self._source)

    def _head_content(self) -> Iterator[bytes]:
        yield self._head.weight.tobytes()
        yield self._head.bias.tobytes()

    def write_files(self, directory: Path) -> None:
        for name in checkpoint.FILES:
            if name not in _DESCRIPTION and (self._source / name).is_file():
                shutil.copyfile(checkpoint.checked_path(self._source, name), directory / name)
        model_config = _model_config(self._source)
        module = str(self.config.settings.get("head", "classifier"))
        if _names(model_config, self._source) == self.config.names and read_head(directory, module) == self._head:
            return
        _write_head(directory, module, self._head)
        labelled = {**model_config, **labels_of(self.config.names)}
        (directory / checkpoint.MODEL_CONFIG).write_text(json.dumps(labelled, indent=2) + "\n", encoding="utf-8")
        for graph in GRAPHS.values():
            if (directory / graph).is_file():
                onnx_export.replace_head(directory / graph, self._head)

    @classmethod
    def read_files(cls, directory: Path, config: RouterConfig, serving: Serving) -> Self:
        names = _names(_model_config(directory), directory)
        if sorted(names) != sorted(config.names):
            differing = sorted(set(names) ^ set(config.names))
            msg = f"{directory}: config.json and router.json differ in their experts ({', '.join(differing)})"
            raise CheckpointError(msg)
        module = str(config.settings.get("head", "classifier"))
        head = read_head(directory, module)
        if len(head.bias) != len(names):
            raise CheckpointError(f"{directory}: the model has {len(head.bias)} outputs for {len(names)} experts")
        head = head.rows([names.index(name) for name in config.names])
        encoder: Encoder
        if serving.engine == "torch":
            encoder = TorchEncoder(directory, module, QueryTokenizer.load(directory, config.max_length))
        else:
            encoder = OnnxEncoder.load(directory, serving.precision or config.precision, config.max_length)
        return cls(config, encoder, head, directory)


def labels_of(names: Sequence[str]) -> dict[str, Any]:
    """The keys of config.json that name a model's outputs."""
    return {
        "id2label": {str(position): name for position, name in enumerate(names)},
        "label2id": {name: position for position, name in enumerate(names)},
    }


def read_head(directory: Path, module: str) -> Head:
    """The last layer of a checkpoint's model.

    Raises:
        CheckpointError: The weights are missing or damaged, or have no such layer.
    """
    from safetensors import SafetensorError, safe_open

    path = checkpoint.checked_path(directory, checkpoint.WEIGHTS)
    try:
        with safe_open(path, framework="np") as file:
            parts = [file.get_tensor(f"{module}.{part}").astype(np.float32) for part in ("weight", "bias")]
    except (SafetensorError, TypeError) as error:
        raise CheckpointError(f"{path} has no readable layer {module!r}: {error}") from error
    return Head(*parts)


def _write_head(directory: Path, module: str, head: Head) -> None:
    from safetensors.numpy import load_file, save_file

    path = checkpoint.checked_path(directory, checkpoint.WEIGHTS)
    tensors = load_file(path)
    tensors[f"{module}.weight"], tensors[f"{module}.bias"] = head.weight, head.bias
    save_file(tensors, path, metadata={"format": "pt"})


def _model_config(directory: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(checkpoint.read_text(directory, checkpoint.MODEL_CONFIG))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{directory / checkpoint.MODEL_CONFIG} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{directory / checkpoint.MODEL_CONFIG} is not a JSON object")
    return document


def _names(model_config: Mapping[str, Any], directory: Path) -> tuple[str, ...]:
    """Names of the model's outputs, by position."""
    labels = model_config.get("id2label")
    if not isinstance(labels, dict) or set(labels) != {str(position) for position in range(len(labels))}:
        raise CheckpointError(f"{directory / checkpoint.MODEL_CONFIG}: id2label does not name each output")
    return tuple(str(labels[str(position)]) for position in range(len(labels)))
