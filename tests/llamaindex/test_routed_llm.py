"""RoutedLLM: which expert answers, what the answer says of its way, and what happens when experts fail."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    ImageBlock,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms import CustomLLM, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.llm import LLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.rate_limiter import TokenBucketRateLimiter
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

from llamaindex_torouter import TGILLM, RoutedLLM
from tests.support.llamaindex_world import World, counter, experts_of, listening, world
from tests.support.scripted_tgi import Fault, ScriptedTGI, Text, ToolUse
from tests.support.word_router import WordRouter
from torouter import routing_text
from torouter.dispatch import DispatchSettings
from torouter.errors import (
    ConfigurationError,
    ContextLengthError,
    DeadlineExceededError,
    ExpertError,
    ExpertOverloadedError,
    ExpertRequestError,
    ExpertUnavailableError,
    NoExpertLeftError,
)
from torouter.experts import Expert, ExpertPool
from torouter.routing.policy import RoutingPolicy


@pytest.fixture(name="world")
def _world() -> Iterator[World]:
    with world() as made:
        yield made


def user(text: str) -> list[ChatMessage]:
    return [ChatMessage(role=MessageRole.USER, content=text)]


def routing(response: ChatResponse | CompletionResponse) -> dict[str, Any]:
    block: dict[str, Any] = response.additional_kwargs["routing"]
    return block


# --- who answers ---


def test_the_expert_that_the_router_ranks_first_answers(world: World) -> None:
    assert routing(world.llm.complete("ask math please"))["expert"] == "math"
    assert routing(world.llm.chat(user("ask code please")))["expert"] == "code"
    assert world.asked == (1, 1)


def test_the_answer_carries_its_way_in_plain_json(world: World) -> None:
    block = routing(world.llm.complete("ask math please"))
    assert json.loads(json.dumps(block)) == block
    assert block["ranking"] == ["math", "code"]
    assert block["scores"] == {"code": pytest.approx(0.6), "math": pytest.approx(1.5)}
    assert block["failed_attempts"] == []


async def test_all_eight_methods_give_the_same_answer(world: World) -> None:
    llm, prompt = world.llm, "ask math please"
    messages = user(prompt)
    texts = [
        llm.complete(prompt).text,
        (await llm.acomplete(prompt)).text,
        list(llm.stream_complete(prompt))[-1].text,
        [one async for one in await llm.astream_complete(prompt)][-1].text,
        llm.chat(messages).message.content,
        (await llm.achat(messages)).message.content,
        list(llm.stream_chat(messages))[-1].message.content,
        [one async for one in await llm.astream_chat(messages)][-1].message.content,
    ]
    assert texts == ["Hello from test/math. You said: ask math please"] * 8
    assert world.asked == (0, 8)


def test_a_streams_message_grows_and_its_deltas_add_up_to_it(world: World) -> None:
    responses = list(world.llm.stream_chat(user("ask math please")))
    texts = [response.message.content or "" for response in responses]
    assert len(responses) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))
    assert "".join(response.delta or "" for response in responses) == texts[-1]
    assert responses[-1].raw == world.llm.chat(user("ask math please")).raw
    assert {routing(response)["expert"] for response in responses} == {"math"}


def test_route_shows_the_decision_and_asks_nobody(world: World) -> None:
    assert world.llm.route("ask math please").ranking == ("math", "code")
    assert world.asked == (0, 0)


def test_the_last_user_turn_is_routed_so_a_tool_loop_stays_with_its_expert(world: World) -> None:
    turns = [
        ChatMessage(role=MessageRole.SYSTEM, content="ask code"),
        *user("ask math for the root of 16"),
        ChatMessage(
            role=MessageRole.ASSISTANT,
            blocks=[ToolCallBlock(tool_call_id="1", tool_name="root", tool_kwargs={"x": 16})],
        ),
        ChatMessage(role=MessageRole.TOOL, content="4, says code", additional_kwargs={"tool_call_id": "1"}),
    ]
    assert routing(world.llm.chat(turns))["expert"] == "math"
    sent = world.math.requests[0].body["messages"]
    assert [message["role"] for message in sent] == ["system", "user", "assistant", "tool"]
    assert sent[2]["tool_calls"][0]["function"] == {"name": "root", "arguments": '{"x": 16}'}
    assert sent[3]["tool_call_id"] == "1"


def test_the_whole_conversation_or_a_function_of_it_can_be_routed(world: World) -> None:
    turns = [*user("ask math"), ChatMessage(role=MessageRole.ASSISTANT, content="yes?"), *user("go on")]
    assert world.llm.route(turns).expert == "code"
    assert world.again(routing_text="conversation").route(turns).expert == "math"
    first: Any = lambda messages: messages[0].content  # noqa: E731
    assert world.again(routing_text=first).route(turns).expert == "math"


async def test_a_call_can_bring_its_own_routing_text(world: World) -> None:
    stuffed = "Context: " + "code " * 3000 + "\nQuestion: what is a root?"
    assert routing(world.llm.complete(stuffed, routing_text="ask math"))["expert"] == "math"
    with routing_text("ask math"):
        assert routing(world.llm.complete(stuffed))["expert"] == "math"
        assert routing(await world.llm.acomplete(stuffed))["expert"] == "math"
        stream, later = world.llm.stream_complete(stuffed), await world.llm.astream_complete(stuffed)
        assert routing(world.llm.complete(stuffed, routing_text="ask code"))["expert"] == "code"
    assert routing(list(stream)[-1])["expert"] == "math"
    assert routing([one async for one in later][-1])["expert"] == "math"
    assert routing(world.llm.complete(stuffed))["expert"] == "code"
    assert "routing_text" not in world.math.requests[0].body


# --- pins ---


def test_a_call_can_pin_its_expert_or_exclude_some(world: World) -> None:
    pinned = routing(world.llm.complete("ask code", model="math"))
    assert (pinned["expert"], pinned["reason"]) == ("math", "pinned")
    assert routing(world.llm.chat(user("ask code"), exclude=["code"]))["expert"] == "math"
    assert not {"exclude", "routing"} & set(world.math.requests[-1].body)


def test_a_pinned_expert_that_fails_is_not_replaced(world: World) -> None:
    world.math.always(Fault.overloaded())
    with pytest.raises(ExpertOverloadedError):
        world.again(max_retries=0).complete("hello", model="math")
    assert world.asked == (0, 1)


def test_pinning_an_unknown_expert_says_which_there_are(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"'poet'.*code, math"):
        world.llm.complete("hello", model="poet")


def test_a_call_can_bring_its_own_policy(world: World) -> None:
    policy = RoutingPolicy(exclude=frozenset(("math",)))
    assert routing(world.llm.complete("ask math", policy=policy))["expert"] == "code"
    assert "policy" not in world.code.requests[0].body


def test_a_session_stays_with_its_expert_where_others_are_hardly_better(world: World) -> None:
    llm = world.again(policy=RoutingPolicy(switch_margin=0.2))
    assert routing(llm.complete("ask math", session="s"))["expert"] == "math"
    assert routing(list(llm.stream_complete("go on", session="s"))[-1])["expert"] == "math"
    assert routing(llm.complete("go on"))["expert"] == "code"
    assert "session" not in world.math.requests[0].body


def test_input_that_is_known_not_to_fit_is_not_sent(world: World) -> None:
    experts = {
        "code": {"url": world.code.url, "context_window": 100_000},
        "math": {"url": world.math.url, "context_window": 1000},
    }
    llm = world.again(experts=experts)
    assert llm.route("ask math " + "x " * 3000, max_tokens=10).ranking == ("code",)
    assert llm.route("ask math", max_tokens=10).expert == "math"


# --- failover ---


@pytest.mark.parametrize("fault", [Fault.overloaded(), Fault.html_502(), Fault.empty_401(), Fault.reset()])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_next_expert_answers_when_the_first_cannot(world: World, fault: Any, streamed: bool) -> None:
    world.math.script(fault)
    response = list(world.llm.stream_complete("ask math"))[-1] if streamed else world.llm.complete("ask math")
    assert routing(response)["expert"] == "code"
    assert [attempt["expert"] for attempt in routing(response)["failed_attempts"]] == ["math"]


async def test_a_stream_that_breaks_after_its_first_token_raises_with_what_had_come(world: World) -> None:
    world.math.script(Fault.cut(after=3))
    texts: list[str] = []
    with pytest.raises(ExpertError) as caught:  # noqa: PT012 - what came before the error counts too
        async for response in await world.llm.astream_complete("ask math"):
            texts.append(response.text)  # noqa: PERF401 - a comprehension would lose them all
    assert caught.value.partial_text == texts[-1] != ""
    assert world.asked == (0, 1)


def test_a_wrong_request_is_raised_at_once(world: World) -> None:
    world.math.script(Fault.validation("`top_p` must be > 0.0 and < 1.0"))
    with pytest.raises(ExpertRequestError):
        world.llm.complete("ask math")
    assert world.asked == (0, 1)


def test_when_nobody_is_left_one_error_lists_every_attempt(world: World) -> None:
    world.math.always(Fault.overloaded())
    world.code.always(Fault.status(503))
    with pytest.raises(NoExpertLeftError) as caught:
        list(world.again(max_retries=0).stream_complete("ask math"))
    assert {attempt.expert for attempt in caught.value.attempts} == {"code", "math"}


def test_a_model_can_try_all_experts_again(world: World) -> None:
    quick = DispatchSettings(cooldown=0.01)
    for llm in (world.again(settings=quick, max_retries=2), world.again(settings=replace(quick, rounds=3))):
        world.math.script(Fault.overloaded())
        world.code.script(Fault.overloaded())
        assert llm.complete("ask math").text
    world.math.always(Fault.overloaded())
    world.code.always(Fault.overloaded())
    with pytest.raises(NoExpertLeftError):
        world.again(max_retries=0).complete("ask math")


def test_the_timeout_is_one_deadline_over_all_experts(world: World) -> None:
    world.math.always(Fault.slow_start())
    world.code.always(Fault.slow_start())
    with pytest.raises(DeadlineExceededError):
        world.again(timeout=0.2).complete("ask math")
    with pytest.raises(DeadlineExceededError):
        world.llm.complete("ask math", timeout=0.2)


def test_input_that_fits_nowhere_is_a_context_error(world: World) -> None:
    for server in (world.math, world.code):
        server.always(Fault.validation("`inputs` must have less than 16 tokens. Given: 20"))
    with pytest.raises(ContextLengthError):
        world.llm.complete("ask math")


async def test_an_abandoned_stream_gives_its_connection_back(world: World) -> None:
    world.math.script(Fault.stall(after=2), Fault.stall(after=2))
    stream = world.llm.stream_complete("ask math")
    next(stream)
    del stream
    await world.math.until(lambda: world.math.in_flight == 0)
    chat = await world.llm.astream_chat(user("ask math"))
    await anext(chat)
    await chat.aclose()
    await world.math.until(lambda: world.math.in_flight == 0)


# --- traces and counts ---


async def test_tokens_are_counted_once_whatever_method_is_called(world: World) -> None:
    handler, world.llm.callback_manager = counter()
    prompt = "ask math please"
    usage = world.llm.complete(prompt).raw["usage"]
    list(world.llm.stream_complete(prompt))
    world.llm.chat(user(prompt))
    list(world.llm.stream_chat(user(prompt)))
    await world.llm.acomplete(prompt)
    _ = [one async for one in await world.llm.astream_complete(prompt)]
    await world.llm.achat(user(prompt))
    _ = [one async for one in await world.llm.astream_chat(user(prompt))]
    assert len(handler.llm_token_counts) == 8
    assert handler.prompt_llm_token_count == 8 * usage["prompt_tokens"]
    assert handler.completion_llm_token_count == 8 * usage["completion_tokens"]


def test_a_failed_attempt_costs_no_token(world: World) -> None:
    handler, world.llm.callback_manager = counter()
    world.math.script(Fault.overloaded())
    usage = world.llm.complete("ask math").raw["usage"]
    assert handler.total_llm_token_count == usage["total_tokens"]


def test_the_decision_is_an_event_and_the_llm_event_names_the_expert(world: World) -> None:
    world.math.script(Fault.overloaded())
    with listening() as events:
        world.llm.chat(user("ask math"))
    names = [event.class_name() for event in events]
    assert names.count("RouteDecisionEvent") == names.count("LLMChatEndEvent") == 1
    decision: Any = next(event for event in events if event.class_name() == "RouteDecisionEvent")
    assert (decision.expert, decision.ranking) == ("math", ["math", "code"])
    assert experts_of(events) == ["code"]
    starts: list[Any] = [event for event in events if event.class_name() == "LLMChatStartEvent"]
    assert [event.model_dict["expert"] for event in starts] == ["math", "code"]
    assert all(event.span_id for event in (decision, *starts))
    assert "ask math" not in decision.model_dump_json()


def test_no_secret_is_in_payload_serialisation_repr_or_events(world: World) -> None:
    with ScriptedTGI(api_key="sk-canary") as closed:
        experts = {"code": {"url": closed.url, "api_key": "sk-canary"}, "math": world.math.url}
        llm = world.again(experts=experts)
        with listening() as events:
            assert llm.complete("ask code").text
        shown = [repr(llm), str(llm.to_payload()), str(llm.to_dict()), llm.to_json(), *map(repr, events)]
        assert not [text for text in shown if "canary" in text]


def test_the_rate_limiter_of_the_routed_llm_is_asked_once_for_each_call(world: World) -> None:
    class Limiter(TokenBucketRateLimiter):
        acquired: int = 0

        async def async_acquire(self, num_tokens: int = 0) -> None:
            self.acquired += 1

    limiter = Limiter(requests_per_minute=1000)
    llm = world.again(rate_limiter=limiter)
    world.math.script(Fault.overloaded())
    llm.complete("ask math")
    list(llm.stream_complete("ask math"))
    assert limiter.acquired == 2


def test_prices_are_expected_from_the_lengths_of_real_answers(world: World) -> None:
    experts = [Expert(name=name, url=world.math.url, output_price=1000.0) for name in ("code", "math")]
    llm = world.again(experts=ExpertPool(experts))
    before = llm.route("ask math").prices["math"]
    llm.complete("ask math")
    assert llm.route("ask math").prices["math"] < before


# --- LlamaIndex's LLMs as experts ---


class Sure(CustomLLM):
    """A completion model that counts itself, as integrations do."""

    calls: list[str] = Field(default_factory=list)
    failure: Any = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=512, model_name="sure")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.calls.append(prompt)
        if self.failure is not None:
            raise self.failure
        usage = {"prompt_tokens": 3, "completion_tokens": 2}
        return CompletionResponse(text="Sure.", raw={"usage": usage})

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def steps() -> CompletionResponseGen:
            for text in ("Su", "Sure."):
                usage = {"prompt_tokens": 3, "completion_tokens": 2}
                yield CompletionResponse(text=text, delta=text[-3:], raw={"usage": usage})

        return steps()


async def test_any_llamaindex_llm_can_be_an_expert_and_is_counted_once(world: World) -> None:
    sure = Sure()
    llm = world.again(experts={"code": world.code.url, "math": sure})
    handler, llm.callback_manager = counter()
    assert llm.complete("ask math").text == "Sure."
    assert (await llm.achat(user("ask math"))).message.content == "Sure."
    assert list(llm.stream_chat(user("ask math")))[-1].message.content == "Sure."
    assert [one async for one in await llm.astream_complete("ask math")][-1].text == "Sure."
    assert (handler.prompt_llm_token_count, handler.completion_llm_token_count) == (12, 8)
    assert routing(llm.complete("ask math"))["expert"] == "math"


def test_an_llm_without_a_handler_of_ours_keeps_its_own(world: World) -> None:
    sure = Sure()
    handler, sure.callback_manager = counter()
    world.again(experts={"code": world.code.url, "math": sure}).complete("ask math")
    assert handler.total_llm_token_count == 5


class _StatusError(Exception):
    """What openai, anthropic and httpx raise: an exception with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status_code = status


