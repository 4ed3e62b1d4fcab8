"""RoutedChatModel: which expert answers, what the answer says of its way, and what happens when experts fail."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any
from uuid import UUID

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelInvalidRequestError,
    ModelRateLimitError,
    ModelTimeoutError,
)
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGenerationChunk, ChatResult, LLMResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_torouter import RoutedChatModel
from tests.support.scripted_tgi import Fault, ScriptedTGI, Text, ToolUse
from tests.support.word_router import WordRouter
from torouter import routing_text
from torouter.errors import ConfigurationError, ExpertUnavailableError, NoExpertLeftError
from torouter.routing.policy import RoutingPolicy


@dataclass
class World:
    """Two experts behind scripted servers and the model that routes between them."""

    code: ScriptedTGI
    math: ScriptedTGI
    router: WordRouter
    model: RoutedChatModel

    def again(self, **changes: Any) -> RoutedChatModel:
        experts = {"code": self.code.url, "math": self.math.url}
        return RoutedChatModel(**{"router": self.router, "experts": experts, **changes})


@pytest.fixture
def world() -> Iterator[World]:
    router = WordRouter.named({"code": 0.6, "math": 0.5})
    with ScriptedTGI(model_id="test/code") as code, ScriptedTGI(model_id="test/math") as math:
        model = RoutedChatModel(router=router, experts={"code": code.url, "math": math.url})
        yield World(code, math, router, model)


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


def merged(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    total = chunks[0]
    for chunk in chunks[1:]:
        total = total + chunk
    return total


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


def test_the_last_human_turn_is_routed_so_a_tool_loop_stays_with_its_expert(world: World) -> None:
    turns: list[BaseMessage] = [
        SystemMessage("ask code"),
        HumanMessage("ask math for the root of 16"),
        AIMessage("", tool_calls=[{"name": "root", "args": {"x": 16}, "id": "1"}]),
        ToolMessage("4, says code", tool_call_id="1"),
    ]
    assert world.model.invoke(turns).response_metadata["routing"]["expert"] == "math"
    assert world.router.passes == [1]


def test_the_whole_conversation_can_be_routed_instead(world: World) -> None:
    model = world.again(routing_text="conversation")
    turns = [HumanMessage("ask math"), AIMessage("yes?"), HumanMessage("go on")]
    assert model.invoke(turns).response_metadata["routing"]["expert"] == "math"
    assert world.model.invoke(turns).response_metadata["routing"]["expert"] == "code"


def test_a_call_can_bring_its_own_routing_text(world: World) -> None:
    stuffed = "Context: " + "code " * 3000 + "\nQuestion: what is a root?"
    by_keyword = world.model.invoke(stuffed, routing_text="ask math")
    by_config = world.model.invoke(stuffed, config={"configurable": {"routing_text": "ask math"}})
    assert by_keyword.response_metadata["routing"]["expert"] == "math"
    assert by_config.response_metadata["routing"]["expert"] == "math"
    assert "routing_text" not in world.math.requests[0].body


# --- pins ---


@pytest.mark.parametrize("how", ["keyword", "bound", "configurable"])
def test_a_call_can_pin_its_expert(world: World, how: str) -> None:
    if how == "keyword":
        answer = world.model.invoke("ask code", model="math")
    elif how == "bound":
        answer = world.model.bind(model="math").invoke("ask code")
    else:
        answer = world.model.invoke("ask code", config={"configurable": {"expert": "math"}})
    assert answer.response_metadata["routing"]["expert"] == "math"
    assert answer.response_metadata["routing"]["reason"] == "pinned"


def test_a_pinned_expert_that_fails_is_not_replaced(world: World) -> None:
    world.math.always(Fault.overloaded())
    with pytest.raises(ModelRateLimitError):
        world.again(max_retries=0).invoke("hello", model="math")
    assert not world.code.requests


def test_pinning_an_unknown_expert_says_which_there_are(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"'poet'.*code, math"):
        world.model.invoke("hello", model="poet")


def test_a_call_can_exclude_experts(world: World) -> None:
    answer = world.model.invoke("ask code", exclude=["code"])
    assert answer.response_metadata["routing"]["expert"] == "math"
    assert "exclude" not in world.math.requests[0].body


# --- failover ---


@pytest.mark.parametrize(
    "fault",
    [
        Fault.overloaded(),
        Fault.status(503),
        Fault.status(500),
        Fault.html_502(),
        Fault.empty_401(),
        Fault.status(404),
        Fault.reset(),
        Fault.not_json(),
        Fault.validation("`inputs` must have less than 16 tokens. Given: 20"),
    ],
    ids=lambda fault: str(getattr(fault, "status", type(fault).__name__)),
)
@pytest.mark.parametrize("streamed", [False, True])
def test_the_next_expert_of_the_ranking_answers_when_the_first_cannot(world: World, fault: Any, streamed: bool) -> None:
    world.math.script(fault)
    answer = merged(list(world.model.stream("ask math"))) if streamed else world.model.invoke("ask math")
    routing = answer.response_metadata["routing"]
    assert routing["expert"] == "code"
    assert [attempt["expert"] for attempt in routing["failed_attempts"]] == ["math"]
    assert answer.response_metadata["model_name"] == "test/code"


def test_an_overload_inside_a_stream_before_its_first_token_fails_over(world: World) -> None:
    world.math.script(Fault.overloaded_in_stream())
    answer = merged(list(world.model.stream("ask math")))
    assert answer.response_metadata["routing"]["expert"] == "code"


@pytest.mark.parametrize("fault", [Fault.cut(after=2), Fault.error_midway(after=2)], ids=["cut", "error"])
async def test_a_stream_that_breaks_after_its_first_token_raises_with_what_had_come(world: World, fault: Any) -> None:
    world.math.script(fault)
    texts: list[str] = []
    with pytest.raises(ModelAPIError) as caught:  # noqa: PT012 - what came before the error counts too
        async for chunk in world.model.astream("ask math"):
            texts.append(chunk.text)  # noqa: PERF401 - a comprehension would lose them all
    assert getattr(caught.value, "partial_text", None) == "".join(texts) != ""
    assert not world.code.requests


def test_a_wrong_request_is_raised_at_once(world: World) -> None:
    world.math.script(Fault.validation("`top_p` must be > 0.0 and < 1.0"))
    with pytest.raises(ModelInvalidRequestError):
        world.model.invoke("ask math")
    assert not world.code.requests


def test_when_nobody_is_left_one_error_lists_every_attempt(world: World) -> None:
    world.math.always(Fault.overloaded())
    world.code.always(Fault.status(503))
    with pytest.raises(NoExpertLeftError) as caught:
        world.again(max_retries=0).invoke("ask math")
    assert isinstance(caught.value, ModelAPIError)
    assert {attempt.expert for attempt in caught.value.attempts} == {"code", "math"}
    assert "math" in str(caught.value)
    assert "code" in str(caught.value)


def test_the_timeout_is_one_deadline_over_all_experts(world: World) -> None:
    world.math.always(Fault.slow_start())
    world.code.always(Fault.slow_start())
    with pytest.raises(ModelTimeoutError):
        world.again(timeout=0.2).invoke("ask math")


def test_input_that_fits_nowhere_is_a_context_error(world: World) -> None:
    for server in (world.math, world.code):
        server.always(Fault.validation("`inputs` must have less than 16 tokens. Given: 20"))
    with pytest.raises(ContextOverflowError):
        world.model.invoke("ask math")


def test_an_abandoned_stream_gives_its_connection_back(world: World) -> None:
    world.math.script(Fault.stall(after=1))
    stream = world.model.stream("ask math")
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    world.math.wait_until(lambda: world.math.in_flight == 0)


async def test_an_abandoned_asynchronous_stream_gives_its_connection_back(world: World) -> None:
    world.math.script(Fault.stall(after=1))
    stream = world.model.astream("ask math")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
    await world.math.until(lambda: world.math.in_flight == 0)


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


# --- LangChain models as experts ---


def test_any_chat_model_can_be_an_expert(world: World) -> None:
    own = FakeListChatModel(responses=["from the fake"])
    model = world.again(experts={"code": world.code.url, "math": own})
    runs = Runs()
    answer = model.invoke("ask math", {"callbacks": [runs]})
    assert answer.text == "from the fake"
    assert answer.response_metadata["routing"]["expert"] == "math"
    assert runs.models == ["math"]
    assert merged(list(model.stream("ask math"))).text == "from the fake"


async def test_a_chat_model_expert_streams_and_fails_over_like_any_other(world: World) -> None:
    class Broken(GenericFakeChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise ModelAPIError("down")

    model = world.again(experts={"code": world.code.url, "math": Broken(messages=iter([]))})
    answer = await model.ainvoke("ask math")
    assert answer.response_metadata["routing"]["expert"] == "code"
    assert answer.response_metadata["routing"]["failed_attempts"][0]["expert"] == "math"
    working = world.again(
        experts={"code": world.code.url, "math": GenericFakeChatModel(messages=iter([AIMessage("one two")]))}
    )
    assert [chunk.text async for chunk in working.astream("ask math")][:3] == ["one", " ", "two"]


class Steps(FakeListChatModel):
    """Streams synchronously: each text at once, an exception raised, an event waited for."""

    steps: list[Any]

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, Event):
                step.wait()
            else:
                yield ChatGenerationChunk(message=AIMessageChunk(content=step))


def test_a_chat_model_that_stalls_before_its_first_token_is_given_up_for_the_next_expert(world: World) -> None:
    released = Event()
    stalled = Steps(responses=[], steps=[released, "late"])
    model = world.again(experts={"code": world.code.url, "math": stalled}, timeout=1.0)
    try:
        assert merged(list(model.stream("ask math"))).response_metadata["routing"]["expert"] == "code"
    finally:
        released.set()


@pytest.mark.parametrize("end", [ConnectionResetError("cut"), Event()])
def test_a_chat_models_stream_that_breaks_raises_with_what_had_come(world: World, end: Any) -> None:
    broken = Steps(responses=[], steps=["one", " two", end])
    model = world.again(experts={"code": world.code.url, "math": broken}, timeout=0.3)
    try:
        with pytest.raises(ExpertUnavailableError) as caught:
            list(model.stream("ask math"))
    finally:
        if isinstance(end, Event):
            end.set()
    assert caught.value.partial_text == "one two"


def test_a_bug_in_a_chat_model_is_raised_as_it_is(world: World) -> None:
    class Buggy(FakeListChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise ZeroDivisionError

    model = world.again(experts={"code": world.code.url, "math": Buggy(responses=[])})
    with pytest.raises(ZeroDivisionError):
        model.invoke("ask math")
    assert not world.code.requests


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


# --- sessions, windows, live estimates ---


@pytest.mark.parametrize("streamed", [False, True])
def test_a_session_stays_with_its_expert_unless_another_is_much_better(world: World, streamed: bool) -> None:
    model = world.again(policy=RoutingPolicy(switch_margin=0.2))

    def asked(text: str, session: str) -> str:
        config: Any = {"configurable": {"session": session}}
        answer = merged(list(model.stream(text, config))) if streamed else model.invoke(text, config)
        return str(answer.response_metadata["routing"]["expert"])

    assert asked("ask math", "mine") == "math"
    # "hello" scores 0.6 for code and 0.5 for math: not enough to leave.
    assert asked("hello", "mine") == "math"
    assert asked("hello", "yours") == "code"
    assert asked("ask code", "mine") == "code"


def test_a_decision_for_input_that_fits_nowhere_is_a_context_error(world: World) -> None:
    experts = {name: {"url": world.code.url, "context_window": 200} for name in ("code", "math")}
    with pytest.raises(ContextOverflowError):
        world.again(experts=experts).route("ask code " * 1000)


def test_an_input_too_long_for_an_expert_goes_to_one_with_a_larger_window(world: World) -> None:
    model = world.again(
        experts={
            "code": {"url": world.code.url, "context_window": 200},
            "math": {"url": world.math.url, "context_window": 100_000},
        }
    )
    assert model.route("hello").expert == "code"
    assert model.route("hello " * 1000).ranking == ("math",)


def test_a_policy_of_one_call_wins_over_the_models(world: World) -> None:
    policy = RoutingPolicy(exclude=frozenset(["code"]))
    assert world.model.route("ask code").expert == "code"
    assert world.model.route("ask code", policy=policy).expert == "math"
    assert world.model.route("ask code", {"configurable": {"policy": policy}}).expert == "math"


@pytest.mark.parametrize(("field", "value"), [("exclude", "code"), ("policy", {"price_weight": 1.0})])
def test_a_calls_wrong_wish_is_told_by_its_name(world: World, field: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{field}="):
        world.model.invoke("hello", **{field: value})
    with pytest.raises(ConfigurationError, match=f"{field}="):
        world.model.invoke("hello", {"configurable": {field: value}})


def test_prices_trade_against_scores_and_follow_the_answers_lengths(world: World) -> None:
    experts = {
        "code": {"url": world.code.url, "output_price": 10.0},
        "math": {"url": world.math.url, "output_price": 1.0},
    }
    model = world.again(experts=experts, policy=RoutingPolicy(price_weight=0.2))
    before = model.route("hello").prices
    assert model.route("hello").expert == "math"
    model.invoke("hello")
    after = model.route("hello").prices
    assert before is not None
    assert after is not None
    assert after["math"] < before["math"]


def test_a_long_input_costs_more_than_a_short_one(world: World) -> None:
    experts = {"code": {"url": world.code.url, "input_price": 10.0}, "math": world.math.url}
    model = world.again(experts=experts, policy=RoutingPolicy(max_price=20.0))
    assert model.route("a short question").expert == "code"
    assert model.route("a long question " * 2000).ranking == ("math",)


def test_a_policy_that_names_no_expert_is_told_at_construction(world: World) -> None:
    with pytest.raises(ConfigurationError, match="'poet'"):
        world.again(policy=RoutingPolicy(exclude=frozenset(["poet"])))


async def test_a_stream_keeps_the_routing_text_that_stood_when_it_was_asked_for(world: World) -> None:
    with routing_text("ask math"):
        stream, astream = world.model.stream("hello"), world.model.astream("hello")
    assert merged(list(stream)).response_metadata["routing"]["expert"] == "math"
    assert merged([chunk async for chunk in astream]).response_metadata["routing"]["expert"] == "math"
