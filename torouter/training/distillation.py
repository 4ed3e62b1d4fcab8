"""Static token vectors distilled from an encoder by model2vec's method (Minish Lab, github.com/MinishLab/model2vec).

The encoder reads each token of the vocabulary alone, between the special tokens of a text, and its states are
mean-pooled. A PCA reduces the vectors, and each is weighted by smooth inverse frequency (Arora et al., ICLR 2017),
a / (a + p), where p follows Zipf's law on the token's rank in the vocabulary. These are the steps and values of
`model2vec.distill`, written anew because that extra pins an older transformers. `train_fast` starts from the vectors.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from torouter.errors import ConfigurationError
from torouter.routers.encoders.pretrained import load_encoder
from torouter.routers.encoders.tokenizer import QueryTokenizer

DIMENSIONS = 256
_FREQUENCY = 1e-4
"""a of the weights; model2vec's default."""
_BATCH = 256


def token_vectors(source: str, tokenizer: QueryTokenizer, *, progress: bool = True) -> NDArray[np.float32]:
    """One vector per id of the tokenizer's vocabulary: shape (vocabulary, at most `DIMENSIONS`).

    Args:
        source: The encoder, a directory or Hub id.
        tokenizer: The encoder's tokenizer.
        progress: Show a progress bar.

    Raises:
        ConfigurationError: The encoder can't be loaded, or lacks tokens of its tokenizer.
    """
    model, count = load_encoder(source), tokenizer.vocabulary
    embedded = model.get_input_embeddings().num_embeddings
    if count > embedded:
        raise ConfigurationError(f"encoder {source!r} knows {embedded} tokens, its tokenizer has {count}: they differ")
    before, after = _special_ids(tokenizer.content)
    parts = []
    bar = tqdm(total=count, unit="token", desc="distil", file=sys.stderr, disable=None if progress else True)
    with torch.inference_mode(), bar:
        for tokens in torch.split(torch.arange(count), _BATCH):
            head, tail = ([torch.full_like(tokens, token) for token in special] for special in (before, after))
            ids = torch.stack([*head, tokens, *tail], dim=1)
            states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            parts.append(states.mean(dim=1).numpy())
            bar.update(len(tokens))
    return _principal(np.concatenate(parts)) * _weights(count)[:, None]


def _special_ids(tokenizer_json: str) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after a text."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()  # some pad every text to a fixed length
    encoding = tokenizer.encode("a")
    own = [position for position, special in enumerate(encoding.special_tokens_mask) if not special]
    return (encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :]) if own else ([], encoding.ids)


def _principal(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors' first principal components."""
    centred = vectors - vectors.mean(axis=0)
    _, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    return np.asarray(centred @ directions[:, ::-1][:, :DIMENSIONS], dtype=np.float32)


def _weights(count: int) -> NDArray[np.float32]:
    shares = 1 / np.arange(2, count + 2)
    shares /= shares.sum()
    return np.asarray(_FREQUENCY / (_FREQUENCY + shares), dtype=np.float32)
