"""What trainings share: the loss of each objective, the perceptron's layers, and epochs of which the best is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch.nn import functional
from torch.optim.lr_scheduler import LRScheduler
from tqdm import trange

from torouter.routers.heads import Head
from torouter.routers.perceptron import Perceptron
from torouter.training.arguments import TrainingArguments

T = TypeVar("T")


def layers(width: int, hidden: int, experts: int, *, dropout: float) -> torch.nn.Sequential:
    """The layers of a perceptron to train: a hidden layer, and an output for each expert."""
    return torch.nn.Sequential(
        torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(hidden, experts)
    )


def perceptron(trained: torch.nn.Sequential, *, scale: float = 1.0) -> Perceptron:
    """The trained layers as a `Perceptron`; `scale`, by which inputs were multiplied, goes into the first layer."""
    weights = [tensor.detach().numpy().copy() for tensor in trained.parameters()]
    return Perceptron(Head(weights[0] * np.float32(scale), weights[1]), Head(weights[2], weights[3]))


def objective_loss(objective: str, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss to minimise: cross entropy with the soft labels for "soft", else with each expert's own score.

    Args:
        objective: Of `TrainingArguments`.
        logits: Shape (n, k).
        targets: Shape (n, k).
    """
    if objective == "soft":
        return -(targets * functional.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
    return functional.binary_cross_entropy_with_logits(logits, targets)


def train_epochs(
    arguments: TrainingArguments,
    model: torch.nn.Module,
    optimizers: Sequence[tuple[torch.optim.Optimizer, LRScheduler]],
    *,
    queries: int,
    batch: int,
    epochs: int,
    loss: Callable[[torch.Tensor], torch.Tensor],
    validation_loss: Callable[[], torch.Tensor],
    state: Callable[[], T],
) -> tuple[T, int]:
    """Train, and return the model's state after the epoch of least loss on the validation part, and that epoch.

    Args:
        arguments: How to train; only `progress` is read.
        model: Switched to training mode for each epoch, and to evaluation mode after it.
        optimizers: Optimizers, each with the schedule that is stepped with it.
        queries: Number of training queries.
        batch: Queries per step.
        epochs: Number of passes over all queries.
        loss: Computes the loss of the queries at given positions.
        validation_loss: Computes the loss on the validation part.
        state: Copies the current weights.
    """
    best, best_loss, best_epoch = state(), float("inf"), 0
    for epoch in trange(1, epochs + 1, desc="train", file=sys.stderr, disable=None if arguments.progress else True):
        model.train()
        for rows in torch.randperm(queries).split(batch):  # type: ignore[no-untyped-call]
            for optimizer, _ in optimizers:
                optimizer.zero_grad()
            loss(rows).backward()  # type: ignore[no-untyped-call]
            for optimizer, schedule in optimizers:
                optimizer.step()
                schedule.step()
        model.eval()
        with torch.inference_mode():
            current_loss = float(validation_loss())
        if current_loss < best_loss:
            best, best_loss, best_epoch = state(), current_loss, epoch
    return best, best_epoch
