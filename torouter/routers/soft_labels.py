"""Soft labels: the distribution over the experts that the paper's objective learns, made from their scores.

The paper (arXiv 2408.12320) says "softmax", T = 10 and "scaled BERTSim scores", but its formula could not be read, so
whether it multiplies or divides by T is unknown. Dividing scores of 0..1 by 10 gives labels that are almost uniform;
multiplying is therefore the default, and both are offered.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from torouter.errors import ConfigurationError
from torouter.routers.config import LabelForm


def soft_labels(scores: ArrayLike, *, form: LabelForm = "multiply", temperature: float = 10.0) -> NDArray[np.float32]:
    """Labels of n queries over k experts.

    Args:
        scores: Shape (n, k), in 0..1.
        form: "multiply" is softmax(T * s), "divide" is softmax(s / T), "hard" gives everything to the best expert, or
            equal shares to several that are best.
        temperature: T, above 0; "hard" ignores it.

    Returns:
        float32 of shape (n, k); each row sums to 1.

    Raises:
        ConfigurationError: The form is unknown, or T is not above 0.
    """
    table = np.asarray(scores, dtype=np.float64)
    if form not in get_args(LabelForm):
        raise ConfigurationError(f"label form {form!r} is unknown: use one of {', '.join(get_args(LabelForm))}")
    if not 0 < temperature < float("inf"):
        raise ConfigurationError(f"temperature={temperature!r} can't be used: give a number above 0")
    best = table.max(axis=1, keepdims=True)
    if form == "hard":
        weights = (table == best).astype(np.float64)
    else:
        weights = np.exp((table - best) * (temperature if form == "multiply" else 1 / temperature))
    labels: NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return labels
