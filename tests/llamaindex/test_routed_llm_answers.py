"""RoutedLLM: which expert answers by the scores and a call's wishes, what the answer carries, what traces count."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from llama_index.core.base.llms.types import (
    AudioBlock,
    ChatMessage,
    ImageBlock,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms import MockLLM
from llama_index.core.llms.llm import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.rate_limiter import TokenBucketRateLimiter

from llamaindex_torouter import TGILLM, RoutedLLM
from tests.support.llamaindex_world import Sure, World, counter, experts_of, listening, routing, user
from tests.support.scripted_tgi import Fault, ScriptedTGI
from torouter import routing_text
from torouter.errors import ConfigurationError, ExpertOverloadedError
from torouter.experts import Expert, ExpertPool
from torouter.routing.policy import RoutingPolicy

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
