"""TORouterSelector: which choices a trained router selects, in LlamaIndex's own routing engines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from llama_index.core import Settings
from llama_index.core.base.base_selector import BaseSelector
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import (
    CustomQueryEngine,
    RouterQueryEngine,
    ToolRetrieverRouterQueryEngine,
)
from llama_index.core.retrievers import BaseRetriever, RouterRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata
from numpy.typing import NDArray

from llamaindex_torouter import TORouterSelector
from tests.support.llamaindex_world import listening
from tests.support.word_router import WordRouter
from torouter.errors import ConfigurationError
from torouter.experts import Expert
from torouter.routing.policy import RoutingPolicy

ROUTER = WordRouter.named({"code": 0.6, "math": 0.5, "facts": 0.1})


def choices(*names: str) -> list[ToolMetadata]:
    return [ToolMetadata(name=name, description=f"answers about {name}") for name in names]


@pytest.fixture(autouse=True)
def no_default_llm() -> Any:
    """Whoever asks for `Settings.llm` finds none was ever set."""
    yield
    assert Settings._llm is None


def test_the_choice_of_the_first_expert_is_selected_with_the_scores_as_reason() -> None:
    result = TORouterSelector(ROUTER).select(choices("facts", "math", "code"), "ask math")
    assert result.ind == 1
    assert "math 1.500, code 0.600, facts 0.100" in result.reason


async def test_the_asynchronous_twin_selects_alike_and_off_the_event_loop() -> None:
    threads: list[threading.Thread] = []

    class Watching(WordRouter):
        scores_inline = False

        def scores(self, queries: Sequence[str]) -> NDArray[np.float32]:
            threads.append(threading.current_thread())
            return super().scores(queries)

    router = Watching.named({"code": 0.6, "math": 0.5})
    result = await TORouterSelector(router).aselect(choices("math", "code"), QueryBundle("ask math"))
    assert result.ind == 0
    assert threads != [threading.current_thread()]


def test_plain_strings_are_their_own_names() -> None:
    assert TORouterSelector(ROUTER).select(["math", "code"], "hello").ind == 1


def test_choices_may_be_called_otherwise_than_their_experts() -> None:
    selector = TORouterSelector(ROUTER, names={"calculator": "math", "programmer": "code"})
    assert selector.select(choices("programmer", "calculator", "facts"), "ask math").ind == 1


def test_an_expert_without_a_choice_is_left_out() -> None:
    assert TORouterSelector(ROUTER).select(choices("facts", "math"), "ask code").ind == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("poet", "math"), r"no expert for poet: the choices are poet, math; the router knows code, math, facts"),
        (("math", "calculator"), r"one expert for several choices: the choices are math, calculator"),
        ((), r"choices is empty: give at least one"),
    ],
)
def test_choices_that_do_not_fit_the_experts_are_refused_with_both_sides(names: Any, message: str) -> None:
    selector = TORouterSelector(ROUTER, names={"calculator": "math"})
    with pytest.raises(ConfigurationError, match=message):
        selector.select(choices(*names), "hello")


@pytest.mark.parametrize(
    ("options", "selected"),
    [
        ({"top_n": 2}, ["math", "code"]),
        ({"top_n": None}, ["math", "code", "facts"]),
        ({"top_n": None, "threshold": 0.5}, ["math", "code"]),
        ({"top_n": None, "threshold": 9.0}, ["math"]),
        ({"top_n": 1, "threshold": 0.0}, ["math"]),
    ],
)
def test_several_choices_are_selected_by_number_and_threshold(options: Any, selected: list[str]) -> None:
    names = ("facts", "code", "math")
    result = TORouterSelector(ROUTER, **options).select(choices(*names), "ask math")
    assert [names[index] for index in result.inds] == selected


def test_a_policy_may_weigh_prices() -> None:
    experts = [
        Expert(name="code", output_price=1.0),
        Expert(name="math", output_price=100.0),
        Expert(name="facts", output_price=1.0),
    ]
    policy = RoutingPolicy(price_weight=1.0)
    selector = TORouterSelector(ROUTER, policy=policy, experts=experts)
    assert selector.select(choices("code", "math"), "ask math").ind == 0


def test_a_wrong_argument_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="top_n=0"):
        TORouterSelector(ROUTER, top_n=0)


def test_the_decision_is_an_event() -> None:
    with listening() as events:
        TORouterSelector(ROUTER).select(choices("math", "code"), "ask math")
    decision: Any = next(event for event in events if event.class_name() == "RouteDecisionEvent")
    assert decision.expert == "math"


def test_it_has_no_prompts_to_change() -> None:
    selector: BaseSelector = TORouterSelector(ROUTER)
    assert selector.get_prompts() == {}
    selector.update_prompts({})


# --- in LlamaIndex's engines ---


class Engine(CustomQueryEngine):
    """A query engine that says who it is."""

    name: str

    def custom_query(self, query_str: str) -> str:
        return f"{self.name} answers"


class Nodes(BaseRetriever):
    """A retriever that finds one node that says who found it."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [NodeWithScore(node=TextNode(text=f"{self.name} finds", id_=self.name), score=1.0)]


def engine_tools(*names: str) -> list[QueryEngineTool]:
    return [QueryEngineTool.from_defaults(Engine(name=name), name=name, description="one") for name in names]


async def test_it_routes_between_query_engines() -> None:
    engine = RouterQueryEngine(TORouterSelector(ROUTER), engine_tools("code", "math"), llm=MockLLM())
    assert str(engine.query("ask math")) == "math answers"
    response = await engine.aquery("ask code")
    assert str(response) == "code answers"
    assert response.metadata is not None
    assert "code 1.600" in response.metadata["selector_result"].reason


async def test_several_query_engines_answer_where_several_are_selected() -> None:
    selector = TORouterSelector(ROUTER, top_n=2)
    engine = RouterQueryEngine(selector, engine_tools("code", "math", "facts"), llm=MockLLM())
    for response in (engine.query("ask math"), await engine.aquery("ask math")):
        assert "math answers" in str(response)
        assert "code answers" in str(response)
        assert "facts" not in str(response)


async def test_it_routes_between_retrievers() -> None:
    tools = [
        RetrieverTool.from_defaults(Nodes(name), name=name, description="one") for name in ("code", "math", "facts")
    ]
    retriever = RouterRetriever(TORouterSelector(ROUTER), tools, llm=MockLLM())
    assert [node.text for node in retriever.retrieve("ask facts")] == ["facts finds"]
    assert [node.text for node in await retriever.aretrieve("ask math")] == ["math finds"]


async def test_it_retrieves_the_tools_of_a_tool_retriever_engine() -> None:
    retriever = TORouterSelector(ROUTER).as_tool_retriever(engine_tools("code", "math"))
    engine = ToolRetrieverRouterQueryEngine(retriever, llm=MockLLM())
    assert str(engine.query("ask math")) == "math answers"
    response, tools = await asyncio.gather(engine.aquery("ask code"), retriever.aretrieve("ask math"))
    assert str(response) == "code answers"
    assert [tool.metadata.name for tool in tools] == ["math"]
