"""TORouterSelector: selects query engines, retrievers or other choices by a trained router, without an LLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.objects import ObjectRetriever
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.schema import QueryBundle, QueryType
from llama_index.core.tools.types import ToolMetadata

from llamaindex_torouter.routed import emit
from torouter.errors import ConfigurationError
from torouter.experts import Expert, ExpertPool, Experts
from torouter.routers.router import AutoRouter, Router
from torouter.routing.decision import RouteDecision
from torouter.routing.policy import RoutingPolicy
from torouter.runtime.routed_experts import RoutedExperts, RouteQuery, RouterSource

T = TypeVar("T")


class TORouterSelector(BaseSelector):
    """Selects the choices whose experts a trained router ranks highest.

    Each choice must have an expert of its own. A choice's name (`ToolMetadata.name`, or the text of a plain string) is
    its expert's name, unless `names` maps it to another one. Experts without a choice are ignored.

    Args:
        router: A trained router, its directory, or its id on the Hugging Face Hub.
        names: The expert's name by the choice's name, where the two differ.
        policy: Turns scores into a ranking.
        experts: The experts with their prices, tags and windows, for a policy that uses them. They need no urls.
        top_n: Most choices to select; None for no limit.
        threshold: Lowest score of a selected choice; the first one is selected whatever its score.

    Raises:
        ConfigurationError: An argument is invalid. On selection: a choice has no expert, or two choices have the same.
        CheckpointError: The router can't be loaded.
    """

    def __init__(
        self,
        router: RouterSource,
        *,
        names: Mapping[str, str] | None = None,
        policy: RoutingPolicy | None = None,
        experts: Experts | None = None,
        top_n: int | None = 1,
        threshold: float | None = None,
    ) -> None:
        if top_n is not None and top_n < 1:
            msg = f"top_n={top_n!r} can't be used: give a whole number above zero, or None"
            raise ConfigurationError(msg)
        router = router if isinstance(router, Router) else AutoRouter.from_pretrained(router)
        pool = ExpertPool([Expert(name=name) for name in router.experts] if experts is None else experts)
        self._routed = RoutedExperts(router, pool, policy=policy)
        self._names = dict(names or {})
        self._top_n = top_n
        self._threshold = threshold

    def as_tool_retriever(self, tools: Sequence[T]) -> SelectedTools[T]:
        """The same selection as a retriever of tools, which `ToolRetrieverRouterQueryEngine` takes."""
        return SelectedTools(self, tools)

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        experts = self._experts_of(choices)
        return self._selected(experts, self._routed.decide(self._query(experts, query)))

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        experts = self._experts_of(choices)
        return self._selected(experts, await self._routed.adecide(self._query(experts, query)))

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """The selector has no prompts."""

    def _experts_of(self, choices: Sequence[ToolMetadata]) -> list[str]:
        """The expert of each choice."""
        pool = self._routed.experts
        names = [choice.name or choice.description for choice in choices]
        experts = [self._names.get(name, name) for name in names]
        if not experts:
            raise ConfigurationError("choices is empty: give at least one")
        unknown = [name for name, expert in zip(names, experts, strict=True) if expert not in pool]
        if unknown or len(set(experts)) < len(experts):
            problem = f"no expert for {', '.join(unknown)}" if unknown else "one expert for several choices"
            msg = f"{problem}: the choices are {', '.join(names)}; the router knows {', '.join(pool)}; "
            raise ConfigurationError(msg + "name each choice as its expert, or give names={choice: expert}")
        return experts

    def _query(self, experts: Sequence[str], query: QueryBundle) -> RouteQuery:
        return RouteQuery(text=query.query_str, exclude=[name for name in self._routed.experts if name not in experts])

    def _selected(self, experts: Sequence[str], decision: RouteDecision) -> SelectorResult:
        emit(decision)
        selected = decision.ranking[: self._top_n]
        if (least := self._threshold) is not None:
            selected = selected[:1] + tuple(name for name in selected[1:] if decision.scores[name] >= least)
        scores = ", ".join(f"{name} {decision.scores[name]:.3f}" for name in decision.ranking)
        return SelectorResult(
            selections=[
                SingleSelection(
                    index=experts.index(name),
                    reason=f"{name} is number {rank} of the ranking ({decision.reason}); scores: {scores}",
                )
                for rank, name in enumerate(selected, 1)
            ]
        )


class SelectedTools(ObjectRetriever[T], Generic[T]):
    """Retrieves the tools of a fixed list that a selector selects."""

    def __init__(self, selector: TORouterSelector, tools: Sequence[T]) -> None:
        self._selector = selector
        self._tools = list(tools)
        self._metadata: list[Any] = [tool.metadata for tool in tools]  # type: ignore[attr-defined]

    def retrieve(self, str_or_query_bundle: QueryType) -> list[T]:
        result = self._selector.select(self._metadata, str_or_query_bundle)
        return [self._tools[index] for index in result.inds]

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[T]:
        result = await self._selector.aselect(self._metadata, str_or_query_bundle)
        return [self._tools[index] for index in result.inds]