class APIConnectionError(Exception):
    """What openai and anthropic call a lost connection."""


@pytest.mark.parametrize(
    "failure", [TimeoutError(), ConnectionResetError(), _StatusError(429), _StatusError(500), APIConnectionError()]
)
def test_an_llms_failure_that_may_pass_fails_over(world: World, failure: Exception) -> None:
    llm = world.again(experts={"code": world.code.url, "math": Sure(failure=failure)})
    assert routing(llm.complete("ask math"))["expert"] == "code"


class Steps(Sure):
    """Streams synchronously: each text at once, an exception raised, an event waited for."""

    steps: list[Any]

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def steps() -> CompletionResponseGen:
            text = ""
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Event):
                    step.wait()
                else:
                    text += step
                    yield CompletionResponse(text=text, delta=step)

        return steps()


def test_an_llm_that_stalls_before_its_first_token_is_given_up_for_the_next_expert(world: World) -> None:
    released = Event()
    llm = world.again(experts={"code": world.code.url, "math": Steps(steps=[released, "late"])}, timeout=1.0)
    try:
        assert routing(list(llm.stream_chat(user("ask math")))[-1])["expert"] == "code"
    finally:
        released.set()


@pytest.mark.parametrize("end", [ConnectionResetError("cut"), Event()])
def test_an_llms_stream_that_breaks_raises_with_what_had_come(world: World, end: Any) -> None:
    llm = world.again(experts={"code": world.code.url, "math": Steps(steps=["one", " two", end])}, timeout=0.3)
    try:
        with pytest.raises(ExpertUnavailableError) as caught:
            list(llm.stream_chat(user("ask math")))
    finally:
        if isinstance(end, Event):
            end.set()
    assert caught.value.partial_text == "one two"


