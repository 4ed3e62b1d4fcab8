"""TrainingArguments: every choice of a training in one frozen value, checked when it is made.

The paper gives no hyper-parameter but T = 10, so the other defaults are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torouter.errors import ConfigurationError
from torouter.routers.config import LabelForm
from torouter.routers.kinds import TRAINED_KINDS, TrainedKind


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingArguments:
    """How to train one router.

    Raises:
        ConfigurationError: A value can't be used.
    """

    router: TrainedKind = "bert"
    objective: Literal["soft", "bce"] = "bce"
    """Loss: "soft" is the paper's cross entropy with soft labels, "bce" learns each expert's own score."""
    encoder: str | None = None
    """Directory or Hub id; None is all-MiniLM-L6-v2, from its package if that is installed."""
    label_form: LabelForm = "multiply"
    temperature: float = 10.0
    """T of the soft labels."""
    outcome_weight: float = 0.2
    """Weight of a query's own outcome in its training target, against the mean outcome of its data set. A single
    outcome is noisy, so the mean is the better target. With 1, or if the table has one data set only, the outcomes are
    learned as they are."""
    seed: int = 0
    max_length: int = 256
    """Tokens of a query that the router reads."""
    validation: float = 0.1
    """Share of the queries in the validation part, which picks the best epoch and compares int8 with fp32."""
    epochs: int | None = None
    """None is the kind's own default."""
    learning_rate: float | None = None
    """None is the kind's own default. For a BERT it is the rate of the highest layer."""
    layer_decay: float = 0.8
    """Learning rate of each layer of the BERT, relative to the layer above it."""
    head_learning_rate: float | None = None
    """Learning rate of the BERT's last linear layer, which starts from a ridge regression, and of the fast router's
    layers after its static vectors; None is the kind's own default."""
    batch_size: int | None = None
    patience: int = 2
    """Epochs without improvement after which the BERT's training stops."""
    frozen_layers: int = 0
    """Number of lowest layers of the BERT that are not trained, nor its embeddings; 0 trains all, as the paper does."""
    hidden: int = 256
    """Hidden units of the MLP and of the fast router."""
    teacher: str | None = None
    """Directory or Hub id of a trained router of these experts whose scores a fast router learns; None: it learns from
    the outcomes alone."""
    teacher_share: float = 0.8
    """Weight of the teacher's scores in the training target, against the outcomes."""
    neighbours: int = 100
    """k of the KNNRouter; 1 gives the paper's 1NN-Router."""
    weights: Literal["uniform", "distance"] = "distance"
    """How the KNNRouter weighs its neighbours."""
    resume: bool = False
    """Continue from the work directory of a run that was stopped."""
    progress: bool = True
    """Show progress bars on standard error."""

    def __post_init__(self) -> None:
        checks: tuple[tuple[str, bool, str], ...] = (
            ("router", self.router in TRAINED_KINDS, f"use one of {', '.join(TRAINED_KINDS)}"),
            ("objective", self.objective in ("soft", "bce"), "use soft or bce"),
            ("outcome_weight", 0 < self.outcome_weight <= 1, "give a share above 0, at most 1"),
            ("seed", 0 <= self.seed < 2**32, "give a whole number from 0"),
            ("max_length", self.max_length >= 8, "give at least 8 tokens"),
            ("validation", 0 < self.validation < 1, "give a share between 0 and 1"),
            ("epochs", self.epochs is None or self.epochs > 0, "give at least 1"),
            ("learning_rate", self.learning_rate is None or self.learning_rate > 0, "give a number above 0"),
            ("layer_decay", 0 < self.layer_decay <= 1, "give a share above 0, at most 1"),
            (
                "head_learning_rate",
                self.head_learning_rate is None or self.head_learning_rate > 0,
                "give a number above 0",
            ),
            ("batch_size", self.batch_size is None or self.batch_size > 0, "give at least 1"),
            ("patience", self.patience > 0, "give at least 1"),
            ("frozen_layers", self.frozen_layers >= 0, "give 0 or more"),
            ("hidden", self.hidden > 0, "give at least 1"),
            ("teacher", self.teacher is None or self.router == "fast", "only router='fast' learns from another one"),
            ("teacher_share", 0 <= self.teacher_share <= 1, "give a share from 0 to 1"),
            ("neighbours", self.neighbours > 0, "give at least 1"),
            ("weights", self.weights in ("uniform", "distance"), "use uniform or distance"),
        )
        for name, fits, fix in checks:
            if not fits:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} can't be used: {fix}")
