"""Which expert a policy puts first, which it leaves out, and what the decision says of it."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.priced_experts import PRICED, pool
from torouter.errors import ConfigurationError, ContextLengthError, UnknownExpertError
from torouter.experts import Expert, ExpertPool
from torouter.routing.policy import RoutingPolicy
from torouter.routing.requirements import Estimate, Estimates, ExpectedPrices, Requirements
from torouter.routing.scores import Scores
from torouter.runtime.sessions import Sessions

SCORES = {"small": 0.5, "code": 0.7, "large": 0.8}

# Ranking


def test_without_a_policy_the_router_decides() -> None:
    decision = RoutingPolicy().decide(SCORES, pool())
    assert decision.ranking == ("large", "code", "small")
    assert decision.scores == SCORES
    assert decision.reason == "router"


def test_equal_scores_keep_the_pools_order() -> None:
    assert RoutingPolicy().decide(dict.fromkeys(SCORES, 0.3), pool()).ranking == ("small", "code", "large")


def test_experts_without_a_score_come_last() -> None:
    decision = RoutingPolicy().decide({"large": 0.1, "gone": 0.9}, pool())
    assert decision.ranking == ("large", "small", "code")
    assert decision.scores == {"large": 0.1, "gone": 0.9}


def test_a_router_that_knows_none_of_the_experts_is_a_mistake() -> None:
    with pytest.raises(ConfigurationError, match="scores a, b, but the experts are small, code, large"):
        RoutingPolicy().decide({"a": 1.0, "b": 0.0}, pool())


def expected_price(expert: Expert, requirements: Requirements, output_tokens: float | None = None) -> float:
    """The formula for one expert: USD per 1,000 requests."""
    length = requirements.length(expert.name)
    inputs = 200 if length is None else length
    outputs = 250 if output_tokens is None else output_tokens
    outputs = outputs if requirements.output_tokens is None else min(outputs, requirements.output_tokens)
    return (inputs * (expert.input_price or 0.0) + outputs * (expert.output_price or 0.0)) / 1000


def test_the_expected_price_is_tokens_times_prices() -> None:
    experts = ExpertPool([PRICED["large"], PRICED["small"]])

    def prices(requirements: Requirements, output_tokens: float | None = None) -> dict[str, float]:
        estimates = {"large": Estimate(output_tokens), "small": Estimate(output_tokens)}
        return dict(ExpectedPrices(experts, requirements, Estimates.of(estimates, experts.names)))

    assert prices(Requirements(input_tokens=1000), 500)["large"] == pytest.approx(5.0 + 10.0)
    assert prices(Requirements(input_tokens=1000, output_tokens=100), 500)["large"] == pytest.approx(5.0 + 2.0)
    assert prices(Requirements())["large"] == pytest.approx(200 * 5 / 1000 + 250 * 20 / 1000)
    assert prices(Requirements(input_tokens=1000), 500).get("small", 0) == 0


def test_a_price_weight_trades_score_points_for_usd_per_1000_queries() -> None:
    requirements = Requirements(input_tokens=1000)
    estimates = {name: Estimate(output_tokens=500) for name in SCORES}  # 0, 2 and 15 USD per 1,000 queries
    for weight, first, reason in ((0.0, "large", "router"), (0.01, "code", "trade-off"), (0.2, "small", "trade-off")):
        decision = RoutingPolicy(price_weight=weight).decide(
            SCORES, PRICED, requirements=requirements, estimates=estimates
        )
        assert (decision.expert, decision.reason) == (first, reason)


def test_a_latency_weight_trades_score_points_for_seconds_and_tries_unknown_experts() -> None:
    policy = RoutingPolicy(latency_weight=0.1)
    estimates = {"large": Estimate(seconds=3.0), "code": Estimate(seconds=1.0)}
    assert policy.decide(SCORES, pool(), estimates=estimates).ranking == ("code", "small", "large")
    assert policy.decide(SCORES, pool()).expert == "large"


def test_edge_experts_come_first_unless_another_one_gains_more_than_the_threshold() -> None:
    policy = RoutingPolicy(edge="edge", edge_threshold=0.25)
    near = policy.decide({"small": 0.5, "code": 0.6, "large": 0.7}, PRICED)
    assert near.ranking == ("small", "large", "code")
    assert near.reason == "edge"
    assert policy.decide(SCORES, PRICED).ranking == ("large", "small", "code")
    tie = RoutingPolicy(edge="edge").decide(dict.fromkeys(("large", "code", "small"), 0.5), PRICED)
    assert tie.expert == "small"


def test_the_default_expert_answers_where_the_router_is_not_sure() -> None:
    policy = RoutingPolicy(default_expert="code", min_confidence=0.6)
    unsure = policy.decide({"small": 0.2, "code": 0.3, "large": 0.59}, pool())
    assert unsure.ranking == ("code", "large", "small")
    assert unsure.reason == "default"
    assert policy.decide({"small": 0.2, "code": 0.3, "large": 0.6}, pool()).expert == "large"


def test_confidence_counts_only_experts_that_can_be_asked() -> None:
    policy = RoutingPolicy(default_expert="small", min_confidence=0.75)
    assert policy.decide(SCORES, pool(), exclude=["large"]).expert == "small"


def test_a_session_stays_with_its_expert_until_another_one_gains_the_margin() -> None:
    policy = RoutingPolicy(switch_margin=0.15)
    stays = policy.decide(SCORES, pool(), previous="code")
    assert (stays.expert, stays.reason) == ("code", "session")
    assert policy.decide(SCORES, pool(), previous="small").expert == "large"


def test_of_too_many_sessions_those_idle_longest_are_forgotten() -> None:
    sessions = Sessions(size=2)
    for session in ("one", "two", "one", "three"):
        sessions.served(session, f"expert of {session}")
    assert sessions.last("one") == "expert of one"
    assert sessions.last("two") is None
    assert len(sessions) == 2


# What an expert can't do


@pytest.mark.parametrize("ability", ["tools", "json_schema", "images"])
def test_experts_without_an_ability_that_is_asked_for_are_left_out(ability: str) -> None:
    others = {"tools", "json_schema", "images"} - {ability}
    experts = pool(
        small={"abilities": [ability]}, code={"abilities": sorted(others)}, large={"abilities": sorted(others)}
    )
    decision = RoutingPolicy().decide(SCORES, experts, requirements=Requirements(**{ability: True}))
    assert decision.ranking == ("small",)
    assert decision.reason == "filter"


def test_experts_whose_window_is_too_small_are_left_out() -> None:
    experts = pool(small={"context_window": 2048}, large={"context_window": 1024})
    decide = RoutingPolicy().decide
    assert decide(SCORES, experts, requirements=Requirements(input_tokens=1024)).ranking == ("large", "code", "small")
    assert decide(SCORES, experts, requirements=Requirements(input_tokens=1000, output_tokens=25)).ranking == (
        "code",
        "small",
    )
    assert decide(SCORES, experts, requirements=Requirements(input_tokens=4096)).ranking == ("code",)


def test_a_max_tokens_as_large_as_the_window_leaves_no_expert_out() -> None:
    experts = pool(small={"context_window": 4096}, code={"context_window": 4096}, large={"context_window": 4096})
    requirements = Requirements(input_tokens=3000, output_tokens=4096)
    assert len(RoutingPolicy().decide(SCORES, experts, requirements=requirements).ranking) == 3


def test_an_input_too_long_for_every_expert_is_a_context_error() -> None:
    experts = pool(small={"context_window": 2048}, code={"context_window": 1024}, large={"abilities": []})
    with pytest.raises(ContextLengthError, match="'small': its window is 2048") as caught:
        RoutingPolicy().decide(
            SCORES, experts, requirements=Requirements(tools=True, input_tokens=4000, output_tokens=96)
        )
    assert "4096" in str(caught.value)
    assert "'large': it can't do tools" in str(caught.value)


def test_ceilings_leave_experts_out() -> None:
    requirements = Requirements(input_tokens=1000, output_tokens=500)
    estimates = {name: Estimate(output_tokens=500, seconds=seconds) for name, seconds in (("small", 9), ("code", 1))}
    priced = RoutingPolicy(max_price=2.0).decide(SCORES, PRICED, requirements=requirements, estimates=estimates)
    assert priced.ranking == ("code", "small")
    timed = RoutingPolicy(max_seconds=5).decide(SCORES, PRICED, requirements=requirements, estimates=estimates)
    assert timed.ranking == ("large", "code")


def test_if_no_expert_is_left_the_error_gives_the_reason_for_each() -> None:
    policy = RoutingPolicy(max_price=0.001, exclude=["small"])
    with pytest.raises(ConfigurationError) as caught:
        policy.decide(SCORES, PRICED, requirements=Requirements(images=False, input_tokens=1000))
    for part in ("'small': it is excluded", "'code': 1.5 USD per 1,000 queries is over max_price=0.001", "'large'"):
        assert part in str(caught.value)


def test_a_call_excludes_experts_on_top_of_the_policy() -> None:
    policy = RoutingPolicy(exclude=["large"])
    assert policy.decide(SCORES, pool(), exclude=["code"]).ranking == ("small",)
    with pytest.raises(UnknownExpertError, match="'cude'"):
        policy.decide(SCORES, pool(), exclude=["cude"])


def test_a_pinned_expert_is_asked_alone_whatever_it_costs() -> None:
    policy = RoutingPolicy(price_weight=9, max_price=0.1, default_expert="small", min_confidence=1)
    decision = policy.decide(SCORES, PRICED, pinned="large")
    assert (decision.ranking, decision.reason) == (("large",), "pinned")
    with pytest.raises(UnknownExpertError, match="'lerge'"):
        policy.decide(SCORES, PRICED, pinned="lerge")


def test_a_pinned_expert_that_cannot_serve_is_an_error() -> None:
    experts = pool(code={"abilities": [], "context_window": 100})
    with pytest.raises(ConfigurationError, match="'code': it can't do images, tools"):
        RoutingPolicy().decide(SCORES, experts, pinned="code", requirements=Requirements(tools=True, images=True))
    with pytest.raises(ContextLengthError):
        RoutingPolicy().decide(SCORES, experts, pinned="code", requirements=Requirements(input_tokens=101))
    with pytest.raises(ConfigurationError, match="excluded"):
        RoutingPolicy(exclude=["code"]).decide(SCORES, experts, pinned="code")


@given(
    scores=st.dictionaries(st.sampled_from(sorted(SCORES)), st.floats(0, 1), min_size=1),
    policy=st.builds(
        RoutingPolicy,
        price_weight=st.floats(0, 1),
        edge=st.just("edge"),
        edge_threshold=st.floats(0, 1),
        max_price=st.none() | st.floats(2, 20),
    ),
    previous=st.none() | st.sampled_from(sorted(SCORES)),
)
def test_every_expert_that_can_be_asked_is_ranked_once(
    scores: dict[str, float], policy: RoutingPolicy, previous: str | None
) -> None:
    requirements = Requirements(input_tokens=1000, output_tokens=500)
    ranking = policy.decide(scores, PRICED, requirements=requirements, previous=previous).ranking
    limit = policy.max_price if policy.max_price is not None else float("inf")
    assert sorted(ranking) == sorted(name for name in PRICED if expected_price(PRICED[name], requirements) <= limit)
    assert sorted(ranking, key=lambda name: name not in scores) == list(ranking)


@given(
    scores=st.lists(st.floats(0, 1), min_size=5, max_size=5),
    policy=st.builds(
        RoutingPolicy,
        price_weight=st.sampled_from((0.0, 0.03)),
        latency_weight=st.sampled_from((0.0, 0.05)),
        max_price=st.none() | st.floats(2, 20),
        edge=st.just("edge"),
        edge_threshold=st.floats(0, 1),
    ),
    requirements=st.builds(
        Requirements,
        tools=st.booleans(),
        input_tokens=st.none() | st.integers(0, 3000),
        output_tokens=st.none() | st.integers(1, 600),
        counted=st.dictionaries(st.sampled_from(("a", "b")), st.integers(0, 3000)),
    ),
    previous=st.none() | st.sampled_from("abcde"),
)
def test_the_ranking_is_by_the_values_that_the_policy_promises(
    scores: list[float], policy: RoutingPolicy, requirements: Requirements, previous: str | None
) -> None:
    experts = ExpertPool(
        [
            Expert(name="a", input_price=1.0, output_price=3.0, context_window=2048),
            Expert(name="b", output_price=9.0, tags=["edge"]),
            Expert(name="c", context_window=1024, abilities=[]),
            Expert(name="d", tags=["edge"], input_price=0.5),
            Expert(name="e"),
        ]
    )
    estimates = {"a": Estimate(500, 2.0), "c": Estimate(50), "e": Estimate(None, 1.0)}
    by_name = dict(zip(experts, scores, strict=True))

    def fits(expert: Expert) -> bool:
        window = requirements.window(expert.name)
        return (expert.context_window is None or window is None or window <= expert.context_window) and (
            requirements.abilities <= expert.abilities
        )

    def price(expert: Expert) -> float:
        return expected_price(expert, requirements, estimates.get(expert.name, Estimate()).output_tokens)

    def value(expert: Expert) -> tuple[float, bool]:
        value = by_name[expert.name] - policy.price_weight * price(expert)
        value -= policy.latency_weight * (estimates.get(expert.name, Estimate()).seconds or 0)
        value += policy.edge_threshold if "edge" in expert.tags else 0
        return value + (policy.switch_margin if expert.name == previous else 0), "edge" in expert.tags

    usable = [e for e in experts.values() if fits(e) and (policy.max_price is None or price(e) <= policy.max_price)]
    decision = policy.decide(by_name, experts, requirements=requirements, previous=previous, estimates=estimates)
    assert decision.ranking == tuple(e.name for e in sorted(usable, key=value, reverse=True))
    assert dict(decision.prices) == {name: pytest.approx(price(experts[name])) for name in ("a", "b", "d")}
    as_arrays = policy.decide(
        Scores(experts.names, np.array(scores)),
        experts,
        requirements=requirements,
        previous=previous,
        estimates=Estimates.of(estimates, experts.names),
    )
    assert as_arrays == decision


def test_a_decision_can_be_copied_printed_and_sent_to_another_process() -> None:
    decision = RoutingPolicy().decide(
        SCORES, PRICED, requirements=Requirements(input_tokens=1000, counted={"code": 2000})
    )
    assert pickle.loads(pickle.dumps(decision)) == copy.deepcopy(decision) == decision
    assert "prices={'code': 2.5, 'large': 10.0}" in repr(decision)
    other = RoutingPolicy().decide(Scores(("large", "code", "small"), np.array([0.8, 0.7, 0.5])), PRICED)
    assert pickle.loads(pickle.dumps(other)) == copy.deepcopy(other) == RoutingPolicy().decide(SCORES, PRICED)
    assert "scores={'large': 0.8, 'code': 0.7, 'small': 0.5}" in repr(other)


def test_scores_are_told_to_six_places() -> None:
    scores = {"small": np.float32(0.1), "code": 1, "large": -0.12345678}
    rounded = RoutingPolicy().decide(scores, pool()).to_json()["scores"]
    assert json.dumps(rounded) == '{"small": 0.1, "code": 1.0, "large": -0.123457}'