def test_a_routed_llm_as_expert_whose_own_experts_have_all_failed_is_given_up_for_the_next(world: World) -> None:
    inner = RoutedLLM(
        router=WordRouter.named({"small": 0.5}),
        experts={"small": Sure(failure=TimeoutError())},
        settings=DispatchSettings(),
    )
    llm = world.again(experts={"code": world.code.url, "math": inner})
    assert routing(llm.complete("ask math"))["expert"] == "code"


def test_an_llms_wrong_request_or_bug_is_raised_as_it_is(world: World) -> None:
    with pytest.raises(ExpertRequestError):
        world.again(experts={"code": world.code.url, "math": Sure(failure=_StatusError(400))}).complete("ask math")
    with pytest.raises(ZeroDivisionError):
        world.again(experts={"code": world.code.url, "math": Sure(failure=ZeroDivisionError())}).complete("ask math")
    assert world.asked == (0, 0)


# --- tools ---


def square(x: int) -> int:
    """The square of a number."""
    return x * x


def cube(x: int) -> int:
    """The cube of a number."""
    return x**3


TOOLS = [FunctionTool.from_defaults(square), FunctionTool.from_defaults(cube)]


@pytest.mark.parametrize("how", ["chat", "achat", "stream", "astream"])
async def test_tools_are_called_by_the_routed_expert(world: World, how: str) -> None:
    ask: dict[str, Any] = {"tools": TOOLS, "user_msg": "ask math for the square of 7"}
    if how == "chat":
        response = world.llm.chat_with_tools(**ask)
    elif how == "achat":
        response = await world.llm.achat_with_tools(**ask)
    elif how == "stream":
        response = list(world.llm.stream_chat_with_tools(**ask))[-1]
    else:
        response = [one async for one in await world.llm.astream_chat_with_tools(**ask)][-1]
    calls = world.llm.get_tool_calls_from_response(response)
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("square", {"x": 7})]
    assert routing(response)["expert"] == "math"
    assert world.math.requests[0].body["tool_choice"] == "auto"


