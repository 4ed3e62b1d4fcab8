"""Router: the contract of every router, which scores every expert for a text and is saved as one directory.

Routers are immutable: threads may share one, and `add_expert` and `remove_expert` return a new one.
"""

from __future__ import annotations

import abc
import hashlib
import importlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from torouter.errors import CheckpointError, ConfigurationError
from torouter.routers import checkpoint
from torouter.routers.config import Engine, Precision, RouterConfig, Serving
from torouter.routers.kinds import MODULES
from torouter.routers.model_card import write_description
from torouter.routers.outcome_matrix import OutcomeMatrix

_CLASSES: dict[str, type[Router]] = {}
"""By kind; a class is here once its module is imported."""


class Router(abc.ABC):
    """Scores every expert for a query.

    Attributes:
        kind: Its name in `router.json`; a subclass that sets it can be loaded by `AutoRouter`.
        config: The contents of `router.json`.
        revision: Hash of the router's content. Equal revisions give equal scores, so it may serve as a cache key.
    """

    kind: ClassVar[str]
    engines: ClassVar[tuple[Engine, ...]] = ("onnx",)
    """Engines that can run the encoder."""
    precisions: ClassVar[tuple[Precision, ...]] = ("fp32", "int8")
    """Precisions that a checkpoint holds, the most exact first."""
    scores_inline: ClassVar[bool] = False
    """Whether scoring a query is so fast (well below a millisecond) that it needs no worker thread."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            _CLASSES[cls.kind] = cls

    def __init__(self, config: RouterConfig) -> None:
        if config.kind != self.kind:
            raise CheckpointError(f"a {config.kind!r} router can't be a {type(self).__name__}: use AutoRouter")
        self.config = config
        self._experts = config.names  # read in every decision
        digest = hashlib.blake2b(config.to_json().encode())
        for part in self._content():
            digest.update(part)
        self.revision = digest.hexdigest()[:16]

    def __repr__(self) -> str:
        return f"{type(self).__name__}(experts=[{', '.join(self.experts)}], revision={self.revision})"

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts, the columns of `scores`."""
        return self._experts

    @abc.abstractmethod
    def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
        """Score every expert for every query: shape (n queries, k experts), higher is better. Threads may share it.

        Raises:
            ConfigurationError: `queries` is not a sequence of strings.
        """

    @abc.abstractmethod
    def add_expert(self, name: str, outcomes: OutcomeMatrix) -> Self:
        """A new router that also knows `name`, fitted on a few hundred outcomes; the encoder does not change.

        Args:
            name: Name of the new expert, which becomes the last column.
            outcomes: Its scores on some queries. With the objective "soft" the other experts' scores on the same
                queries are needed too, since soft labels compare the experts.

        Raises:
            ConfigurationError: The router knows the name already.
            OutcomeTableError: `outcomes` lacks a score that is needed.
        """

    @abc.abstractmethod
    def remove_expert(self, name: str) -> Self:
        """A new router without `name`. With the objective "soft" scores are shares among the remaining experts.

        Raises:
            ConfigurationError: The router does not know the name, or it is its only expert.
        """

    @abc.abstractmethod
    def _content(self) -> Iterator[bytes | memoryview]:
        """The bytes, besides the config, that the scores depend on; called once, when the router is made."""

    @abc.abstractmethod
    def write_files(self, directory: Path) -> None:
        """Write the kind's own files; `router.json` and the card are written by `save_pretrained`."""

    @classmethod
    @abc.abstractmethod
    def read_files(cls, directory: Path, config: RouterConfig, serving: Serving) -> Self:
        """Load what `write_files` wrote.

        Raises:
            CheckpointError: A file is missing, too large or does not fit the config.
        """

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | os.PathLike[str],
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        engine: Engine = "onnx",
        precision: Precision | None = None,
    ) -> Self:
        """Load a router from a directory or from the Hugging Face Hub.

        Args:
            path_or_repo_id: A directory, or a Hub id such as "owner/name".
            revision: Branch, tag or commit on the Hub.
            token: The Hub's token; None takes the one that `hf auth login` saved.
            cache_dir: Where downloads are kept.
            local_files_only: Do not access the network.
            engine: "torch" runs a BertRouter's model by torch instead of ONNX Runtime.
            precision: Which graph is loaded; None is the one that training chose.

        Raises:
            CheckpointError: The checkpoint is missing, damaged, or of another kind.
            ConfigurationError: The router's kind has no such engine or precision.
        """
        directory = checkpoint.locate(
            path_or_repo_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        config = RouterConfig.from_json(checkpoint.read_text(directory, checkpoint.CONFIG))
        kind = router_class(config.kind)
        if not issubclass(kind, cls):
            msg = f"{directory} holds a {config.kind!r} router, which {cls.__name__} can't load: use AutoRouter"
            raise CheckpointError(msg)
        if engine not in kind.engines:
            known = " or ".join(kind.engines)
            msg = f"engine={engine!r} can't run a {config.kind!r} router: use {known}, or leave engine out"
            raise ConfigurationError(msg)
        if precision is not None and precision not in kind.precisions:
            has = " and ".join(kind.precisions)
            msg = f"precision={precision!r}: a {config.kind!r} router has {has} only; leave precision out"
            raise ConfigurationError(msg)
        try:
            return kind.read_files(directory, config, Serving(engine=engine, precision=precision))
        except ConfigurationError as error:
            raise CheckpointError(f"{directory}: {error}") from error

    def save_pretrained(self, directory: str | os.PathLike[str], *, card: str | None = None) -> Path:
        """Write the checkpoint, completely or not at all, also where it replaces an older one.

        Args:
            directory: A new or an empty directory, or a router's checkpoint, which is then replaced.
            card: Text of README.md; None is a card made from the config.

        Returns:
            The directory.

        Raises:
            CheckpointError: The directory holds something other than a checkpoint.
        """
        with checkpoint.replacing(Path(directory)) as fresh:
            self.write_files(fresh)
            write_description(fresh, self.config, card=card)
        return Path(directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload a torouter checkpoint",
        card: str | None = None,
    ) -> str:
        """Upload the checkpoint to the Hugging Face Hub and return its address.

        Raises:
            CheckpointError: The Hub refused, or can't be reached.
        """
        return checkpoint.upload(
            lambda directory: self.save_pretrained(directory, card=card),
            repo_id,
            private=private,
            token=token,
            commit_message=commit_message,
        )


class AutoRouter:
    """Loads a router of any kind: the one that `router.json` describes."""

    from_pretrained = staticmethod(Router.from_pretrained)


def router_class(kind: str) -> type[Router]:
    """The class that loads checkpoints of a kind.

    Raises:
        CheckpointError: The kind is neither one of torouter's nor that of a subclass which has been imported.
    """
    if kind not in _CLASSES and kind in MODULES:
        importlib.import_module(MODULES[kind])
    if kind not in _CLASSES:
        raise CheckpointError(f"router kind {kind!r} is unknown: this version knows {', '.join(sorted(MODULES))}")
    return _CLASSES[kind]


def as_texts(queries: Sequence[str]) -> list[str]:
    """The queries as a list of strings that can be encoded; lone surrogates become U+FFFD.

    Raises:
        ConfigurationError: `queries` is a single string, or one of them is not a string.
    """
    if isinstance(queries, (str, bytes)):
        raise ConfigurationError("queries: a single string was given; give a list of strings")
    texts = list(queries)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigurationError(f"queries[{position}] is {type(text).__name__}, not a string")
        if not text.isascii():
            texts[position] = text.encode("utf-8", "replace").decode("utf-8")
    return texts
