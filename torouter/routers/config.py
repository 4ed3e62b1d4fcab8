"""RouterConfig: the contents of `router.json`, checked when they are made or read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Literal, Self

from torouter.errors import CheckpointError, ConfigurationError
from torouter.experts import Expert
from torouter.version import __version__

Objective = Literal["soft", "bce", "mean"]
LabelForm = Literal["multiply", "divide", "hard"]
Engine = Literal["onnx", "torch"]
Precision = Literal["fp32", "int8"]

OBJECTIVES: tuple[Objective, ...] = ("soft", "bce", "mean")
FORMAT = 1
"""Version of router.json. A checkpoint of a later version is refused, since it could be misread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How a checkpoint is loaded."""

    engine: Engine = "onnx"
    precision: Precision | None = None
    """None is the precision that training chose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertFacts:
    """What a checkpoint records about one expert; what the pool says of it overrides this."""

    name: str
    model: str | None = None
    """Id of the served model."""
    input_price: float | None = None
    """USD per million input tokens."""
    output_price: float | None = None
    """USD per million output tokens."""
    context_window: int | None = None
    """Tokens of input and output together."""
    output_tokens: float | None = None
    """Mean output tokens of an answer in the training table, None if unknown."""
    seconds: float | None = None
    """Mean seconds of an answer in the training table, None if unknown."""
    cost_usd: float | None = None
    """Mean cost of an answer in the training table, None if unknown."""

    @classmethod
    def of(cls, expert: Expert) -> ExpertFacts:
        """The facts of a pool's expert that may be published: neither its url nor its key."""
        return cls(
            name=expert.name,
            model=expert.model,
            input_price=expert.input_price,
            output_price=expert.output_price,
            context_window=expert.context_window,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """The contents of `router.json`.

    Raises:
        ConfigurationError: There are no experts, a name is duplicate or empty, or the objective is unknown.
    """

    kind: str
    """Which class loads the checkpoint: "bert", "mlp", "knn", ..."""
    experts: tuple[ExpertFacts, ...]
    """In the order of the columns of `Router.scores`."""
    objective: Objective = "mean"
    """What a score means. "soft": a share of a softmax over the experts, which only ranks them. "bce" and "mean": an
    estimate of the expert's quality in 0..1, which may be traded against cost."""
    label_form: LabelForm | None = None
    """How soft labels were made from scores; None without soft labels."""
    temperature: float | None = None
    """T of the soft labels."""
    max_length: int = 256
    """Tokens of a query that the router reads; a longer query is cut in the middle."""
    encoder: str | None = None
    """Name of the encoder with which training started."""
    precision: Precision = "fp32"
    """Which graph is served by default."""
    data_hash: str | None = None
    """Hash of the outcome table that the router was trained on."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The kind's own settings (k, hidden units, seed)."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Record of training: seed, epochs, validation figures, comparison of int8 with fp32."""
    package_version: str = __version__

    def __post_init__(self) -> None:
        if not self.experts:
            raise ConfigurationError("experts is empty: a router needs at least one")
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise ConfigurationError(f"expert name {name!r} can't be used: give a non-empty string")
            if self.names.count(name) > 1:
                raise ConfigurationError(f"expert {name!r} is a duplicate: give each expert its own name")
        if self.objective not in OBJECTIVES:
            raise ConfigurationError(f"objective={self.objective!r} is unknown: use one of {', '.join(OBJECTIVES)}")
        set_field = object.__setattr__
        set_field(self, "experts", tuple(self.experts))
        set_field(self, "settings", MappingProxyType(dict(self.settings)))
        set_field(self, "training", MappingProxyType(dict(self.training)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(expert.name for expert in self.experts)

    @property
    def scores_are_qualities(self) -> bool:
        """Whether a score estimates the expert's own quality in 0..1, so that it may be traded against cost."""
        return self.objective != "soft"

    def with_expert(self, expert: ExpertFacts) -> Self:
        """The same with one more expert, the last one.

        Raises:
            ConfigurationError: The router knows the name already.
        """
        if expert.name in self.names:
            msg = f"the router knows an expert {expert.name!r} already: give another name, or remove that one first"
            raise ConfigurationError(msg)
        return replace(self, experts=(*self.experts, expert))

    def without_expert(self, name: str) -> Self:
        """The same without one expert.

        Raises:
            ConfigurationError: The router does not know the name, or it is its only expert.
        """
        self.position(name)
        if len(self.experts) == 1:
            raise ConfigurationError(f"expert {name!r} is the router's only one: it can't be removed")
        return replace(self, experts=tuple(expert for expert in self.experts if expert.name != name))

    def position(self, name: str) -> int:
        """The column of an expert.

        Raises:
            ConfigurationError: The router does not know the name.
        """
        if name not in self.names:
            raise ConfigurationError(f"no expert is called {name!r}: the router knows {', '.join(self.names)}")
        return self.names.index(name)

    def to_json(self) -> str:
        """The text of `router.json`: stable, so that equal configs give equal bytes."""
        document = {f.name: getattr(self, f.name) for f in fields(self)}
        document["experts"] = [
            {key: value for key, value in asdict(expert).items() if value is not None} for expert in self.experts
        ]
        document["settings"], document["training"] = dict(self.settings), dict(self.training)
        return json.dumps({"format": FORMAT, **document}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read `router.json`; unknown keys are ignored.

        Raises:
            CheckpointError: The text is not a valid router.json; the message names the key.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"router.json is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise CheckpointError("router.json is not a JSON object")
        if document.get("format") != FORMAT:
            msg = f"router.json has format {document.get('format')!r}, this version reads {FORMAT}: upgrade torouter"
            raise CheckpointError(msg)
        missing = [key for key in ("kind", "experts") if key not in document]
        if missing:
            raise CheckpointError(f"router.json lacks {', '.join(missing)}")
        values = {key: document[key] for key in (f.name for f in fields(cls)) if key in document}
        try:
            values["experts"] = tuple(_facts(entry) for entry in values["experts"])
            return cls(**values)
        except (ConfigurationError, TypeError, ValueError) as error:
            raise CheckpointError(f"router.json can't be used: {error}") from None


def facts_of(experts: Sequence[str | Expert | ExpertFacts]) -> tuple[ExpertFacts, ...]:
    """Facts of experts given by name, as a pool's experts or as facts."""
    return tuple(
        expert
        if isinstance(expert, ExpertFacts)
        else ExpertFacts.of(expert)
        if isinstance(expert, Expert)
        else ExpertFacts(name=expert)
        for expert in experts
    )


def _facts(entry: Any) -> ExpertFacts:
    names = {f.name for f in fields(ExpertFacts)}
    return ExpertFacts(**{key: value for key, value in entry.items() if key in names})