def test_a_tool_can_be_required_or_chosen(world: World) -> None:
    world.llm.chat_with_tools(TOOLS, "ask math", tool_required=True)
    assert world.math.requests[-1].body["tool_choice"] == "required"
    response = world.llm.chat_with_tools(TOOLS, "ask math for 3", tool_choice="cube")
    assert world.llm.get_tool_calls_from_response(response)[0].tool_name == "cube"
    assert world.llm.predict_and_call(TOOLS, "ask math for the square of 9").response == "81"


def test_an_answer_without_a_tool_call_is_an_error_only_where_one_was_needed(world: World) -> None:
    response = world.llm.chat_with_tools(TOOLS, "ask math to say hello")
    assert world.llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    with pytest.raises(ValueError, match="tool_required"):
        world.llm.get_tool_calls_from_response(response)


def test_calls_with_tools_go_to_experts_that_know_tools(world: World) -> None:
    experts = {"code": world.code.url, "math": {"url": world.math.url, "abilities": []}}
    assert routing(world.again(experts=experts).chat_with_tools(TOOLS, "ask math"))["expert"] == "code"


def test_openai_tool_objects_can_be_given_too(world: World) -> None:
    tools = [TOOLS[0].metadata.to_openai_tool()]
    response = world.llm.chat(user("ask math for the square of 5"), tools=tools, tool_choice="required")
    assert world.llm.get_tool_calls_from_response(response)[0].tool_kwargs == {"x": 5}


