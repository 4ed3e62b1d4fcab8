"""Router, policy, dispatcher and clients of one application: what an adapter asks for a decision and for an answer."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from torouter.dispatch import AnswerFacts, Dispatcher, DispatchHook, DispatchSettings, Served, ServedStream, Target
from torouter.endpoints import ServerInfo, TGIClient, Timeouts, client_for
from torouter.errors import ConfigurationError, DeadlineExceededError, ExpertError, NoExpertLeftError
from torouter.experts import Expert, ExpertPool
from torouter.routers.router import AutoRouter, Router
from torouter.routing.decision import RouteDecision
from torouter.routing.policy import RoutingPolicy
from torouter.routing.requirements import Estimate, Requirements, estimate_tokens
from torouter.routing.scores import Scores
from torouter.runtime.background import work
from torouter.runtime.handshake import Handshakes
from torouter.runtime.health import Health
from torouter.runtime.score_cache import Row, ScoreCache
from torouter.runtime.sessions import Sessions
from torouter.runtime.token_counts import ExpertTokenizers, near_limit

M = TypeVar("M")
T = TypeVar("T")

_INLINE_CHARACTERS = 4096
"""Longest text that is scored on the event loop: to hand one to a thread takes about as long as to score it."""
_BLOCK = 32
"""Texts of a batch that are scored at a time, so that other calls' decisions get their turn in between."""

