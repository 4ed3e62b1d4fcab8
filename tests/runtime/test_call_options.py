"""Per-call keywords: what routing reads of them, what an expert is sent, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torouter.endpoints.tool_choice import normalized_tool_choice
from torouter.errors import ConfigurationError
from torouter.runtime.call_options import ROUTING_KEYWORDS, CallOptions

TOOL = {"type": "function", "function": {"name": "add", "parameters": {}}}
CHOSEN = {"type": "function", "function": {"name": "add"}}


def test_keywords_of_routing_are_not_sent() -> None:
    keywords: dict[str, Any] = dict.fromkeys(ROUTING_KEYWORDS, "x")
    options = CallOptions.of({"temperature": 0}, {**keywords, "timeout": 5, "stream": True}, ignored=("stream",))
    assert options.parameters == {"temperature": 0}
    assert [getattr(options, name) for name in (*ROUTING_KEYWORDS, "timeout")] == ["x"] * 5 + [5]


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "stop"]), st.none() | st.integers()), max_size=4))
def test_later_sources_override_earlier_ones_and_none_is_not_given(sources: list[dict[str, Any]]) -> None:
    expected: dict[str, Any] = {}
    for source in sources:
        expected |= {name: value for name, value in source.items() if value is not None}
    assert CallOptions.of(*sources).parameters == expected


def test_an_empty_routing_keyword_is_not_given() -> None:
    options = CallOptions.of({"routing_text": "", "model": ""})
    assert (options.routing_text, options.model) == (None, None)


@pytest.mark.parametrize(
    ("choice", "normal"),
    [
        (None, None),
        (False, None),
        (True, "required"),
        ("any", "required"),
        ("auto", "auto"),
        ("none", "none"),
        ("add", CHOSEN),
        (CHOSEN, CHOSEN),
    ],
)
def test_a_tool_choice_has_one_form(choice: Any, normal: Any) -> None:
    assert normalized_tool_choice(choice, ["add"]) == normal
    assert CallOptions.of({"tools": [TOOL], "tool_choice": choice}).tool_choice == normal


@pytest.mark.parametrize("choice", ["subtract", {"type": "function", "function": {"name": "subtract"}}, {"type": "x"}])
def test_a_choice_of_a_tool_that_is_not_offered_is_refused_with_those_that_are(choice: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"tool_choice=.* names no bound tool: use one of add"):
        CallOptions.of({"tools": [TOOL], "tool_choice": choice})


def test_a_tool_choice_without_tools_is_dropped() -> None:
    assert CallOptions.of({"tools": [], "tool_choice": "auto"}).request(()).tool_choice is None