def test_only_the_first_of_several_calls_is_kept_where_one_is_allowed() -> None:
    with ScriptedTGI(api="openai", model_id="m") as server:
        from tests.support.scripted_tgi import ToolUses

        server.always(ToolUses((ToolUse("square", {"x": 1}), ToolUse("cube", {"x": 2}))))
        llm = TGILLM(base_url=server.url, api="openai", model="m")
        several = llm.chat_with_tools(TOOLS, "both", allow_parallel_tool_calls=True)
        assert [call.tool_name for call in llm.get_tool_calls_from_response(several)] == ["square", "cube"]
        one = llm.chat_with_tools(TOOLS, "both")
        assert [call.tool_name for call in llm.get_tool_calls_from_response(one)] == ["square"]


def test_an_llm_as_expert_gets_the_tools_in_its_own_form(world: World) -> None:
    class Caller(MockFunctionCallingLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(is_chat_model=True, is_function_calling_model=True)

        def _prepare_chat_with_tools(self, tools: Sequence[Any], **kwargs: Any) -> dict[str, Any]:
            return {"messages": kwargs["chat_history"], "its_form": [tool.metadata.name for tool in tools]}

        def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
            block = ToolCallBlock(tool_call_id="1", tool_name=kwargs["its_form"][0], tool_kwargs={"x": 2})
            return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, blocks=[block]))

    llm = world.again(experts={"code": world.code.url, "math": Caller()})
    calls = llm.get_tool_calls_from_response(llm.chat_with_tools(TOOLS, "ask math"))
    assert [(call.tool_name, call.tool_kwargs) for call in calls] == [("square", {"x": 2})]


