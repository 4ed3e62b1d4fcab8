"""Trains a FastRouter: static vectors and a small head learn from a teacher's scores and from the outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from torouter.errors import CheckpointError, ConfigurationError
from torouter.pipeline.distillation import token_vectors
from torouter.pipeline.encoders import encoder_name, encoder_path, in_blocks, write_tokenizer
from torouter.pipeline.epochs import best_of, layers, loss_of, perceptron
from torouter.pipeline.lessons import Lesson
from torouter.pipeline.recipe import Recipe
from torouter.routing.config import RouterConfig
from torouter.routing.encode import QueryTokenizer
from torouter.routing.fast import FastRouter
from torouter.routing.perceptron import Perceptron
from torouter.routing.router import AutoRouter, Router
from torouter.routing.static import StaticEncoder, rows_of

PAIRS = 2**14
"""Vectors that the pairs of neighbouring tokens share; they start at 0."""
EPOCHS, BATCH_SIZE = 15, 128
LEARNING_RATE, HEAD_LEARNING_RATE = 1e-2, 2e-3
"""Of the vectors, at first scaled so that texts' means of tokens have a mean square of 1, and of the layers behind."""
ROW_DROPOUT, NOISE, DROPOUT = 0.2, 0.2, 0.3
"""Share of a text's tokens and pairs left out, standard deviation added to its features, share of hidden units left
out."""


def write(directory: Path, config: RouterConfig, recipe: Recipe, learnt: Lesson, held: Lesson) -> RouterConfig:
    """Train, write the router's files, and return the config with what training found out."""
    source = encoder_path(recipe.encoder)
    if recipe.teacher is not None:
        teacher = teacher_for(recipe, config.names)
        learnt = taught(learnt, teacher, recipe.teacher_share, progress=recipe.progress)
        record = {"teacher": encoder_name(recipe.teacher), "teacher_share": recipe.teacher_share}
        config = replace(config, training={**config.training, **record})
    write_tokenizer(source, directory)
    tokenizer = QueryTokenizer.load(directory, recipe.max_length)
    vectors = token_vectors(source, tokenizer, progress=recipe.progress)
    student, epoch = fit(recipe, vectors, tokenizer, learnt, held)
    config = replace(
        config,
        settings={"hidden": recipe.hidden, "pairs": PAIRS},
        training={**config.training, "best_epoch": epoch},
    )
    FastRouter(config, StaticEncoder.of(tokenizer, student.vectors, pairs=PAIRS), student.head).write_files(directory)
    return config


def teacher_for(recipe: Recipe, experts: tuple[str, ...]) -> Router:
    """The recipe's teacher, which then scores these experts and no other.

    Raises:
        ConfigurationError: It can't be loaded, lacks an expert, or its scores are not what the recipe learns.
    """
    assert recipe.teacher is not None
    try:
        teacher = AutoRouter.from_pretrained(recipe.teacher)
    except CheckpointError as error:
        raise ConfigurationError(f"teacher={recipe.teacher!r} can't be used: {error}") from error
    missing = [name for name in experts if name not in teacher.experts]
    if missing:
        msg = f"teacher={recipe.teacher!r} does not know {', '.join(missing)}: give one that learnt from these experts"
        raise ConfigurationError(msg)
    if teacher.config.scores_are_qualities != (recipe.objective == "bce"):
        told = "qualities, which objective='bce'" if recipe.objective == "soft" else "shares, which objective='soft'"
        msg = f"teacher={recipe.teacher!r} tells {told} learns: change the objective or the teacher"
        raise ConfigurationError(msg)
    for name in teacher.experts:
        if name not in experts:
            teacher = teacher.remove_expert(name)
    return teacher


def taught(learnt: Lesson, teacher: Router, share: float, *, progress: bool) -> Lesson:
    """The lesson with targets of which `share` is the teacher's scores."""
    scores = in_blocks(teacher.scores, learnt.queries, doing="ask the teacher", progress=progress)
    columns = [teacher.experts.index(name) for name in learnt.outcomes.experts]
    return Lesson(learnt.outcomes, share * scores[:, columns] + (1 - share) * learnt.targets)


@dataclass(frozen=True, slots=True)
class Student:
    """What was learnt: `vectors` (vocabulary + pairs, d), and the layers on their means."""

    vectors: NDArray[np.float32]
    head: Perceptron


def fit(
    recipe: Recipe, vectors: NDArray[np.float32], tokenizer: QueryTokenizer, learnt: Lesson, held: Lesson
) -> tuple[Student, int]:
    """The student and the epoch it is from: the one of least loss on the validation part.

    Args:
        recipe: How to train.
        vectors: What the tokens start with, shape (vocabulary, d); one that no query has keeps it.
        tokenizer: Gives the token ids.
        learnt: What to learn.
        held: The validation part.
    """
    torch.manual_seed(recipe.seed)
    ids, held_ids = tokenizer.ids(learnt.queries), tokenizer.ids(held.queries)
    rows, held_rows = ([torch.from_numpy(rows_of(i, len(vectors), PAIRS)) for i in part] for part in (ids, held_ids))
    table = np.vstack([vectors / np.float32(_spread(vectors, ids)), np.zeros((PAIRS, vectors.shape[1]))])
    model = _Model(torch.from_numpy(table.astype(np.float32)), recipe.hidden, len(learnt.outcomes.experts))
    y, held_y = torch.from_numpy(learnt.targets), torch.from_numpy(held.targets)
    epochs, batch = recipe.epochs or EPOCHS, recipe.batch_size or BATCH_SIZE
    rate, head_rate = recipe.learning_rate or LEARNING_RATE, recipe.head_learning_rate or HEAD_LEARNING_RATE
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.SparseAdam([model.vectors], lr=rate),
        torch.optim.AdamW(model.layers.parameters(), lr=head_rate, weight_decay=0.01),
    ]
    steps = epochs * -(-len(rows) // batch)
    schedules = [
        torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=most, total_steps=steps, cycle_momentum=False)
        for optimizer, most in zip(optimizers, (rate, head_rate), strict=True)
    ]
    return best_of(
        recipe,
        model,
        list(zip(optimizers, schedules, strict=True)),
        queries=len(rows),
        batch=batch,
        epochs=epochs,
        loss=lambda chosen: loss_of(recipe.objective, model([rows[row] for row in chosen]), y[chosen]),
        held_loss=lambda: loss_of(recipe.objective, model(held_rows), held_y),
        state=model.student,
    )


class _Model(torch.nn.Module):
    """Mean of static vectors, a hidden layer, an output for each expert."""

    def __init__(self, vectors: torch.Tensor, hidden: int, experts: int) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(vectors)
        self.layers = layers(vectors.shape[1], hidden, experts, dropout=DROPOUT)

    def forward(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Logits (n, experts) of n queries' rows of the table."""
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
        """What has been learnt up to now."""
        return Student(self.vectors.detach().numpy().copy(), perceptron(self.layers))


def _spread(vectors: NDArray[np.float32], ids: Sequence[Sequence[int]]) -> float:
    """Root mean square of the queries' means of token vectors."""
    means = [vectors[list(row)].mean(axis=0) for row in ids if row]
    return max(float(np.sqrt(np.mean(np.square(means)))), 1e-12)
