"""Trains a FastRouter: static vectors and a small head, on a teacher's scores and on the outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from torouter.errors import CheckpointError, ConfigurationError
from torouter.routers.config import RouterConfig
from torouter.routers.encoders.pretrained import encoder_name, encoder_path, score_in_blocks, write_tokenizer
from torouter.routers.encoders.static_encoder import StaticEncoder, rows_of
from torouter.routers.encoders.tokenizer import QueryTokenizer
from torouter.routers.fast import FastRouter
from torouter.routers.perceptron import Perceptron
from torouter.routers.router import AutoRouter, Router
from torouter.training.arguments import TrainingArguments
from torouter.training.data import TrainingData
from torouter.training.distillation import token_vectors
from torouter.training.loop import layers, objective_loss, perceptron, train_epochs

PAIRS = 2**14
"""Number of vectors that pairs of neighbouring tokens share; they start at 0."""
EPOCHS, BATCH_SIZE = 15, 128
LEARNING_RATE, HEAD_LEARNING_RATE = 1e-2, 2e-3
"""Of the vectors, which are scaled at first so that the texts' features have a mean square of 1, and of the layers."""
ROW_DROPOUT, NOISE, DROPOUT = 0.2, 0.2, 0.3
"""Share of a text's tokens and pairs that are dropped, standard deviation of the noise on its features, share of hidden
units that are dropped."""


def write(
    directory: Path,
    config: RouterConfig,
    arguments: TrainingArguments,
    training: TrainingData,
    validation: TrainingData,
) -> RouterConfig:
    """Train, write the router's files, and return the config with the record of training."""
    source = encoder_path(arguments.encoder)
    if arguments.teacher is not None:
        teacher = load_teacher(arguments, config.names)
        training = add_teacher(training, teacher, arguments.teacher_share, progress=arguments.progress)
        record = {"teacher": encoder_name(arguments.teacher), "teacher_share": arguments.teacher_share}
        config = replace(config, training={**config.training, **record})
    write_tokenizer(source, directory)
    tokenizer = QueryTokenizer.load(directory, arguments.max_length)
    vectors = token_vectors(source, tokenizer, progress=arguments.progress)
    student, epoch = fit(arguments, vectors, tokenizer, training, validation)
    config = replace(
        config,
        settings={"hidden": arguments.hidden, "pairs": PAIRS},
        training={**config.training, "best_epoch": epoch},
    )
    FastRouter(config, StaticEncoder.of(tokenizer, student.vectors, pairs=PAIRS), student.head).write_files(directory)
    return config


def load_teacher(arguments: TrainingArguments, experts: tuple[str, ...]) -> Router:
    """The teacher of the arguments, reduced to these experts.

    Raises:
        ConfigurationError: It can't be loaded, lacks an expert, or its scores do not suit the objective.
    """
    assert arguments.teacher is not None
    try:
        teacher = AutoRouter.from_pretrained(arguments.teacher)
    except CheckpointError as error:
        raise ConfigurationError(f"teacher={arguments.teacher!r} can't be used: {error}") from error
    missing = [name for name in experts if name not in teacher.experts]
    if missing:
        msg = f"teacher={arguments.teacher!r} does not know {', '.join(missing)}: give one that does"
        raise ConfigurationError(msg)
    if teacher.config.scores_are_qualities != (arguments.objective == "bce"):
        kind = "qualities, which objective='bce'" if arguments.objective == "soft" else "shares, which objective='soft'"
        msg = f"teacher={arguments.teacher!r} gives {kind} learns: change the objective or the teacher"
        raise ConfigurationError(msg)
    for name in teacher.experts:
        if name not in experts:
            teacher = teacher.remove_expert(name)
    return teacher


def add_teacher(training: TrainingData, teacher: Router, share: float, *, progress: bool) -> TrainingData:
    """The data with the teacher's scores mixed into the targets, with the weight `share`."""
    scores = score_in_blocks(teacher.scores, training.queries, doing="score by the teacher", progress=progress)
    columns = [teacher.experts.index(name) for name in training.outcomes.experts]
    return TrainingData(training.outcomes, share * scores[:, columns] + (1 - share) * training.targets)