# --- structured output ---


class Root(BaseModel):
    """A number and its root."""

    number: int
    root: int


QUESTION = PromptTemplate("ask {who} for number 16 and root 4")


async def test_an_object_is_predicted_through_a_tool(world: World) -> None:
    assert world.llm.structured_predict(Root, QUESTION, who="math") == Root(number=16, root=4)
    assert await world.llm.astructured_predict(Root, QUESTION, who="math") == Root(number=16, root=4)
    assert world.math.requests[0].body["tool_choice"] == "required"
    structured = world.llm.as_structured_llm(Root)
    assert structured.complete("ask math for number 25 and root 5").raw == Root(number=25, root=5)
    assert (await structured.achat(user("ask math for number 9 and root 3"))).raw == Root(number=9, root=3)


async def test_an_object_is_streamed_through_a_tool(world: World) -> None:
    assert list(world.llm.stream_structured_predict(Root, QUESTION, who="math"))[-1] == Root(number=16, root=4)
    stream = await world.llm.astream_structured_predict(Root, QUESTION, who="math")
    assert [one async for one in stream][-1] == Root(number=16, root=4)
    assert {request.body["tool_choice"] for request in world.math.requests} == {"required"}


async def test_an_object_is_predicted_under_a_schema_where_no_expert_knows_tools(world: World) -> None:
    experts = {
        "code": {"url": world.code.url, "abilities": []},
        "math": {"url": world.math.url, "abilities": ["json_schema"]},
    }
    llm = world.again(experts=experts)
    assert llm.metadata.is_function_calling_model is False
    assert llm.structured_predict(Root, QUESTION, who="code") == Root(number=16, root=4)
    assert await llm.astructured_predict(Root, QUESTION, who="math") == Root(number=16, root=4)
    assert list(llm.stream_structured_predict(Root, QUESTION, who="math"))[-1] == Root(number=16, root=4)
    assert world.asked == (0, 3)


