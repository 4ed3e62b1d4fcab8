"""Trains a router of any kind on an outcome table and writes its checkpoint."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

import numpy as np

from torouter.experts import ExpertPool
from torouter.outcomes.table import OutcomeTable
from torouter.routers import checkpoint
from torouter.routers.config import Precision, RouterConfig, Serving
from torouter.routers.encoded import EncodedRouter
from torouter.routers.encoders.pretrained import encoder_name, require_torch, score_in_blocks
from torouter.routers.judging import routed_quality
from torouter.routers.model_card import write_description
from torouter.routers.outcome_matrix import OutcomeMatrix
from torouter.routers.router import AutoRouter, router_class
from torouter.training.arguments import TrainingArguments
from torouter.training.data import TrainingData, training_data

logger = logging.getLogger(__name__)

SAME_CHOICE, QUALITY_LOSS = 0.98, 0.002
"""Conditions for serving int8: least share of fp32's choices, and largest loss of quality (0..1), in validation."""


def train(
    table: OutcomeTable,
    *,
    out: str | os.PathLike[str],
    arguments: TrainingArguments = TrainingArguments(),  # noqa: B008 - it is frozen
    experts: ExpertPool | None = None,
) -> EncodedRouter:
    """Train a router and write its checkpoint.

    Under `torchrun` or `accelerate launch` every process calls this; the first one writes, all return the router.

    Args:
        table: The outcomes; a part of them becomes the validation part.
        out: Directory of the checkpoint: new, empty, or an older checkpoint, which is replaced at the end.
        arguments: How to train.
        experts: A pool whose prices, context windows and model ids the checkpoint records.

    Raises:
        OutcomeTableError: A part would be empty, or the table has an expert that the pool lacks.
        ConfigurationError: The encoder can't be used.
        CheckpointError: `out` holds something other than a checkpoint.
        MissingExtraError: The `train` extra is not installed.
    """
    require_torch()
    from torouter.training import train_bert, train_fast, train_heads

    directory = Path(out)
    checkpoint.check_replaceable(directory)
    training, validation = training_data(table, arguments)
    config = initial_config(table, arguments, training, validation, experts)
    if arguments.router == "bert":
        run = train_bert.Run(config, arguments, training, validation, work=work_directory(directory))
        run.train()
        if run.is_first:
            with checkpoint.replacing(directory) as fresh:
                _finish(fresh, run.write(fresh), validation.outcomes, arguments)
        run.close()
    else:
        write = train_fast.write if arguments.router == "fast" else train_heads.write
        with checkpoint.replacing(directory) as fresh:
            _finish(fresh, write(fresh, config, arguments, training, validation), validation.outcomes, arguments)
    router = AutoRouter.from_pretrained(directory)
    assert isinstance(router, EncodedRouter)
    return router


def initial_config(
    table: OutcomeTable,
    arguments: TrainingArguments,
    training: TrainingData,
    validation: TrainingData,
    experts: ExpertPool | None = None,
) -> RouterConfig:
    """The config of a checkpoint before its training.

    Raises:
        OutcomeTableError: The table has an expert that the pool lacks.
    """
    soft = arguments.objective == "soft" and arguments.router != "knn"
    return RouterConfig(
        kind=arguments.router,
        experts=table.facts(experts),
        objective="mean" if arguments.router == "knn" else arguments.objective,
        label_form=arguments.label_form if soft else None,
        temperature=arguments.temperature if soft else None,
        max_length=arguments.max_length,
        encoder=encoder_name(arguments.encoder),
        data_hash=table.data_hash,
        training={
            "seed": arguments.seed,
            "queries": len(training.queries),
            "validation_queries": len(validation.queries),
        },
    )


def work_directory(out: Path) -> Path:
    """The directory in which a run keeps the state from which it can be resumed."""
    return out.parent / f".{out.name}.work"


def _finish(directory: Path, config: RouterConfig, validation: OutcomeMatrix, arguments: TrainingArguments) -> None:
    """Choose the precision to serve, and write the files that describe the checkpoint."""
    kind = router_class(config.kind)
    assert issubclass(kind, EncodedRouter)
    scores = []
    for precision in kind.precisions:
        router = kind.read_files(directory, config, Serving(precision=precision))
        doing = f"validate {precision}"
        scores.append(score_in_blocks(router.scores, validation.queries, doing=doing, progress=arguments.progress))
    served, record = _int8_gate(scores[0], scores[1], validation) if len(scores) > 1 else (kind.precisions[0], {})
    quality = {
        "validation_quality": round(routed_quality(scores[0], validation.scores), 5),
        "validation_best_single": round(float(validation.scores.mean(axis=0).max()), 5),
    }
    config = replace(config, precision=served, training={**config.training, **quality, **record})
    write_description(directory, config)


def _int8_gate(full: np.ndarray, small: np.ndarray, validation: OutcomeMatrix) -> tuple[Precision, dict[str, float]]:
    """The precision to serve and the record of the choice, from the scores of fp32 and int8."""
    same = float((full.argmax(axis=1) == small.argmax(axis=1)).mean())
    loss = routed_quality(full, validation.scores) - routed_quality(small, validation.scores)
    safe = same >= SAME_CHOICE and loss <= QUALITY_LOSS
    if not safe:
        message = "int8 makes %.1f %% of fp32's choices and loses %.2f points of quality: fp32 is served"
        logger.warning(message, 100 * same, 100 * loss)
    return "int8" if safe else "fp32", {"int8_same_choice": round(same, 5), "int8_quality_loss": round(loss, 5)}