Experts = ExpertPool | str | os.PathLike[str] | Sequence[Expert] | Mapping[str, Any]
"""What `ExpertPool` takes; as values of a mapping, an adapter takes its framework's models too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteQuery:
    """What a decision is made from.

    Attributes:
        text: The text that the router scores.
        requirements: What the request asks of an expert beyond text.
        pinned: The one expert that may answer; None lets the router choose.
        exclude: Experts that may not answer.
        policy: A policy for this call alone, None for the application's.
        session: Key of a conversation that shall stay with its expert unless another one is much better.
        inputs: The messages' texts, for the experts' own tokenizers.

    Raises:
        ConfigurationError: `exclude` is a single string, or `policy` no RoutingPolicy.
    """

    text: str
    requirements: Requirements = Requirements()
    pinned: str | None = None
    exclude: Collection[str] = ()
    policy: RoutingPolicy | None = None
    session: str | None = None
    inputs: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str):
            msg = f"exclude={self.exclude!r} can't be used: give a list of experts' names"
            raise ConfigurationError(msg)
        if not isinstance(self.policy, RoutingPolicy | None):
            msg = f"policy={self.policy!r} can't be used: give a RoutingPolicy; RoutingPolicy.from_mapping makes one"
            raise ConfigurationError(msg)


class RoutedExperts:
    """One router and the experts it chooses from.

    Args:
        router: A router, its directory, or its id on the Hugging Face Hub.
        experts: The pool; it must hold exactly the experts that the router knows.
        policy: How scores become a ranking.
        settings: Deadline, cool-downs and limits of the dispatcher.
        timeouts: Limits of one request to one expert.
        hooks: Observers of decisions, attempts and outcomes.

    Raises:
        CheckpointError: The router can't be loaded.
        ConfigurationError: Router and pool know different experts.
    """

    def __init__(
        self,
        router: Router | str | os.PathLike[str],
        experts: ExpertPool,
        *,
        policy: RoutingPolicy | None = None,
        settings: DispatchSettings | None = None,
        timeouts: Timeouts | None = None,
        hooks: Sequence[DispatchHook] = (),
    ) -> None:
        self.router = router if isinstance(router, Router) else AutoRouter.from_pretrained(router)
        self.experts = experts
        _check_same_experts(self.router, experts)
        self.policy = policy or RoutingPolicy()
        self.policy.check(experts)
        usual = {fact.name: Estimate(fact.output_tokens, fact.seconds) for fact in self.router.config.experts}
        settings = settings or DispatchSettings()
        self.dispatcher = Dispatcher(experts, settings, estimates=usual, hooks=hooks)
        trained_for = {fact.name: fact.model for fact in self.router.config.experts if fact.model is not None}
        self._handshakes = Handshakes(settings.handshake, trained_for, self.client, self._learn)
        self._described = experts
        self._columns = np.array([self.router.experts.index(name) for name in experts])
        self._lock = threading.Lock()
        self._sessions = Sessions()
        self._input_costs = any(expert.input_price for expert in experts.values())
        self._timeouts = timeouts or Timeouts()
        self._scores = ScoreCache(self.router)
        self._tokenizers = ExpertTokenizers()
        self._clients: dict[tuple[str, str], TGIClient] = {}

    def prefetch(self, texts: Sequence[str]) -> None:
        """Score many texts in one forward pass, so that deciding for each of them costs none."""
        self._scores.scores(list(dict.fromkeys(texts)))

    async def aprefetch(self, texts: Sequence[str]) -> None:
        """The same as `prefetch`, off the event loop."""
        texts = list(dict.fromkeys(texts))
        missing, rows = self._scores.missing(texts), list[Row]()
        for start in range(0, len(missing), _BLOCK):
            rows += await work(partial(self._scores.passed, missing[start : start + _BLOCK]))
        self._scores.keep(dict(zip(missing, rows, strict=True)), room=len(texts))

    def decide(self, query: RouteQuery) -> RouteDecision:
        """Rank the experts for one query.

        Raises:
            ConfigurationError: A pinned or excluded expert is unknown, or no expert has what the request requirements.
            ContextLengthError: The request fits into no expert's context window.
        """
        started = time.perf_counter()
        if near_limit_experts := near_limit(self.experts.countable, query.inputs, query.requirements):
            query = self._counted(query, near_limit_experts)
        return self._decided(query, self._scores.scores([query.text])[0], started)

    async def adecide(self, query: RouteQuery) -> RouteDecision:
        """The same as `decide`; counting and a forward pass run in a worker thread, never on the event loop."""
        started = time.perf_counter()
        if near_limit_experts := near_limit(self.experts.countable, query.inputs, query.requirements):
            query = await asyncio.to_thread(self._counted, query, near_limit_experts)  # may fetch a tokenizer first
        row = self._scores.known(query.text)
        if row is None:
            score = partial(self._scores.scores, [query.text])
            inline = self.router.scores_inline and len(query.text) <= _INLINE_CHARACTERS
            row = (score() if inline else await work(score))[0]
        return self._decided(query, row, started)

    def input_tokens(self, texts: Iterable[str]) -> int | None:
        """About how many tokens a request's texts have.

        None where nothing depends on it, which costs no counting: they fit any expert, and none takes money for them.
        """
        smallest_window = self.experts.smallest_window
        if smallest_window is None and not self._input_costs:
            return None
        text = "\n".join(texts)
        # No token is shorter than a byte, and a character has four bytes at most.
        fits = smallest_window is None or 4 * len(text) <= smallest_window
        return None if fits and not self._input_costs else estimate_tokens(text)

    async def call(
        self,
        decision: RouteDecision,
        ask: Callable[[Target], Awaitable[T]],
        *,
        facts: Callable[[T], AnswerFacts | None],
        deadline: float | None = None,
    ) -> Served[T]:
        """One whole answer, as `Dispatcher.call` gets it; the error of the only expert to ask is raised as it is.

        Args:
            decision: Whose ranking is walked.
            ask: Asks one replica.
            facts: What an answer says of itself, for the hooks.
            deadline: Seconds for this call in place of the settings'.
        """

        async def asked(target: Target) -> T:
            await self._handshakes.before(target)
            value = await ask(target)
            if (told := facts(value)) is not None:
                target.tell(told)
            return value

        with _own_error(decision):
            return await self.dispatcher.call(decision, asked, deadline=deadline)

    async def open_stream(
        self,
        decision: RouteDecision,
        ask: Callable[[Target], AsyncGenerator[T, None]],
        *,
        facts: Callable[[T], AnswerFacts | None],
        deadline: float | None = None,
    ) -> ServedStream[T]:
        """A streamed answer, as `Dispatcher.open_stream` gets it; `facts` is of each of its items."""

        async def asked(target: Target) -> AsyncGenerator[T, None]:
            await self._handshakes.before(target)
            async with aclosing(ask(target)) as items:
                async for item in items:
                    if (told := facts(item)) is not None:
                        target.tell(told)
                    yield item

        with _own_error(decision):
            return await self.dispatcher.open_stream(decision, asked, deadline=deadline)

    def health(self) -> Health:
        """The state of every replica."""
        return Health(self.dispatcher.snapshot())

    def answered(self, expert: str, *, output_tokens: int | None, session: str | None = None) -> None:
        """Take note of an answer: its length moves the expert's estimate, its session stays with the expert."""
        if output_tokens is not None:
            self.dispatcher.observe(expert, output_tokens=output_tokens)
        if session is not None:
            self._sessions.served(session, expert)

    def client(self, target: Target) -> TGIClient:
        """The client of one replica.

        Raises:
            ConfigurationError: The expert has no url.
        """
        key = (target.expert.name, target.url)
        client = self._clients.get(key)
        if client is None or client.expert is not target.expert:  # more may have become known of the expert
            client = self._clients[key] = client_for(target.expert, url=target.url, timeouts=self._timeouts)
        return client

    def _learn(self, target: Target, info: ServerInfo) -> None:
        """Take a server's own limits where the expert's description says nothing."""
        name = target.expert.name
        described = self._described[name]
        limit, most = info.max_concurrent_requests, self.dispatcher.settings.max_concurrency
        if limit and described.max_concurrency is None:
            self.dispatcher.limit(name, limit if most is None else min(limit, most), url=target.url)
        window = info.max_total_tokens
        if not window or described.context_window is not None:
            return
        with self._lock:
            known = self.experts[name].context_window  # of another replica
            if known is not None and known <= window:
                return
            expert = replace(described, context_window=window)
            self.experts = ExpertPool({**self.experts, name: expert})
            self.dispatcher.describe(expert)

    def _counted(self, query: RouteQuery, experts: Sequence[Expert]) -> RouteQuery:
        counts = self._tokenizers.counts(experts, query.inputs)
        return replace(query, requirements=replace(query.requirements, counted=counts))

    def _decided(self, query: RouteQuery, row: Row, started: float) -> RouteDecision:
        decision = (query.policy or self.policy).decide(
            Scores(self.experts.names, row[self._columns].astype(float)),
            self.experts,
            requirements=query.requirements,
            pinned=query.pinned,
            exclude=query.exclude,
            previous=None if query.session is None else self._sessions.last(query.session),
            estimates=self.dispatcher.estimates(),
        )
        return replace(decision, milliseconds=1000 * (time.perf_counter() - started))


