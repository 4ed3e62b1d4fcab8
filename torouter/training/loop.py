"""What the trainings of MLPRouter and FastRouter share: layers, loss, and the epochs of which the best is kept."""

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
    """A hidden layer and an output for each expert, as `perceptron` reads them."""
    return torch.nn.Sequential(
        torch.nn.Linear(width, hidden), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(hidden, experts)
    )


def perceptron(trained: torch.nn.Sequential, *, scale: float = 1.0) -> Perceptron:
    """A copy of the layers; the inputs' scale goes into the first one's weights."""
    weights = [tensor.detach().numpy().copy() for tensor in trained.parameters()]
    return Perceptron(Head(weights[0] * np.float32(scale), weights[1]), Head(weights[2], weights[3]))


def objective_loss(objective: str, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What training makes small: the cross entropy with shares for "soft", else with each expert's own quality."""
    if objective == "soft":
        return -(targets * functional.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
    return functional.binary_cross_entropy_with_logits(logits, targets)


def best_of(
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
        arguments: Says whether there is a progress bar.
        model: Put into training and out of it.
        optimizers: Each with its schedule, which steps with it.
        queries: Number of queries to learn from.
        batch: How many of them a step sees.
        epochs: How often all of them are seen.
        loss: Of the queries at these positions.
        validation_loss: Of the validation part.
        state: A copy of the weights as they are now.
    """
    best, best_loss, best_epoch = state(), float("inf"), 0
    for epoch in trange(1, epochs + 1, desc="learn", file=sys.stderr, disable=None if arguments.progress else True):
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
            found = float(validation_loss())
        if found < best_loss:
            best, best_loss, best_epoch = state(), found, epoch
    return best, best_epoch
