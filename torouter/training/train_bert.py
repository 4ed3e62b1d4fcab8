"""Fine-tunes a transformer on outcomes with transformers' Trainer: the paper's BERT-Router."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    AutoModelForSequenceClassification,
    EarlyStoppingCallback,
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    set_seed,
)
from transformers import (
    TrainingArguments as TrainerArguments,
)

from torouter.errors import CheckpointError, ConfigurationError
from torouter.routers.config import RouterConfig
from torouter.routers.encoders import onnx_export
from torouter.routers.encoders.onnx_encoder import GRAPHS
from torouter.routers.encoders.pretrained import check_length, encoder_path, quiet_transformers, write_tokenizer
from torouter.routers.encoders.tokenizer import QueryTokenizer, pad
from torouter.routers.encoders.torch_encoder import head_input
from torouter.routers.judging import routed_quality
from torouter.training.arguments import TrainingArguments
from torouter.training.data import TrainingData
from torouter.training.loop import objective_loss

EPOCHS, LEARNING_RATE, HEAD_LEARNING_RATE, BATCH_SIZE = 3, 2e-4, 1e-3, 32
WEIGHT_DECAY = 0.01
_RIDGE, _VARIANCE = 0.01, 1e-3
"""Of the ridge regression that initialises the head: the penalty per query and mean variance of a feature, and the
least variance that is assumed, as features that hardly vary would get weights too large to train."""
_HEAD_QUERIES = 20_000
"""Most queries, in random order, that the ridge regression is fitted on: all queries of a large table take an hour."""
_POOL = 16
"""Number of batches whose queries are sorted by length together."""
_FINGERPRINT = "run.json"


class Run:
    """One training, from the outcomes to a model that can be written.

    Args:
        config: The checkpoint's config, without the record of training.
        arguments: How to train.
        training: The training part.
        validation: The validation part.
        work: Directory of the Trainer's checkpoints, from which a stopped run is resumed.

    Raises:
        ConfigurationError: The encoder can't be used.
    """

    def __init__(
        self,
        config: RouterConfig,
        arguments: TrainingArguments,
        training: TrainingData,
        validation: TrainingData,
        *,
        work: Path,
    ) -> None:
        self._config, self._arguments, self._work = config, arguments, work
        self._source = encoder_path(arguments.encoder)
        self._first_step = 0
        set_seed(arguments.seed)  # loading the model draws the head's first weights
        with quiet_transformers():
            self._model = _model(self._source, config)
        check_length(self._model.config, arguments.max_length)
        _freeze(self._model, arguments.frozen_layers)
        self._trainer_arguments = self._make_trainer_arguments()
        if self.is_first:
            self._prepare_work()
        self._wait()
        tokenizer = QueryTokenizer.load(work, arguments.max_length)
        self._rows, self._collate = _rows(tokenizer, training), _Collator(tokenizer.pad_id)
        self._trainer = _OutcomeTrainer(
            arguments=arguments,
            model=self._model,
            args=self._trainer_arguments,
            train_dataset=self._rows,
            eval_dataset=_rows(tokenizer, validation),
            data_collator=self._collate,
            compute_metrics=_quality,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=arguments.patience)],
        )

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files."""
        return bool(self._trainer_arguments.process_index == 0)

    def train(self) -> None:
        """Train, from the last checkpoint of the work directory if there is one."""
        # The Trainer writes its state last: a checkpoint without it is incomplete.
        complete = [path.parent for path in self._work.glob("steps/checkpoint-*/trainer_state.json")]
        last = max(complete, key=_step, default=None)
        self._first_step = 0 if last is None else _step(last)
        if last is None:
            _start_head(self._model, self._rows[:_HEAD_QUERIES], self._collate, self._arguments)
        with quiet_transformers():
            self._trainer.train(resume_from_checkpoint=None if last is None else str(last))

    def write(self, directory: Path) -> RouterConfig:
        """Write model, tokenizer and graphs, and return the config with the record of training."""
        model = self._model.cpu().eval()
        with quiet_transformers():
            model.save_pretrained(directory)
        write_tokenizer(self._source, directory)
        model.set_attn_implementation(onnx_export.ATTENTION)
        onnx_export.export(_Logits(model), directory / GRAPHS["fp32"], output=onnx_export.LOGITS)
        onnx_export.quantise(directory / GRAPHS["fp32"], directory / GRAPHS["int8"])
        state = self._trainer.state
        return replace(
            self._config,
            settings={"head": _head_name(model)},
            training={
                **self._config.training,
                "epochs": self._trainer_arguments.num_train_epochs,
                "best_step": state.best_global_step,
                "resumed_from_step": self._first_step,
                "processes": self._trainer_arguments.world_size,
                "learning_rate": self._trainer_arguments.learning_rate,
                "batch_size": self._trainer_arguments.per_device_train_batch_size,
            },
        )

    def close(self) -> None:
        """Wait for the process that writes, and remove the work directory."""
        self._wait()
        if self.is_first:
            shutil.rmtree(self._work, ignore_errors=True)

    def _wait(self) -> None:
        if self._trainer_arguments.world_size > 1:
            torch.distributed.barrier()

    def _make_trainer_arguments(self) -> TrainerArguments:
        arguments = self._arguments
        cpu = not torch.cuda.is_available()
        return TrainerArguments(
            output_dir=str(self._work / "steps"),
            num_train_epochs=arguments.epochs or EPOCHS,
            learning_rate=arguments.learning_rate or LEARNING_RATE,
            per_device_train_batch_size=arguments.batch_size or BATCH_SIZE,
            per_device_eval_batch_size=arguments.batch_size or BATCH_SIZE,
            warmup_steps=0.1,
            weight_decay=WEIGHT_DECAY,
            lr_scheduler_type="linear",
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="loss",
            greater_is_better=False,
            label_names=["labels", "outcomes"],
            remove_unused_columns=False,
            seed=arguments.seed,
            data_seed=arguments.seed,
            logging_strategy="epoch",
            report_to="none",
            disable_tqdm=not arguments.progress,
            use_cpu=cpu,
            ddp_backend="gloo" if cpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
            dataloader_pin_memory=not cpu,
        )

    def _prepare_work(self) -> None:
        """Make the work directory, or check that an existing one belongs to this run."""
        settings = {key: value for key, value in asdict(self._arguments).items() if key not in ("resume", "progress")}
        fingerprint = json.dumps({"data_hash": self._config.data_hash, **settings}, sort_keys=True)
        file = self._work / _FINGERPRINT
        if self._arguments.resume and file.is_file():
            if file.read_text(encoding="utf-8") != fingerprint:
                msg = f"{self._work} holds another run (other data or arguments): remove it, or train without resume"
                raise ConfigurationError(msg)
            return
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)
        write_tokenizer(self._source, self._work)
        file.write_text(fingerprint, encoding="utf-8")


