"""RoutedChatModel: what decides besides the scores: the text that is routed, pins, sessions, windows and prices."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelRateLimitError
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from tests.support.langchain_world import World, merged
from tests.support.scripted_tgi import Fault
from torouter import routing_text
from torouter.errors import ConfigurationError
from torouter.routing.policy import RoutingPolicy

# --- the text that is routed ---


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


async def test_a_stream_keeps_the_routing_text_that_stood_when_it_was_asked_for(world: World) -> None:
    with routing_text("ask math"):
        stream, astream = world.model.stream("hello"), world.model.astream("hello")
    assert merged(list(stream)).response_metadata["routing"]["expert"] == "math"
    assert merged([chunk async for chunk in astream]).response_metadata["routing"]["expert"] == "math"


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
