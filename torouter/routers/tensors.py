"""Named arrays of a checkpoint in one safetensors file, whose size is checked on loading; never pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers import checkpoint


def save(directory: Path, **named: NDArray[np.generic]) -> None:
    """Write the arrays into `router.safetensors`."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in named.items()}, directory / checkpoint.ARRAYS)


def load(directory: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Read these arrays.

    Raises:
        CheckpointError: The file is missing or damaged, or lacks an array.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = checkpoint.checked_path(directory, checkpoint.ARRAYS)
    try:
        arrays = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    missing = [name for name in names if name not in arrays]
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")
    return arrays
