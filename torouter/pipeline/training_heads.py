"""Fits the routers that leave the encoder as it is: MLPRouter and KNNRouter on its sentence embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from torouter.pipeline.encoders import in_blocks, write_embedding
from torouter.pipeline.epochs import best_of, layers, loss_of, perceptron
from torouter.pipeline.lessons import Lesson
from torouter.pipeline.recipe import Recipe
from torouter.routing.config import RouterConfig
from torouter.routing.encode import Encoder, OnnxEncoder
from torouter.routing.knn import KNNRouter
from torouter.routing.mlp import MLPRouter
from torouter.routing.perceptron import Perceptron

EPOCHS, LEARNING_RATE, BATCH_SIZE = 30, 2e-3, 128
NOISE, DROPOUT = 0.5, 0.3
"""Standard deviation added to inputs of mean square 1, and share of hidden units left out: the tables are small."""


def write(directory: Path, config: RouterConfig, recipe: Recipe, learnt: Lesson, held: Lesson) -> RouterConfig:
    """Write encoder and head, and return the config with what fitting found out."""
    write_embedding(recipe.encoder, directory, max_length=recipe.max_length)
    encoder = OnnxEncoder.load(directory, "fp32", recipe.max_length)
    router = fit(config, encoder, recipe, learnt, held, source=directory)
    router.write_head(directory)
    return router.config


def fit(
    config: RouterConfig, encoder: Encoder, recipe: Recipe, learnt: Lesson, held: Lesson, *, source: Path
) -> MLPRouter | KNNRouter:
    """A router on an encoder's embeddings; `source` is the directory of that encoder's files."""
    features = _features(encoder, learnt, recipe)
    if recipe.router == "knn":
        config = replace(config, settings={"neighbours": recipe.neighbours, "weights": recipe.weights})
        return KNNRouter.fit(config, encoder, features, learnt.outcomes.scores, source=source, progress=recipe.progress)
    head, epoch = fit_mlp(recipe, features, learnt, _features(encoder, held, recipe), held)
    config = replace(config, settings={"hidden": recipe.hidden}, training={**config.training, "best_epoch": epoch})
    return MLPRouter(config, encoder, head, source)


def _features(encoder: Encoder, lesson: Lesson, recipe: Recipe) -> NDArray[np.float32]:
    return in_blocks(encoder.features, lesson.queries, doing="encode", progress=recipe.progress)


def fit_mlp(
    recipe: Recipe,
    features: NDArray[np.float32],
    learnt: Lesson,
    held_features: NDArray[np.float32],
    held: Lesson,
) -> tuple[Perceptron, int]:
    """The layers and the epoch they are from: the one of least loss on the validation part."""
    torch.manual_seed(recipe.seed)
    scale = float(np.sqrt(features.shape[1]))  # brings unit vectors to a mean square of 1
    model = layers(features.shape[1], recipe.hidden, len(learnt.outcomes.experts), dropout=DROPOUT)
    x, held_x = scale * torch.from_numpy(features), scale * torch.from_numpy(held_features)
    y, held_y = torch.from_numpy(learnt.targets), torch.from_numpy(held.targets)
    epochs, batch, rate = (
        recipe.epochs or EPOCHS,
        recipe.batch_size or BATCH_SIZE,
        recipe.learning_rate or LEARNING_RATE,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        noisy = x[rows] + NOISE * torch.randn(len(rows), x.shape[1])
        return loss_of(recipe.objective, model(noisy), y[rows])

    return best_of(
        recipe,
        model,
        [(optimizer, schedule)],
        queries=len(x),
        batch=batch,
        epochs=epochs,
        loss=loss,
        held_loss=lambda: loss_of(recipe.objective, model(held_x), held_y),
        state=lambda: perceptron(model, scale=scale),
    )
