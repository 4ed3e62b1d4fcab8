"""Trains MLPRouter and KNNRouter on the sentence embeddings of an encoder that stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from torouter.routers.config import RouterConfig
from torouter.routers.encoders.onnx_encoder import Encoder, OnnxEncoder
from torouter.routers.encoders.pretrained import score_in_blocks, write_embedding
from torouter.routers.knn import KNNRouter
from torouter.routers.mlp import MLPRouter
from torouter.routers.perceptron import Perceptron
from torouter.training.arguments import TrainingArguments
from torouter.training.data import TrainingData
from torouter.training.loop import layers, objective_loss, perceptron, train_epochs

EPOCHS, LEARNING_RATE, BATCH_SIZE = 30, 2e-3, 128
NOISE, DROPOUT = 0.5, 0.3
"""Standard deviation of the noise on inputs of mean square 1, and share of hidden units that are dropped."""


def write(
    directory: Path,
    config: RouterConfig,
    arguments: TrainingArguments,
    training: TrainingData,
    validation: TrainingData,
) -> RouterConfig:
    """Write encoder and head, and return the config with the record of training."""
    write_embedding(arguments.encoder, directory, max_length=arguments.max_length)
    encoder = OnnxEncoder.load(directory, "fp32", arguments.max_length)
    router = fit(config, encoder, arguments, training, validation, source=directory)
    router.write_head(directory)
    return router.config


def fit(
    config: RouterConfig,
    encoder: Encoder,
    arguments: TrainingArguments,
    training: TrainingData,
    validation: TrainingData,
    *,
    source: Path,
) -> MLPRouter | KNNRouter:
    """A router on an encoder's embeddings; `source` is the directory of that encoder's files."""
    features = _features(encoder, training, arguments)
    if arguments.router == "knn":
        config = replace(config, settings={"neighbours": arguments.neighbours, "weights": arguments.weights})
        return KNNRouter.fit(
            config, encoder, features, training.outcomes.scores, source=source, progress=arguments.progress
        )
    head, epoch = fit_mlp(arguments, features, training, _features(encoder, validation, arguments), validation)
    config = replace(config, settings={"hidden": arguments.hidden}, training={**config.training, "best_epoch": epoch})
    return MLPRouter(config, encoder, head, source)


def _features(encoder: Encoder, data: TrainingData, arguments: TrainingArguments) -> NDArray[np.float32]:
    return score_in_blocks(encoder.features, data.queries, doing="encode", progress=arguments.progress)


def fit_mlp(
    arguments: TrainingArguments,
    features: NDArray[np.float32],
    training: TrainingData,
    validation_features: NDArray[np.float32],
    validation: TrainingData,
) -> tuple[Perceptron, int]:
    """Train, and return the perceptron of the epoch of least loss on the validation part, and that epoch."""
    torch.manual_seed(arguments.seed)
    scale = float(np.sqrt(features.shape[1]))  # brings unit vectors to a mean square of 1
    model = layers(features.shape[1], arguments.hidden, len(training.outcomes.experts), dropout=DROPOUT)
    x, validation_x = scale * torch.from_numpy(features), scale * torch.from_numpy(validation_features)
    y, validation_y = torch.from_numpy(training.targets), torch.from_numpy(validation.targets)
    epochs, batch, rate = (
        arguments.epochs or EPOCHS,
        arguments.batch_size or BATCH_SIZE,
        arguments.learning_rate or LEARNING_RATE,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    steps = epochs * -(-len(x) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=rate, total_steps=steps)

    def loss(rows: torch.Tensor) -> torch.Tensor:
        noisy = x[rows] + NOISE * torch.randn(len(rows), x.shape[1])
        return objective_loss(arguments.objective, model(noisy), y[rows])

    return train_epochs(
        arguments,
        model,
        [(optimizer, schedule)],
        queries=len(x),
        batch=batch,
        epochs=epochs,
        loss=loss,
        validation_loss=lambda: objective_loss(arguments.objective, model(validation_x), validation_y),
        state=lambda: perceptron(model, scale=scale),
    )