@dataclass(frozen=True, slots=True)
class Student:
    """The trained model: `vectors` of shape (vocabulary + pairs, d), and the head that reads their means."""

    vectors: NDArray[np.float32]
    head: Perceptron


def fit(
    arguments: TrainingArguments,
    vectors: NDArray[np.float32],
    tokenizer: QueryTokenizer,
    training: TrainingData,
    validation: TrainingData,
) -> tuple[Student, int]:
    """Train, and return the student of the epoch of least loss on the validation part, and that epoch.

    Args:
        arguments: How to train.
        vectors: The tokens' initial vectors, shape (vocabulary, d); tokens that occur in no query keep theirs.
        tokenizer: Gives the token ids.
        training: The training part.
        validation: The validation part.
    """
    torch.manual_seed(arguments.seed)
    ids, validation_ids = tokenizer.ids(training.queries), tokenizer.ids(validation.queries)
    rows, validation_rows = (
        [torch.from_numpy(rows_of(i, len(vectors), PAIRS)) for i in part] for part in (ids, validation_ids)
    )
    table = np.vstack([vectors / np.float32(_spread(vectors, ids)), np.zeros((PAIRS, vectors.shape[1]))])
    model = _Model(torch.from_numpy(table.astype(np.float32)), arguments.hidden, len(training.outcomes.experts))
    y, validation_y = torch.from_numpy(training.targets), torch.from_numpy(validation.targets)
    epochs, batch = arguments.epochs or EPOCHS, arguments.batch_size or BATCH_SIZE
    rate, head_rate = arguments.learning_rate or LEARNING_RATE, arguments.head_learning_rate or HEAD_LEARNING_RATE
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SparseAdam([model.vectors], lr=rate),
        torch.optim.AdamW(model.layers.parameters(), lr=head_rate, weight_decay=0.01),
    ]
    steps = epochs * -(-len(rows) // batch)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=most, total_steps=steps, cycle_momentum=False)
        for optimizer, most in zip(optimizers, (rate, head_rate), strict=True)
    ]
    return train_epochs(
        arguments,
        model,
        list(zip(optimizers, schedules, strict=True)),
        queries=len(rows),
        batch=batch,
        epochs=epochs,
        loss=lambda chosen: objective_loss(arguments.objective, model([rows[row] for row in chosen]), y[chosen]),
        validation_loss=lambda: objective_loss(arguments.objective, model(validation_rows), validation_y),
        state=model.student,
    )


class _Model(torch.nn.Module):
    """A perceptron on the mean of static vectors."""

    def __init__(self, vectors: torch.Tensor, hidden: int, experts: int) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors)
        self.layers = layers(vectors.shape[1], hidden, experts, dropout=DROPOUT)

    def forward(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits of n queries, shape (n, experts), from the rows of the vectors that each query uses."""
        lengths = torch.tensor([len(row) for row in rows])
        taken, query = torch.cat(list(rows)), torch.repeat_interleave(torch.arange(len(rows)), lengths)
        kept = torch.ones(len(taken))
        if self.training:
            kept = torch.bernoulli(kept - ROW_DROPOUT)
        counts = torch.zeros(len(rows)).index_add(0, query, kept).clamp_min(1)
        features = functional.embedding_bag(
            taken,
            self.vectors,
            lengths.cumsum(0) - lengths,
            mode="sum",
            sparse=True,
            per_sample_weights=kept / counts[query],
        )
        if self.training:
            features = features + NOISE * torch.randn_like(features)
        logits: torch.Tensor = self.layers(features)
        return logits

    def student(self) -> Student:
        """A copy of the current weights."""
        return Student(self.vectors.detach().numpy().copy(), perceptron(self.layers))


def _spread(vectors: NDArray[np.float32], ids: Sequence[Sequence[int]]) -> float:
    """Root mean square of the queries' features, the means of their token vectors."""
    means = [vectors[list(row)].mean(axis=0) for row in ids if row]
    return max(float(np.sqrt(np.mean(np.square(means)))), 1e-12)
