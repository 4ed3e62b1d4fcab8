"""Fits the routers that leave the encoder as it is: MLPRouter and KNNRouter on its sentence embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from torouter.pipeline.encoders import write_embedding
from torouter.pipeline.recipe import Recipe
from torouter.routing.config import RouterConfig
from torouter.routing.encode import OnnxEncoder
from torouter.routing.heads import Head
from torouter.routing.knn import KNNRouter
from torouter.routing.matrix import OutcomeMatrix
from torouter.routing.mlp import MLPRouter

EPOCHS, LEARNING_RATE = 60, 1e-3


def write(
    directory: Path, config: RouterConfig, recipe: Recipe, learnt: OutcomeMatrix, held: OutcomeMatrix
) -> RouterConfig:
    """Write encoder and head, and return the config with what fitting found out."""
    write_embedding(recipe.encoder, directory)
    encoder = OnnxEncoder.load(directory, "fp32", recipe.max_length)
    features = encoder.features(learnt.queries)
    if recipe.router == "knn":
        settings = {"neighbours": recipe.neighbours, "weights": recipe.weights}
        knn = KNNRouter.fit(replace(config, settings=settings), encoder, features, learnt.scores, source=directory)
        knn.write_head(directory)
        return knn.config
    layer, head, epoch = fit_mlp(recipe, features, learnt, encoder.features(held.queries), held)
    config = replace(config, settings={"hidden": recipe.hidden}, training={**config.training, "best_epoch": epoch})
    MLPRouter(config, encoder, layer, head, directory).write_head(directory)
    return config


def fit_mlp(
    recipe: Recipe,
    features: NDArray[np.float32],
    learnt: OutcomeMatrix,
    held_features: NDArray[np.float32],
    held: OutcomeMatrix,
) -> tuple[Head, Head, int]:
    """Hidden layer, output layer and the epoch they are from: the one of least loss on the validation part."""
    torch.manual_seed(recipe.seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(features.shape[1], recipe.hidden),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.3),
        torch.nn.Linear(recipe.hidden, len(learnt.experts)),
    )
    x, held_x = torch.from_numpy(features), torch.from_numpy(held_features)
    y, held_y = (torch.from_numpy(recipe.targets(outcomes)) for outcomes in (learnt, held))
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate or LEARNING_RATE, weight_decay=0.01)
    shuffle = torch.Generator().manual_seed(recipe.seed)
    best, best_loss, best_epoch = _layers(model), float("inf"), 0
    for epoch in range(1, (recipe.epochs or EPOCHS) + 1):
        model.train()
        for rows in torch.randperm(len(x), generator=shuffle).split(recipe.batch_size):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            _loss(recipe, model(x[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            loss = float(_loss(recipe, model(held_x), held_y))
        if loss < best_loss:
            best, best_loss, best_epoch = _layers(model), loss, epoch
        elif epoch - best_epoch >= recipe.patience:
            break
    return *best, best_epoch


def _loss(recipe: Recipe, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if recipe.objective == "soft":
        return -(targets * functional.log_softmax(logits, dim=-1)).sum(dim=-1).mean()
    return functional.binary_cross_entropy_with_logits(logits, targets)


def _layers(model: torch.nn.Sequential) -> tuple[Head, Head]:
    weights = [tensor.detach().numpy().copy() for tensor in model.parameters()]
    return Head(weights[0], weights[1]), Head(weights[2], weights[3])