class _OutcomeTrainer(Trainer):  # type: ignore[misc] # transformers is not typed
    """Trainer with the two objectives, batches of similar length and a learning rate for each layer."""

    def __init__(self, *, arguments: TrainingArguments, **options: Any) -> None:
        super().__init__(**options)
        self._arguments = arguments
        self.remove_callback(PrinterCallback)  # without a progress bar it prints figures to standard output
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_Bar())

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:  # noqa: ARG002
        lengths = [len(row["input_ids"]) for row in self.train_dataset]
        return SimilarLengths(lengths, self.args.train_batch_size, self.args.seed)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        trained = self.model if model is None else model
        decayed = self.get_decay_parameter_names(trained)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            {"params": [p], "lr": rate, "weight_decay": self.args.weight_decay if name in decayed else 0.0}
            for name, p, rate in _rates(trained, self._arguments)
        )
        return self.optimizer

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Mapping[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Any:
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        loss = objective_loss(self._arguments.objective, outputs.logits, inputs["labels"])
        return (loss, outputs) if return_outputs else loss


class SimilarLengths(torch.utils.data.Sampler[int]):
    """Batches of queries of similar length, in random order.

    Little padding is needed, as with the Trainer's own `group_by_length`. That one goes from the longest queries to the
    shortest every 50 batches; as the length depends on the task, a small table's epochs would all end with one task.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self._lengths, self._batch, self._seed, self._epoch = np.array(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch, so that a resumed run continues with the order of an uninterrupted one."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self._seed, self._epoch))
        order = rng.permutation(len(self))
        full = len(self) // self._batch * self._batch
        batches: list[NDArray[np.intp]] = []
        for start in range(0, full, _POOL * self._batch):
            pool = order[start : min(start + _POOL * self._batch, full)]
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches.extend(pool.reshape(-1, self._batch))
        for number in rng.permutation(len(batches)):
            yield from batches[number].tolist()
        yield from order[full:].tolist()


class _Bar(ProgressCallback):  # type: ignore[misc] # transformers is not typed
    """One bar for the whole training, which shows the last validation's figures."""

    def on_prediction_step(self, *_: Any, **__: Any) -> None:
        """Show no bar for a validation, which takes seconds."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:  # noqa: ARG002
        if self.training_bar is not None and logs and "eval_loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['eval_loss']:.4f}", quality=f"{logs['eval_quality']:.3f}")


class _Collator:
    """Rows to pad tensors."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids, mask = pad([row["input_ids"] for row in rows], self._pad_id)
        batch = {"input_ids": ids, "attention_mask": mask}
        batch |= {name: np.stack([row[name] for row in rows]) for name in ("labels", "outcomes")}
        return {name: torch.from_numpy(array) for name, array in batch.items()}


class _Logits(torch.nn.Module):
    """The model with one tensor as its output, as the exporter needs it."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits


def _step(state: Path) -> int:
    """The step of a directory `checkpoint-STEP`."""
    return int(state.name.rpartition("-")[2])


def _rows(tokenizer: QueryTokenizer, data: TrainingData) -> list[dict[str, Any]]:
    ids = tokenizer.ids(data.queries)
    return [
        {"input_ids": row, "labels": target, "outcomes": scores}
        for row, target, scores in zip(ids, data.targets, data.outcomes.scores, strict=True)
    ]


def _quality(prediction: EvalPrediction) -> dict[str, float]:
    """The validation figure beside the loss."""
    _, outcomes = prediction.label_ids
    return {"quality": routed_quality(prediction.predictions, outcomes)}


def _model(source: str, config: RouterConfig) -> Any:
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            source,
            trust_remote_code=False,
            num_labels=len(config.experts),
            # Makes `pipeline("text-classification")` apply a softmax for "soft" and a sigmoid to each logit for "bce".
            problem_type="single_label_classification" if config.objective == "soft" else "multi_label_classification",
            id2label=dict(enumerate(config.names)),
            label2id={name: position for position, name in enumerate(config.names)},
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            dtype=torch.float32,
        )
    except Exception as error:  # whatever a damaged directory makes transformers raise
        raise ConfigurationError(f"encoder {source!r} can't be loaded: {error}") from error


def _freeze(model: Any, count: int) -> None:
    """Exclude the embeddings and the `count` lowest layers from training, unless `count` is 0."""
    if not count:
        return
    layers = _layers(model)
    if count > len(layers):
        raise ConfigurationError(f"frozen_layers={count} can't be used: the encoder has {len(layers)} layers to freeze")
    for module in (model.base_model.embeddings, *layers[:count]):
        module.requires_grad_(False)


def _layers(model: Any) -> Sequence[torch.nn.Module]:
    """The encoder's layers, the lowest first; empty if the model does not keep them in a ModuleList."""
    stacks = (module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))
    return next((tuple(stack) for stack in stacks if len(stack) == model.config.num_hidden_layers), ())