def test_an_object_is_read_from_text_where_no_expert_knows_a_schema(world: World) -> None:
    experts = {name: {"url": world.math.url, "abilities": []} for name in ("code", "math")}
    world.math.script(Text('Here it is: {"number": 4, "root": 2}'))
    assert world.again(experts=experts).structured_predict(Root, QUESTION, who="math") == Root(number=4, root=2)


# --- construction ---


def test_metadata_hold_for_whichever_expert_answers(world: World) -> None:
    experts = [
        Expert(name="code", url=world.code.url, abilities=frozenset(("tools",)), context_window=4096),
        Expert(name="math", url=world.math.url, abilities=frozenset(), context_window=2048),
    ]
    metadata = world.again(experts=experts, max_tokens=77).metadata
    assert (metadata.context_window, metadata.num_output) == (2048, 77)
    assert metadata.is_chat_model
    assert metadata.is_function_calling_model
    assert metadata.system_role == MessageRole.SYSTEM


def test_the_system_role_is_the_models_own_where_all_experts_are_llms(world: World) -> None:
    class Chatty(MockLLM):
        @property
        def metadata(self) -> LLMMetadata:
            return LLMMetadata(system_role=MessageRole.CHATBOT)

    llm = world.again(experts={"code": Chatty(), "math": Chatty()})
    assert llm.metadata.system_role == MessageRole.CHATBOT


def test_a_system_prompt_is_put_before_predictions(world: World) -> None:
    world.again(system_prompt="Be short.").predict(PromptTemplate("ask math {what}"), what="now")
    assert world.math.requests[0].body["messages"][0] == {"role": "system", "content": "Be short."}


def test_parameters_reach_the_expert_and_a_calls_own_win(world: World) -> None:
    llm = world.again(temperature=0.5, max_tokens=17, stop=["END"])
    llm.complete("ask math")
    llm.complete("ask math", temperature=0, max_tokens=5)
    bodies = [request.body for request in world.math.requests]
    assert [(body["temperature"], body["max_tokens"], body["stop"]) for body in bodies] == [
        (0.5, 17, ["END"]),
        (0, 5, ["END"]),
    ]


def test_images_go_to_an_expert_that_sees(world: World) -> None:
    picture = ImageBlock(url="https://example.org/cat.png")
    message = ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text="ask math: what is this?"), picture])
    with pytest.raises(ConfigurationError, match="images"):
        world.llm.chat([message])
    experts = {"code": {"url": world.code.url, "abilities": ["images"]}, "math": world.math.url}
    assert routing(world.again(experts=experts).chat([message]))["expert"] == "code"
    assert world.code.requests[0].body["messages"][0]["content"][1]["image_url"]["url"] == str(picture.url)


def test_a_block_that_no_expert_takes_is_refused_by_name(world: World) -> None:
    message = ChatMessage(role=MessageRole.USER, blocks=[AudioBlock(audio=b"abc", format="wav")])
    with pytest.raises(ConfigurationError, match="audio"):
        world.llm.chat([message])


def test_router_and_experts_must_know_the_same_names(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"knows code, math.*holds code, poet"):
        world.again(experts={"code": world.code.url, "poet": world.math.url})


def test_it_is_what_llamaindex_takes_for_an_llm(world: World) -> None:
    assert isinstance(world.llm, LLM)
    assert RoutedLLM.class_name() != TGILLM.class_name()