def pool_and_models(
    experts: Experts, kind: type[M], describe: Callable[[str, M], Expert]
) -> tuple[ExpertPool, dict[str, M]]:
    """The experts as a pool, and those among them that are models of a framework.

    Args:
        experts: The experts, as the user gave them.
        kind: The framework's base class of models.
        describe: What the policy can know of such a model.

    Raises:
        ConfigurationError: An entry can't be used.
    """
    if not isinstance(experts, Mapping) or isinstance(experts, ExpertPool):
        return ExpertPool(experts), {}
    models = {name: value for name, value in experts.items() if isinstance(value, kind)}
    return ExpertPool({**experts, **{name: describe(name, model) for name, model in models.items()}}), models


@contextmanager
def _own_error(decision: RouteDecision) -> Iterator[None]:
    """Where only one expert was to be asked, as where it is pinned, its own error says most."""
    try:
        yield
    except DeadlineExceededError:
        raise
    except NoExpertLeftError as error:
        if len(decision.ranking) == 1 and isinstance(error.__cause__, ExpertError):
            raise error.__cause__ from None
        raise


def _check_same_experts(router: Router, pool: ExpertPool) -> None:
    unserved = [name for name in router.experts if name not in pool]
    unknown = [name for name in pool if name not in router.experts]
    if not unserved and not unknown:
        return
    msg = f"the router knows {', '.join(router.experts)}, the pool holds {', '.join(pool)}: "
    fixes = []
    if unserved:
        fixes.append(f"add {', '.join(unserved)} to the pool, or take them out by router.remove_expert(name)")
    if unknown:
        fixes.append(f"teach the router {', '.join(unknown)} by router.add_expert(name, outcomes), or take them out")
    raise ConfigurationError(msg + "; ".join(fixes))