def _rates(model: Any, arguments: TrainingArguments) -> Iterator[tuple[str, torch.nn.Parameter, float]]:
    """Name, parameter and learning rate of all that is trained; the rate falls from layer to layer downwards."""
    rate, layers = arguments.learning_rate or LEARNING_RATE, _layers(model)
    rates: dict[torch.nn.Parameter, float] = {}
    if layers:
        rates |= dict.fromkeys(model.base_model.embeddings.parameters(), rate * arguments.layer_decay ** len(layers))
    for depth, layer in enumerate(reversed(layers)):
        rates |= dict.fromkeys(layer.parameters(), rate * arguments.layer_decay**depth)
    head = model.get_submodule(_head_name(model))
    rates |= dict.fromkeys(head.parameters(), arguments.head_learning_rate or HEAD_LEARNING_RATE)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter, rates.get(parameter, rate)


def _features(model: Any, rows: Sequence[Mapping[str, Any]], collate: _Collator) -> NDArray[np.float32]:
    """What the head reads of each query, shape (n, d)."""
    head = model.get_submodule(_head_name(model))
    order = sorted(range(len(rows)), key=lambda position: len(rows[position]["input_ids"]))
    parts = []
    for start in range(0, len(order), BATCH_SIZE):
        batch = collate([rows[position] for position in order[start : start + BATCH_SIZE]])
        ids, mask = (batch[name].to(model.device) for name in ("input_ids", "attention_mask"))
        parts.append(head_input(model, head, ids, mask))
    features: NDArray[np.float32] = torch.cat(parts)[np.argsort(order)].cpu().numpy()
    return features


def _start_head(
    model: Any, rows: Sequence[Mapping[str, Any]], collate: _Collator, arguments: TrainingArguments
) -> None:
    """Initialise the head by ridge regression on the encoder's features.

    A random head spends the first epoch on what least squares find at once. The estimates p of the targets become
    logits by a first-order expansion: 4 (p - 1/2) for a sigmoid, k (p - 1/k) for a softmax over k experts.
    """
    features = _features(model.eval(), rows, collate).astype(np.float64)
    targets = np.stack([row["labels"] for row in rows]).astype(np.float64)
    centre, mean = features.mean(axis=0), targets.mean(axis=0)
    x = features - centre
    penalty = _RIDGE * len(x) * max(float(x.var(axis=0).mean()), _VARIANCE)
    weight = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (targets - mean)).T
    slope, even = (targets.shape[1], 1 / targets.shape[1]) if arguments.objective == "soft" else (4, 0.5)
    head = model.get_submodule(_head_name(model))
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(slope * weight))
        head.bias.copy_(torch.from_numpy(slope * (mean - weight @ centre - even)))


def _head_name(model: Any) -> str:
    """Name of the last linear layer, whose outputs are the experts' logits."""
    count = model.config.num_labels
    layers = [name for name, module in model.named_modules() if getattr(module, "out_features", None) == count]
    if not layers:
        raise CheckpointError(f"{type(model).__name__} has no linear layer with {count} outputs: it can't be a router")
    return str(layers[-1])
