"""A policy is a value: it compares, combines and is written to files; and how many tokens it takes a text for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.priced_experts import PRICED
from torouter.errors import ConfigurationError
from torouter.routing.policy import RoutingPolicy
from torouter.routing.requirements import estimate_tokens


def test_policies_compare_print_and_combine() -> None:
    cheap = RoutingPolicy(price_weight=0.05, exclude=["large"])
    assert repr(cheap) == "RoutingPolicy(price_weight=0.05, exclude=['large'])"
    assert repr(RoutingPolicy()) == "RoutingPolicy()"
    both = cheap | RoutingPolicy(max_seconds=3, exclude=["small"])
    assert both == RoutingPolicy(price_weight=0.05, max_seconds=3, exclude=["small", "large"])
    assert hash(both) == hash(RoutingPolicy(price_weight=0.05, max_seconds=3, exclude=["large", "small"]))
    assert cheap.replace(price_weight=0.1).price_weight == 0.1
    with pytest.raises(AttributeError):
        cheap.price_weight = 1  # type: ignore[misc]


def test_a_policy_survives_plain_data_and_yaml(tmp_path: Path) -> None:
    policy = RoutingPolicy(
        edge="edge", edge_threshold=0.1, default_expert="code", min_confidence=0.4, exclude=["small"]
    )
    assert RoutingPolicy.from_mapping(policy.to_mapping()) == policy
    file = tmp_path / "policy.yaml"
    file.write_text("price_weight: 0.05\nexclude: [small]\n", encoding="utf-8")
    assert RoutingPolicy.from_yaml(file) == RoutingPolicy(price_weight=0.05, exclude=["small"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("price_wieght: 1", "'price_wieght'"),
        ("price_weight: -1", "price_weight=-1"),
        ("- price_weight", "one mapping"),
        ("price_weight: [", "YAML"),
    ],
)
def test_a_wrong_policy_file_is_one_error_that_names_file_and_field(tmp_path: Path, text: str, part: str) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=r"policy\.yaml") as caught:
        RoutingPolicy.from_yaml(file)
    assert part in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"absent\.yaml"):
        RoutingPolicy.from_yaml(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "fields",
    [
        {"price_weight": float("nan")},
        {"latency_weight": "fast"},
        {"max_price": -1},
        {"max_seconds": True},
        {"edge": ""},
        {"edge_threshold": 0.1},
        {"default_expert": "a"},
        {"min_confidence": 0.5},
        {"exclude": "small"},
    ],
)
def test_wrong_fields_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="RoutingPolicy: "):
        RoutingPolicy(**fields)


def test_check_finds_names_and_tags_that_no_expert_has() -> None:
    for policy in (
        RoutingPolicy(exclude=["gone"]),
        RoutingPolicy(default_expert="gone", min_confidence=0.5),
        RoutingPolicy(edge="gone"),
    ):
        with pytest.raises(ConfigurationError, match="'gone'"):
            policy.check(PRICED)
    RoutingPolicy(edge="edge", exclude=["code"]).check(PRICED)


# Token estimates


@pytest.mark.parametrize(
    ("text", "tokens"),  # about what a usual tokenizer makes of it
    [
        ("", 0),
        ("The quick brown fox jumps over the lazy dog.", 10),
        ("def add(a, b):\n    return a + b\n", 13),
        ("Two trains 120 km apart move at 45.5 km/h and 30 km/h.", 19),
        ("私は学生です。", 7),
    ],
)
def test_a_token_estimate_is_near_and_rather_too_low(text: str, tokens: int) -> None:
    assert 0.7 * tokens <= estimate_tokens(text) + 1 <= 1.1 * tokens + 1


def test_the_estimate_of_a_huge_text_looks_at_all_of_it_and_at_no_more_than_a_part() -> None:
    words, digits = "a plain sentence of words. " * 20_000, "3.14159265 " * 20_000
    whole = sum(estimate_tokens(text[i : i + 30_000]) for text in (words, digits) for i in range(0, len(text), 30_000))
    assert estimate_tokens(words + digits) == pytest.approx(whole, rel=0.05)
