"""Lets a framework's own models serve as experts: describes them, calls them and maps their errors for failover."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar, cast

from torouter.dispatch import AnswerReader, DispatchHook, DispatchSettings, Target
from torouter.endpoints import Timeouts
from torouter.endpoints.error_mapping import error_from_response
from torouter.errors import (
    ExpertConnectionError,
    ExpertError,
    ExpertServerError,
    ExpertTimeoutError,
    NoExpertLeftError,
    TORouterError,
)
from torouter.experts import Expert, ExpertPool, Experts
from torouter.routing.policy import RoutingPolicy
from torouter.runtime.endpoint import Endpoint
from torouter.runtime.routed_experts import RoutedExperts, RouterSource

M = TypeVar("M")
E = TypeVar("E")
T = TypeVar("T")

Classify = Callable[[Exception, str], ExpertError | None]

_DONE = object()

_TIMEOUTS = frozenset(("TimeoutError", "TimeoutException", "APITimeoutError", "Timeout"))
_CONNECTIONS = frozenset(("ConnectionError", "TransportError", "APIConnectionError", "ClientConnectionError"))


@dataclass(frozen=True, slots=True)
class Framework(Generic[M, E]):
    """How the core handles one framework's models and answers.

    Attributes:
        model_type: The base class of its models.
        describe: Makes the `Expert` that describes a model to a policy, from its name and the model.
        at_endpoint: Makes what is called for an expert behind a url: the endpoint itself, or a model around it.
        reader: Reads facts and text from its answers.
    """

    model_type: type[M]
    describe: Callable[[str, M], Expert]
    at_endpoint: Callable[[Endpoint], E]
    reader: AnswerReader[Any]

    def split(self, experts: Experts) -> tuple[ExpertPool, dict[str, M]]:
        """All experts as a pool, and those that are models of the framework by name.

        Raises:
            ConfigurationError: An entry can't be used.
        """
        if not isinstance(experts, Mapping) or isinstance(experts, ExpertPool):
            return ExpertPool(experts), {}
        models = {name: value for name, value in experts.items() if isinstance(value, self.model_type)}
        return ExpertPool({**experts, **{name: self.describe(name, model) for name, model in models.items()}}), models


class RoutedFields(Protocol):
    """The fields that each framework's routed model has."""

    @property
    def router(self) -> RouterSource: ...
    @property
    def experts(self) -> Experts: ...
    @property
    def policy(self) -> RoutingPolicy: ...
    @property
    def settings(self) -> DispatchSettings: ...
    @property
    def max_retries(self) -> int | None: ...
    @property
    def timeouts(self) -> Timeouts: ...
    @property
    def hooks(self) -> Sequence[DispatchHook]: ...


class FrameworkExperts(RoutedExperts, Generic[M, E]):
    """Routed experts, some of which may be models of one framework.

    Args:
        router: As for `RoutedExperts`.
        experts: As for `RoutedExperts`, or a mapping whose values may also be models of the framework.
        framework: The framework.
        options: Further arguments of `RoutedExperts`.

    Attributes:
        models: The framework's own models among the experts, by name.
    """

    def __init__(self, router: RouterSource, experts: Experts, framework: Framework[M, E], **options: Any) -> None:
        pool, self.models = framework.split(experts)
        super().__init__(router, pool, reader=framework.reader, **options)
        self._framework = framework
        self._at_endpoints: dict[Endpoint, E] = {}

    @classmethod
    def of(cls, model: RoutedFields, framework: Framework[M, E]) -> Self:
        """The routed experts that the fields of a framework's routed model describe."""
        names = ("policy", "settings", "max_retries", "timeouts", "hooks")
        return cls(model.router, model.experts, framework, **{name: getattr(model, name) for name in names})

    def model(self, target: Target) -> M | E:
        """The object to call for a target: the framework's own model, or what the framework makes of an endpoint.

        Raises:
            ConfigurationError: The expert has no url.
        """
        model = self.models.get(target.expert.name)
        if model is not None:
            return model
        endpoint = self.endpoint(target)
        if (caller := self._at_endpoints.get(endpoint)) is None:
            caller = self._at_endpoints[endpoint] = self._framework.at_endpoint(endpoint)
        return caller


def as_expert_error(error: Exception, expert: str) -> ExpertError | None:
    """The expert's error that a model's exception stands for, None where it is a bug and no failure of the expert.

    Each integration raises its client's own errors. They are classified by their HTTP status (openai, anthropic, httpx,
    requests, ...), else by the names of their classes. The client's text may quote the prompt, so it stays in the cause
    and out of the message.
    """
    if isinstance(error, ExpertError):
        return error
    if isinstance(error, TORouterError) and not isinstance(error, NoExpertLeftError):
        return None
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if isinstance(status, int) and status >= 400:
        return error_from_response(expert, status, str(error).encode(), getattr(response, "headers", None) or {})
    class_names = {kind.__name__ for kind in type(error).__mro__}
    mapped: type[ExpertError]
    if class_names & _TIMEOUTS:
        mapped = ExpertTimeoutError
    elif class_names & _CONNECTIONS:
        mapped = ExpertConnectionError
    elif isinstance(error, NoExpertLeftError):  # the model is a router itself, and all of its experts have failed
        mapped = ExpertServerError
    else:
        return None
    return mapped(f"expert {expert!r}: {type(error).__name__}", expert=expert)


@contextmanager
def expert_errors(expert: str, classify: Classify = as_expert_error) -> Iterator[None]:
    """Convert errors of a framework's model that leave the block into `ExpertError`s; bugs are raised unchanged."""
    try:
        yield
    except Exception as error:
        mapped = classify(error, expert)
        if mapped is None or mapped is error:
            raise
        raise mapped from error


async def in_steps(items: Iterator[T]) -> AsyncGenerator[T, None]:
    """Iterate over a model's synchronous stream in worker threads, so that it never blocks the event loop."""
    close: Callable[[], None] = getattr(items, "close", lambda: None)
    step: asyncio.Task[object] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(next, items, _DONE))
            if (item := await asyncio.shield(step)) is _DONE:
                return
            yield cast("T", item)
    finally:
        if step is None or step.done():
            await asyncio.to_thread(close)
        else:  # abandoned within a step: a thread can't be stopped, nor a running generator closed
            step.add_done_callback(lambda finished: _close_after(finished, close))


def _close_after(step: asyncio.Task[object], close: Callable[[], None]) -> None:
    if not step.cancelled() and step.exception() is None:
        asyncio.get_running_loop().run_in_executor(None, close)
