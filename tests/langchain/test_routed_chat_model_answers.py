"""RoutedChatModel: which expert answers, what the answer carries, and what traces, counts and caches make of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_torouter import RoutedChatModel
from tests.support.langchain_world import World, merged
from tests.support.scripted_tgi import Fault, Text, ToolUse
from tests.support.word_router import WordRouter
from torouter.errors import ConfigurationError


@dataclass
class Runs(BaseCallbackHandler):
    """Every model run that LangChain opened, and what its trace says of the model."""

    models: list[str] = field(default_factory=list)
    params: list[dict[str, Any]] = field(default_factory=list)
    ended: list[LLMResult] = field(default_factory=list)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.models.append((metadata or {})["ls_model_name"])
        self.params.append(kwargs["invocation_params"])

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        self.ended.append(response)


# --- who answers ---


def test_the_expert_that_the_router_ranks_first_answers(world: World) -> None:
    assert world.model.invoke("ask math please").response_metadata["model_name"] == "test/math"
    assert world.model.invoke("ask code please").response_metadata["model_name"] == "test/code"
    assert (len(world.code.requests), len(world.math.requests)) == (1, 1)


def test_the_answer_carries_its_way_in_plain_json(world: World) -> None:
    routing = world.model.invoke("ask math please").response_metadata["routing"]
    assert json.loads(json.dumps(routing)) == routing
    assert routing["expert"] == "math"
    assert routing["ranking"] == ["math", "code"]
    assert routing["scores"] == {"code": pytest.approx(0.6), "math": pytest.approx(1.5)}
    assert routing["failed_attempts"] == []
    assert routing["milliseconds"] >= 0


def test_a_stream_says_the_same_as_a_whole_answer(world: World) -> None:
    whole = world.model.invoke("ask math please")
    streamed = merged(list(world.model.stream("ask math please")))
    assert streamed.text == whole.text
    assert streamed.usage_metadata == whole.usage_metadata
    for key in ("model_name", "finish_reason", "model_provider"):
        assert streamed.response_metadata[key] == whole.response_metadata[key]
    assert streamed.response_metadata["routing"]["expert"] == "math"


async def test_the_asynchronous_twins_answer_alike(world: World) -> None:
    assert (await world.model.ainvoke("ask math please")).response_metadata["routing"]["expert"] == "math"
    streamed = merged([chunk async for chunk in world.model.astream("ask math please")])
    assert streamed.response_metadata["routing"]["expert"] == "math"
    answers = await world.model.abatch(["ask math please", "ask code please"])
    assert [answer.response_metadata["routing"]["expert"] for answer in answers] == ["math", "code"]


async def test_synchronous_calls_work_inside_a_running_loop_as_in_a_notebook(world: World) -> None:
    assert world.model.invoke("ask math please").text
    assert merged(list(world.model.stream("ask math please"))).text


def test_route_shows_the_decision_and_asks_nobody(world: World) -> None:
    decision = world.model.route("ask math please")
    assert decision.ranking == ("math", "code")
    assert not world.math.requests


def test_a_batch_is_scored_in_one_forward_pass(world: World) -> None:
    prompts = [f"ask {name} number {number}" for number in range(10) for name in ("code", "math")]
    answers = world.model.batch(prompts)
    assert world.router.passes == [20]
    assert [answer.response_metadata["routing"]["expert"] for answer in answers] == ["code", "math"] * 10


def test_each_text_of_a_batch_larger_than_the_memory_of_scores_is_scored_once() -> None:
    router = WordRouter.named({"code": 0.6, "math": 0.5})
    own = FakeListChatModel(responses=["yes"])
    model = RoutedChatModel(router=router, experts={"code": own, "math": own})
    model.batch([f"query {number}" for number in range(1100)])
    assert sum(router.passes) == 1100


def test_one_failing_prompt_of_a_batch_does_not_lose_the_others(world: World) -> None:
    world.math.always(Fault.validation("`top_p` must be > 0.0 and < 1.0"))
    answers = world.model.batch(["ask code", "ask math"], return_exceptions=True)
    assert answers[0].text
    assert isinstance(answers[1], ModelInvalidRequestError)


def test_one_prompt_of_a_batch_that_can_not_be_read_does_not_lose_the_others(world: World) -> None:
    def text(messages: Sequence[BaseMessage]) -> str:
        return {"one": "ask code"}[messages[-1].text]

    model = world.model.model_copy(update={"routing_text": text})
    answers = model.batch(["one", "two"], return_exceptions=True)
    assert answers[0].response_metadata["routing"]["expert"] == "code"
    assert isinstance(answers[1], KeyError)
    with pytest.raises(KeyError, match="two"):
        model.batch(["one", "two"])


def test_any_chat_model_can_be_an_expert(world: World) -> None:
    own = FakeListChatModel(responses=["from the fake"])
    model = world.again(experts={"code": world.code.url, "math": own})
    runs = Runs()
    answer = model.invoke("ask math", {"callbacks": [runs]})
    assert answer.text == "from the fake"
    assert answer.response_metadata["routing"]["expert"] == "math"
    assert runs.models == ["math"]
    assert merged(list(model.stream("ask math"))).text == "from the fake"


# --- traces, counts and caches ---


async def test_each_call_is_one_run_named_after_its_expert(world: World) -> None:
    model, runs = world.model, Runs()
    config: Any = {"callbacks": [runs]}
    assert model.stream_events("ask math", config, version="v3").output.text
    events = await model.astream_events("ask math", config, version="v3")
    assert (await events.output).text
    model.invoke("ask math", config)
    await model.ainvoke("ask math", config)
    list(model.stream("ask math", config))
    assert [chunk async for chunk in model.astream("ask math", config)]
    model.batch(["ask math"], config)
    assert [event async for event in model.astream_events("ask math", config, version="v2")]
    assert runs.models == ["math"] * 8
    assert len(runs.ended) == 8
    assert json.dumps(runs.params[0], default=str)


async def test_tokens_are_counted_once_under_the_served_model(world: World) -> None:
    usage = UsageMetadataCallbackHandler()
    answer = world.model.invoke("ask math", {"callbacks": [usage]})
    assert usage.usage_metadata == {"test/math": answer.usage_metadata}
    usage = UsageMetadataCallbackHandler()
    async for _ in world.model.astream("ask math", {"callbacks": [usage]}):
        pass
    assert usage.usage_metadata == {"test/math": answer.usage_metadata}


def test_another_router_does_not_hit_the_cached_answers_of_the_old(world: World) -> None:
    cache = InMemoryCache()
    world.again(cache=cache).invoke("ask math")
    world.again(cache=cache).invoke("ask math")
    assert len(world.math.requests) == 1
    retrained = WordRouter.named({"code": 0.7, "math": 0.5})
    world.again(cache=cache, router=retrained).invoke("ask math")
    assert len(world.math.requests) == 2


def test_another_chat_model_of_the_same_name_does_not_hit_the_cached_answers_of_the_old(world: World) -> None:
    cache = InMemoryCache()
    for text in ("old", "new"):
        own = FakeListChatModel(responses=[text])
        model = world.again(cache=cache, experts={"code": world.code.url, "math": own})
        assert model.invoke("ask math").text == text


def test_generate_without_a_decision_still_routes(world: World) -> None:
    result = world.model.generate([[HumanMessage("ask math")]])
    assert result.generations[0][0].message.response_metadata["routing"]["expert"] == "math"  # type: ignore[union-attr]


# --- tools and structured output ---


class Root(BaseModel):
    """The square root of a number."""

    number: int = Field(description="The number.")
    root: int = Field(description="Its root.")


@tool
def square(x: int) -> int:
    """Square a number."""
    return x * x


def test_tools_reach_the_expert_and_its_call_comes_back(world: World) -> None:
    world.math.script(ToolUse("square", {"x": 7}))
    answer = world.model.bind_tools([square], tool_choice="any").invoke("ask math to use square on 7")
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("square", {"x": 7})]
    assert world.math.requests[0].body["tool_choice"] == "required"
    assert answer.response_metadata["finish_reason"] == "tool_calls"


def test_choosing_a_tool_that_is_not_bound_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match=r"cube.*square"):
        world.model.bind_tools([square], tool_choice="cube")


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
@pytest.mark.parametrize("include_raw", [False, True])
def test_structured_output_by_every_method(world: World, method: Any, include_raw: bool) -> None:
    if method == "json_mode":
        world.math.script(Text('{"number": 16, "root": 4}'))
    structured = world.model.with_structured_output(Root, method=method, include_raw=include_raw)
    answer = structured.invoke("ask math for number 16 and root 4")
    if include_raw:
        assert isinstance(answer, dict)
        assert answer["parsing_error"] is None
        assert answer["raw"].response_metadata["routing"]["expert"] == "math"
        answer = answer["parsed"]
    assert answer == Root(number=16, root=4)


def test_an_answer_that_does_not_parse_comes_back_with_its_error(world: World) -> None:
    world.math.script(Text("no JSON at all"))
    structured = world.model.with_structured_output(Root, method="json_mode", include_raw=True)
    answer = structured.invoke("ask math")
    assert isinstance(answer, dict)
    assert answer["parsed"] is None
    assert answer["parsing_error"] is not None


# --- construction ---


def test_it_stands_in_a_chain_where_the_llm_stood(world: World) -> None:
    chain = ChatPromptTemplate.from_messages([("user", "ask {who}")]) | world.model | StrOutputParser()
    assert "".join(chain.stream({"who": "math"})) == chain.invoke({"who": "math"})


def test_router_and_experts_must_know_the_same_names(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"knows code, math.*holds code, poet"):
        world.again(experts={"code": world.code.url, "poet": world.math.url})


def test_the_profile_is_what_all_experts_hold(world: World) -> None:
    experts = [
        {"name": "code", "url": world.code.url, "abilities": ["tools"], "context_window": 4096},
        {"name": "math", "url": world.math.url, "abilities": [], "context_window": 2048},
    ]
    model = world.again(experts={entry["name"]: entry for entry in experts})
    assert model.profile is not None
    assert model.profile["max_input_tokens"] == 2048
    assert model.profile["tool_calling"] is True
    assert model.profile["structured_output"] is False
