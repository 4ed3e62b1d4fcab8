"""RoutedExperts: decides for a call which experts may answer it, and calls them; both adapters are built on it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from torouter.dispatch import AnswerReader, Dispatcher, DispatchHook, DispatchSettings, Served, ServedStream, Target
from torouter.endpoints import ServerInfo, Timeouts
from torouter.errors import ConfigurationError
from torouter.experts import Expert, ExpertPool, Experts
from torouter.routers.router import AutoRouter, Router
from torouter.routing.decision import RouteDecision
from torouter.routing.policy import RoutingPolicy
from torouter.routing.requirements import Estimate, Requirements, estimate_tokens
from torouter.routing.routing_text import TextSource, Turn, given_routing_text, text_of
from torouter.routing.scores import Scores
from torouter.runtime.background import work
from torouter.runtime.call_options import CallOptions
from torouter.runtime.endpoint import Endpoint
from torouter.runtime.handshake import Handshakes
from torouter.runtime.health import Health
from torouter.runtime.score_cache import Row, ScoreCache
from torouter.runtime.sessions import Sessions
from torouter.runtime.token_counts import ExpertTokenizers, near_limit

T = TypeVar("T")

RouterSource = Router | str | os.PathLike[str]
"""A trained router, its directory, or its id on the Hugging Face Hub."""

_INLINE_CHARACTERS = 4096
"""Longest text that is scored on the event loop: handing a text to a thread takes about as long as scoring this."""
_BLOCK = 32
"""Texts of a batch that are scored in one forward pass, so that other calls' decisions run in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteQuery:
    """The facts of one call that a decision depends on.

    Attributes:
        text: The text that the router scores.
        requirements: What the request needs of an expert beyond text.
        pinned: The one expert that may answer; None lets the router choose.
        exclude: Experts that may not answer.
        policy: A policy for this call alone, None for the application's.
        session: Key of a conversation that stays with its expert unless another expert is much better.
        inputs: The texts of all messages, counted by the experts' own tokenizers.

    Raises:
        ConfigurationError: `exclude` is a single string, or `policy` is not a RoutingPolicy.
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
    """One router, the experts it chooses from, and what is known of them between calls.

    Args:
        router: A router, its directory, or its id on the Hugging Face Hub.
        experts: The experts, exactly those that the router knows.
        policy: How scores become a ranking.
        settings: Deadline, cool-downs and limits of the dispatcher.
        max_retries: Further passes over a ranking after all its experts have failed temporarily. It overrides
            `settings.rounds`, which counts the first pass too.
        timeouts: Limits of one request to one expert.
        hooks: Observers of decisions, attempts and outcomes.
        reader: Reads facts and text from the answers.

    Attributes:
        router: The router.
        experts: The pool, completed by what the experts' servers have stated.

    Raises:
        CheckpointError: The router can't be loaded.
        ConfigurationError: Router and pool know different experts, or an entry can't be used.
    """

    def __init__(
        self,
        router: RouterSource,
        experts: Experts,
        *,
        policy: RoutingPolicy | None = None,
        settings: DispatchSettings | None = None,
        max_retries: int | None = None,
        timeouts: Timeouts | None = None,
        hooks: Sequence[DispatchHook] = (),
        reader: AnswerReader[Any] = AnswerReader(),
    ) -> None:
        self.router = router if isinstance(router, Router) else AutoRouter.from_pretrained(router)
        self.experts = ExpertPool(experts)
        _check_same_experts(self.router, self.experts)
        self.policy = policy or RoutingPolicy()
        self.policy.check(self.experts)
        settings = settings or DispatchSettings()
        if max_retries is not None:
            settings = replace(settings, rounds=max_retries + 1)
        facts = self.router.config.experts
        trained_for = {fact.name: fact.model for fact in facts if fact.model is not None}
        handshakes = Handshakes(
            settings.handshake, trained_for, lambda target: self.endpoint(target).client, self._learn
        )
        self.dispatcher = Dispatcher(
            self.experts,
            settings,
            estimates={fact.name: Estimate(fact.output_tokens, fact.seconds) for fact in facts},
            hooks=hooks,
            reader=reader,
            before=handshakes.before,
        )
        self._initial_experts = self.experts
        self._columns = np.array([self.router.experts.index(name) for name in self.experts])
        self._input_costs = any(expert.input_price for expert in self.experts.values())
        self._lock = threading.Lock()
        self._sessions = Sessions()
        self._timeouts = timeouts or Timeouts()
        self._scores = ScoreCache(self.router)
        self._tokenizers = ExpertTokenizers()
        self._endpoints: dict[tuple[str, str], Endpoint] = {}

    # --- deciding ---

    def query(
        self,
        messages: Sequence[Any],
        turns: Sequence[Turn],
        options: CallOptions,
        *,
        source: TextSource | Callable[[Sequence[Any]], str] = "last_user",
        question: str | None = None,
    ) -> RouteQuery:
        """The query of one call.

        The router reads the first of these that is not empty: the call's `routing_text`, the text of an enclosing
        `with torouter.routing_text(...)`, `question`, the text that `source` selects.

        Args:
            messages: The framework's messages, for a callable `source`.
            turns: The same messages, as `Turn`s.
            options: The call's options.
            source: The part of the conversation that the router reads, or a function of the messages.
            question: The user's question, where the framework knows it apart from the prompt around it.

        Raises:
            ConfigurationError: An option can't be used.
        """
        text = options.routing_text or given_routing_text() or question
        if not text:
            text = source(messages) if callable(source) else text_of(turns, source)
        inputs = [turn.text for turn in turns]
        return RouteQuery(
            text=str(text),
            requirements=Requirements(
                tools=bool(options.tools),
                json_schema=options.asks_for_schema,
                images=any(turn.has_image for turn in turns),
                input_tokens=self.input_tokens(inputs),
                output_tokens=options.parameters.get("max_tokens"),
            ),
            pinned=options.model,
            exclude=options.exclude,
            policy=options.policy,
            session=options.session,
            inputs=inputs,
        )

    def prefetch(self, texts: Sequence[str]) -> None:
        """Score many texts in few forward passes, so that the decisions for them need none."""
        for block in self._unscored(texts):
            self._scores.store(dict(zip(block, self._scores.compute(block), strict=True)), room=len(texts))

    async def aprefetch(self, texts: Sequence[str]) -> None:
        """The same as `prefetch`, in worker threads."""
        for block in self._unscored(texts):
            rows = await work(partial(self._scores.compute, block))
            self._scores.store(dict(zip(block, rows, strict=True)), room=len(texts))

    def _unscored(self, texts: Sequence[str]) -> Iterator[list[str]]:
        missing = self._scores.missing(list(dict.fromkeys(texts)))
        return (missing[start : start + _BLOCK] for start in range(0, len(missing), _BLOCK))

    def decide(self, query: RouteQuery) -> RouteDecision:
        """Rank the experts for one query.

        Raises:
            ConfigurationError: A pinned or excluded expert is unknown, or no expert has what the request needs.
            ContextLengthError: The request is too long for every expert's context window.
        """
        started = time.perf_counter()
        if near := near_limit(self.experts.countable, query.inputs, query.requirements):
            query = self._with_token_counts(query, near)
        return self._decision(query, self._scores.scores([query.text])[0], started)

    async def adecide(self, query: RouteQuery) -> RouteDecision:
        """The same as `decide`; counting tokens and long forward passes run in a worker thread."""
        started = time.perf_counter()
        if near := near_limit(self.experts.countable, query.inputs, query.requirements):
            query = await asyncio.to_thread(self._with_token_counts, query, near)  # may download a tokenizer
        row = self._scores.get(query.text)
        if row is None:
            score = partial(self._scores.scores, [query.text])
            inline = self.router.scores_inline and len(query.text) <= _INLINE_CHARACTERS
            row = (score() if inline else await work(score))[0]
        return self._decision(query, row, started)

    def input_tokens(self, texts: Iterable[str]) -> int | None:
        """The estimated number of tokens in a request's texts.

        None, without counting, where no decision depends on it: the texts fit every expert's window, and no expert has
        a price for them.
        """
        smallest_window = self.experts.smallest_window
        if smallest_window is None and not self._input_costs:
            return None
        text = "\n".join(texts)
        # No token is shorter than a byte, and a character has four bytes at most.
        fits = smallest_window is None or 4 * len(text) <= smallest_window
        return None if fits and not self._input_costs else estimate_tokens(text)

    # --- answering ---

    async def call(
        self,
        decision: RouteDecision,
        ask: Callable[[Target], Awaitable[T]],
        *,
        session: str | None = None,
        deadline: float | None = None,
    ) -> Served[T]:
        """One whole answer by `Dispatcher.call`. Where the ranking has only one expert, its own error is raised.

        Args:
            decision: The decision whose ranking is followed.
            ask: Calls one replica.
            session: Key of the conversation, which then stays with the expert that answers.
            deadline: Seconds for this call, in place of the settings' deadline.
        """
        answered = self._remember(session)
        return await self.dispatcher.call(decision, ask, deadline=deadline, answered=answered, own_error=True)

    async def open_stream(
        self,
        decision: RouteDecision,
        ask: Callable[[Target], AsyncGenerator[T, None]],
        *,
        session: str | None = None,
        deadline: float | None = None,
    ) -> ServedStream[T]:
        """A streamed answer by `Dispatcher.open_stream`; arguments and errors are those of `call`."""
        answered = self._remember(session)
        return await self.dispatcher.open_stream(decision, ask, deadline=deadline, answered=answered, own_error=True)

    def endpoint(self, target: Target) -> Endpoint:
        """The endpoint of one replica. It does not retry, since the dispatcher calls another expert at once.

        Raises:
            ConfigurationError: The expert has no url.
        """
        key = (target.expert.name, target.url)
        endpoint = self._endpoints.get(key)
        if endpoint is None or endpoint.expert is not target.expert:  # its description may have been completed
            endpoint = self._endpoints[key] = Endpoint(target.expert, url=target.url, timeouts=self._timeouts)
        return endpoint

    def health(self) -> Health:
        """The state of every replica."""
        return Health(self.dispatcher.snapshot())

    def _remember(self, session: str | None) -> Callable[[str], None] | None:
        return None if session is None else partial(self._sessions.served, session)

    def _learn(self, target: Target, info: ServerInfo) -> None:
        """Adopt a server's own limits where the expert's description states none."""
        name = target.expert.name
        initial = self._initial_experts[name]
        limit, default_limit = info.max_concurrent_requests, self.dispatcher.settings.max_concurrency
        if limit and initial.max_concurrency is None:
            self.dispatcher.limit(name, limit if default_limit is None else min(limit, default_limit), url=target.url)
        window = info.max_total_tokens
        if not window or initial.context_window is not None:
            return
        with self._lock:
            smallest = self.experts[name].context_window  # of its other replicas
            if smallest is not None and smallest <= window:
                return
            expert = replace(initial, context_window=window)
            self.experts = ExpertPool({**self.experts, name: expert})
            self.dispatcher.describe(expert)

    def _with_token_counts(self, query: RouteQuery, experts: Sequence[Expert]) -> RouteQuery:
        counts = self._tokenizers.counts(experts, query.inputs)
        return replace(query, requirements=replace(query.requirements, counted=counts))

    def _decision(self, query: RouteQuery, row: Row, started: float) -> RouteDecision:
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


def _check_same_experts(router: Router, pool: ExpertPool) -> None:
    missing = [name for name in router.experts if name not in pool]
    unknown = [name for name in pool if name not in router.experts]
    if not missing and not unknown:
        return
    msg = f"the router knows {', '.join(router.experts)}, but the pool holds {', '.join(pool)}: "
    fixes = []
    if missing:
        fixes.append(f"add {', '.join(missing)} to the pool, or remove them by router.remove_expert(name)")
    if unknown:
        fixes.append(f"add {', '.join(unknown)} to the router by router.add_expert(name, outcomes), or leave them out")
    raise ConfigurationError(msg + "; ".join(fixes))
