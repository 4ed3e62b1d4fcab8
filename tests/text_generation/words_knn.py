"""A KNNRouter over a hand-made ONNX graph, since nothing in this environment can export one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from torouter.routers.config import ExpertFacts, RouterConfig
from torouter.routers.encoders.onnx_encoder import OnnxEncoder
from torouter.routers.encoders.tokenizer import QueryTokenizer
from torouter.routers.knn import KNNRouter

WORDS = ("[UNK]", "code", "facts")


def knn_router(directory: Path) -> KNNRouter:
    """A router of the experts "old", good at "code", and "new", good at "facts"."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    graph = directory / "model.onnx"
    graph.write_bytes(word_presence(len(WORDS)))
    config = RouterConfig(
        kind="knn",
        experts=(ExpertFacts(name="old"), ExpertFacts(name="new")),
        settings={"neighbours": 1, "weights": "uniform"},
    )
    encoder = OnnxEncoder(graph, QueryTokenizer(tokenizer.to_str(), 32))
    scores = np.array([[1, 0], [0, 1]], dtype=np.float32)
    return KNNRouter.fit(config, encoder, encoder.features(["code", "facts"]), scores, source=directory)


def word_presence(size: int) -> bytes:
    """A graph from ids to a vector that is 1 at each id that occurs: Gather unit vectors, ReduceMax over them."""
    one_hot = np.eye(size, dtype=np.float32)
    one_hot[0] = 0  # the unknown word
    table = _message((1, size), (1, size), (2, _FLOAT), (8, "table"), (9, one_hot.tobytes()))
    axes = _message((1, "axes"), (8, 1), (20, 7))
    keepdims = _message((1, "keepdims"), (3, 0), (20, 2))
    graph = _message(
        (1, _message((1, "table"), (1, "input_ids"), (2, "vectors"), (4, "Gather"))),
        (1, _message((1, "vectors"), (2, "features"), (4, "ReduceMax"), (5, axes), (5, keepdims))),
        (2, "words"),
        (5, table),
        (11, _value("input_ids", _INT64, "n", "t")),
        (11, _value("attention_mask", _INT64, "n", "t")),
        (12, _value("features", _FLOAT, "n", size)),
    )
    return _message((1, 8), (8, _message((2, 13))), (7, graph))


_FLOAT, _INT64 = 1, 7


def _value(name: str, kind: int, *shape: str | int) -> bytes:
    dims = [(1, _message((2, dim) if isinstance(dim, str) else (1, dim))) for dim in shape]
    return _message((1, name), (2, _message((1, _message((1, kind), (2, _message(*dims)))))))


def _message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A protobuf message from numbers and values of its fields."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts += [_varint(number << 3), _varint(value)]
        else:
            content = value.encode() if isinstance(value, str) else value
            parts += [_varint(number << 3 | 2), _varint(len(content)), content]
    return b"".join(parts)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    return bytes((*encoded, value))
