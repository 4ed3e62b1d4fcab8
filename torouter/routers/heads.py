"""Head: the last linear layer of a router in numpy, from which experts are removed and to which new ones are fitted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError
from torouter.routers.config import Objective, RouterConfig
from torouter.routers.judging import folds
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.soft_labels import soft_labels

_STRENGTHS = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""Candidates for the ridge penalty of a new row, the strongest first; cross-validation picks one."""
_LEAST_OUTCOMES = 20
"""Outcomes from which on a penalty is picked by cross-validation."""


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A linear layer from d features to k experts' logits: `weight` of shape (k, d), `bias` of shape (k,)."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.weight.ndim != 2 or self.bias.shape != self.weight.shape[:1]:
            msg = f"head weights {self.weight.shape} and biases {self.bias.shape} do not fit together"
            raise CheckpointError(msg)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Head):
            return NotImplemented
        return np.array_equal(self.weight, other.weight) and np.array_equal(self.bias, other.bias)

    __hash__ = None  # type: ignore[assignment] # arrays can't be hashed

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Shape (n, k)."""
        return features @ self.weight.T + self.bias

    def rows(self, positions: list[int]) -> Self:
        """The same layer with the outputs of these experts only, in this order."""
        return type(self)(self.weight[positions], self.bias[positions])

    def with_row(self, weight: NDArray[np.float32], bias: float) -> Self:
        """The same layer with one more expert, the last one."""
        return type(self)(np.vstack([self.weight, weight]), np.append(self.bias, np.float32(bias)))


def probabilities(logits: NDArray[np.float32], objective: Objective) -> NDArray[np.float32]:
    """Scores from logits, shape (n, k): a softmax over the experts for "soft", else a sigmoid of each."""
    if objective != "soft":
        return _sigmoid(logits)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = weights / weights.sum(axis=1, keepdims=True)
    return shares


def fit_row(
    features: NDArray[np.float32], targets: NDArray[np.float32], offsets: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], float]:
    """Weight (d,) and bias of a logistic regression on soft targets, its ridge penalty picked by cross-validation.

    With `offsets` o the model is sigmoid(w.x + b + o). That is also a new output z of a softmax over experts: its share
    is sigmoid(z - logsumexp(z of the others)), so o = -logsumexp(...) and the target is its soft label.

    Args:
        features: Shape (n, d).
        targets: Shape (n,), in 0..1.
        offsets: Shape (n,); None is 0.
    """
    x, y = features.astype(np.float64), targets.astype(np.float64)
    o = np.zeros_like(y) if offsets is None else offsets.astype(np.float64)
    # Features are scaled so that a penalty means the same for 768 tanh units and for a unit vector of length 384.
    center, scale = x.mean(axis=0), max(float(x.std(axis=0).mean()), 1e-6) * np.sqrt(x.shape[1])
    x = (x - center) / scale
    losses = np.zeros(len(_STRENGTHS))
    for left_out in folds(len(y)) if len(y) >= _LEAST_OUTCOMES else ():
        beta = np.zeros(x.shape[1] + 1)
        for position, strength in enumerate(_STRENGTHS):
            beta = _newton(x[~left_out], y[~left_out], o[~left_out], strength, start=beta)
            z = x[left_out] @ beta[:-1] + beta[-1] + o[left_out]
            losses[position] += (np.logaddexp(0, z) - y[left_out] * z).sum()
    # With too few outcomes to cross-validate, all losses are 0 and the strongest penalty is taken.
    strength = _STRENGTHS[int(np.argmin(losses))]
    beta = _newton(x, y, o, strength, start=np.zeros(x.shape[1] + 1))
    weight = beta[:-1] / scale
    return weight.astype(np.float32), float(beta[-1] - weight @ center)


def _newton(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    o: NDArray[np.float64],
    strength: float,
    *,
    start: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Minimise sum of cross entropies + strength * |w|^2 / 2; the bias, the last entry, is not penalised."""
    x = np.column_stack([x, np.ones(len(x))])
    penalty = np.full(x.shape[1], strength)
    penalty[-1] = 1e-6
    beta = start.copy()
    for _ in range(30):
        share = _sigmoid(x @ beta + o)
        curvature = np.maximum(share * (1 - share), 1e-6)
        hessian = (x * curvature[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, x.T @ (y - share) - penalty * beta)
        beta += step / max(1.0, float(np.abs(step).max()) / 4)
        if np.abs(step).max() < 1e-4:
            break
    return beta


def _sigmoid(z: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)), dtype=z.dtype)


def fit_expert(head: Head, config: RouterConfig, features: NDArray[np.float32], outcomes: OutcomeMatrix) -> Head:
    """`head` with one more row for the last expert of `config`, fitted on its outcomes for these features.

    The inputs of the fit are the features and the other experts' logits, scaled to the same total variance. Experts
    tend to fail at the same queries, so the logits carry what thousands of outcomes showed, which a few hundred could
    not (llmrouter9, 400 outcomes: 3 to 6 points more of the retrained router's gain). As logits are linear in the
    features, the new row is a linear one like the others.

    Raises:
        OutcomeTableError: Outcomes are missing: the new expert's, or for "soft" those of all experts.
    """
    name, logits = config.names[-1], head.logits(features)
    if config.objective != "soft":
        targets, offsets = outcomes.column(name), None
    else:
        labels = soft_labels(
            outcomes.of(config.names).scores,
            form=config.label_form or "multiply",
            temperature=config.temperature or 10.0,
        )
        targets, offsets = labels[:, -1], -np.logaddexp.reduce(logits, axis=1)
    width = features.shape[1]
    spread = float(features.std(axis=0).mean()) / max(float(logits.std(axis=0).mean()), 1e-6)
    scale = np.float32(spread * np.sqrt(width / logits.shape[1]))
    weight, bias = fit_row(np.hstack([features, scale * logits]), targets, offsets)
    own, shared = weight[:width], scale * weight[width:]
    return head.with_row(np.asarray(own + shared @ head.weight, dtype=np.float32), bias + float(shared @ head.bias))
