"""How a router is trained: every choice in one value.

The paper gives no hyper-parameter but T = 10, so the defaults are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from torouter.errors import ConfigurationError
from torouter.routing.config import LabelForm
from torouter.routing.labels import soft_labels
from torouter.routing.matrix import OutcomeMatrix

RouterKind = Literal["bert", "mlp", "knn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train one router.

    Raises:
        ConfigurationError: A value can't be used.
    """

    router: RouterKind = "bert"
    objective: Literal["soft", "bce"] = "bce"
    """What is learnt: "soft" is the paper's cross entropy against soft labels, "bce" learns each expert's own score."""
    encoder: str | None = None
    """Directory or Hub id; None is all-MiniLM-L6-v2, from its package where that is installed."""
    label_form: LabelForm = "multiply"
    temperature: float = 10.0
    """T of the soft labels."""
    seed: int = 0
    max_length: int = 256
    """Tokens of a query that are read."""
    validation: float = 0.1
    """Share of the queries that is kept back to pick the best epoch and to compare int8 with fp32."""
    epochs: int | None = None
    """None is the kind's own default."""
    learning_rate: float | None = None
    batch_size: int = 32
    patience: int = 2
    """Epochs without a gain after which training stops."""
    hidden: int = 256
    """Hidden units of the MLP."""
    neighbours: int = 100
    """k of the KNNRouter; 1 is the paper's 1NN-Router."""
    weights: Literal["uniform", "distance"] = "distance"
    """How the KNNRouter weighs its neighbours."""
    resume: bool = False
    """Go on from the work directory of a run that was stopped."""
    progress: bool = True

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, bool, str], ...] = (
            ("router", self.router in ("bert", "mlp", "knn"), "use bert, mlp or knn"),
            ("objective", self.objective in ("soft", "bce"), "use soft or bce"),
            ("seed", 0 <= self.seed < 2**32, "give a whole number from 0"),
            ("max_length", self.max_length >= 8, "give at least 8 tokens"),
            ("validation", 0 < self.validation < 1, "give a share between 0 and 1"),
            ("epochs", self.epochs is None or self.epochs > 0, "give at least 1"),
            ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "give a number above 0"),
            ("batch_size", self.batch_size > 0, "give at least 1"),
            ("patience", self.patience > 0, "give at least 1"),
            ("hidden", self.hidden > 0, "give at least 1"),
            ("neighbours", self.neighbours > 0, "give at least 1"),
            ("weights", self.weights in ("uniform", "distance"), "use uniform or distance"),
        )
        for name, fits, fix in checks:
            if not fits:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} can't be used: {fix}")

    def targets(self, outcomes: OutcomeMatrix) -> NDArray[np.float32]:
        """What the router learns for each query, shape (n, k): soft labels, or the scores themselves."""
        if self.objective == "soft":
            return soft_labels(outcomes.scores, form=self.label_form, temperature=self.temperature)
        return outcomes.scores
