"""Checkpoint directories: located on disk or on the Hub, checked before they are read, replaced in one step.

Every file has a fixed name and links out of the directory are refused, so reading a checkpoint never leaves it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torouter.errors import CheckpointError

CONFIG = "router.json"
CARD = "README.md"
MODEL = "model.onnx"
MODEL_INT8 = "model_int8.onnx"
ARRAYS = "router.safetensors"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
MODEL_CONFIG = "config.json"
INDEX = "index_{}.usearch"
FILES = (
    *(CONFIG, CARD, MODEL, MODEL_INT8, ARRAYS, TOKENIZER),
    *(MODEL_CONFIG, WEIGHTS, "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)

MAX_TEXT_BYTES = 64 * 2**20
MAX_WEIGHT_BYTES = 8 * 2**30


def locate(
    path_or_repo_id: str | os.PathLike[str],
    *,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
) -> Path:
    """The directory of a checkpoint, downloaded from the Hub unless it is a local one.

    Raises:
        CheckpointError: It is neither a local checkpoint nor one that the Hub delivers.
    """
    path = Path(path_or_repo_id)
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise CheckpointError(f"{path} has no {CONFIG}: give the directory that `torouter train` wrote")
        return path
    name = str(path_or_repo_id)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise CheckpointError(f"{name}: no such directory; give a router's directory or a Hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            name,
            revision=revision,
            token=token,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            local_files_only=local_files_only,
            allow_patterns=[*FILES, INDEX.format("*")],
        )
    except Exception as error:  # the Hub's client raises its own errors, its transport's and the system's
        msg = f"{name}: neither a local directory nor available from the Hub: {type(error).__name__}: {error}"
        raise CheckpointError(msg) from error
    if not (Path(directory) / CONFIG).is_file():
        raise CheckpointError(f"{name} on the Hub has no {CONFIG}: it is not a torouter checkpoint")
    return Path(directory)


def checked_path(directory: Path, name: str, limit: int = MAX_WEIGHT_BYTES) -> Path:
    """The path of a checkpoint's file.

    Raises:
        CheckpointError: It is missing, larger than `limit` bytes, or a link that points outside the checkpoint.
    """
    path = directory / name
    if not path.is_file():
        raise CheckpointError(f"{directory} lacks {name}: the checkpoint is incomplete; save or download it again")
    home = directory.resolve()
    # The Hub's cache keeps the files themselves in a folder beside the snapshot, which holds links to them.
    blobs = home.parents[1] / "blobs" if home.parent.name == "snapshots" else home
    if not path.resolve().is_relative_to(home) and path.resolve().parent != blobs:
        raise CheckpointError(f"{path} is a link that leads out of the checkpoint: replace it by the file itself")
    size = path.stat().st_size
    if size > limit:
        raise CheckpointError(f"{path} has {size} bytes, more than the limit of {limit}")
    return path


def read_text(directory: Path, name: str) -> str:
    """The text of one of a checkpoint's files.

    Raises:
        CheckpointError: It is missing, too large or not UTF-8.
    """
    path = checked_path(directory, name, MAX_TEXT_BYTES)
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not UTF-8: {error}") from None


def check_replaceable(directory: Path) -> None:
    """Check that a checkpoint may be written here.

    Raises:
        CheckpointError: `directory` holds something other than a checkpoint.
    """
    if directory.exists() and not (directory / CONFIG).is_file() and (directory.is_file() or any(directory.iterdir())):
        raise CheckpointError(f"{directory} exists and is no router's checkpoint: give a new or an empty directory")


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new directory that takes the place of `directory` when the block ends without an error.

    Raises:
        CheckpointError: `directory` holds something other than a checkpoint.
    """
    check_replaceable(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        yield fresh
        fresh.chmod(0o755)  # mkdtemp and safetensors leave files that only this user may read
        for file in fresh.iterdir():
            file.chmod(0o644)
        if directory.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{directory.name}-old-", dir=directory.parent))
            directory.rename(old / "checkpoint")
            try:
                fresh.rename(directory)
            except OSError:
                (old / "checkpoint").rename(directory)
                raise
            finally:
                shutil.rmtree(old)
        else:
            fresh.rename(directory)
    finally:
        if fresh.exists():
            shutil.rmtree(fresh)


def upload(
    save: Callable[[Path], object],
    repo_id: str,
    *,
    private: bool | None,
    token: str | bool | None,
    commit_message: str,
) -> str:
    """Upload what `save` writes into a directory, and return its address on the Hub.

    Raises:
        CheckpointError: The Hub refused, or can't be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "router"
        save(directory)
        try:
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=directory, commit_message=commit_message)
        except Exception as error:
            raise CheckpointError(f"{repo_id}: the Hub refused: {type(error).__name__}: {error}") from error
    return str(url)
