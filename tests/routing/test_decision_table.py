"""How a notebook shows a decision."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from tests.support.word_router import WordRouter
from torouter.experts import Expert, ExpertPool
from torouter.routing.decision import RouteDecision
from torouter.runtime.routed_experts import RoutedExperts, RouteQuery


def rows(decision: RouteDecision) -> list[list[str]]:
    """The text of each cell of the table's body."""
    table = ET.fromstring(decision._repr_html_())
    return [["".join(cell.itertext()) for cell in row] for row in table.iterfind("tbody/tr")]


def widths(decision: RouteDecision) -> list[str]:
    table = ET.fromstring(decision._repr_html_())
    return [bar.attrib["style"].split(";")[0] for bar in table.iter("div")]


def test_experts_are_in_order_with_scores_bars_and_prices() -> None:
    decision = RouteDecision(
        ranking=("math", "code"),
        scores={"code": 0.25, "math": 0.5, "facts": 0.75},
        prices={"math": 0.032, "code": 2.0},
    )
    assert rows(decision) == [
        ["math", "", "0.500", "0.032"],
        ["code", "", "0.250", "2"],
        ["facts (not asked)", "", "0.750", ""],
    ]
    assert widths(decision) == ["width:80px", "width:40px", "width:120px"]


def test_names_cannot_bring_markup_with_them() -> None:
    name = "<img src=x onerror='alert(1)'>&"
    decision = RouteDecision(ranking=(name,), scores={name: 1.0}, reason="<b>")
    assert "<img" not in decision._repr_html_()
    assert rows(decision)[0][0] == name


def test_scores_beyond_one_and_below_zero_fit_into_the_bars() -> None:
    decision = RouteDecision(ranking=("a", "b", "c"), scores={"a": 2.0, "b": -1.0})
    assert widths(decision) == ["width:160px", "width:0px"]
    assert rows(decision)[2][2] == "no score"


def test_a_decision_knows_what_each_expert_is_expected_to_cost() -> None:
    pool = ExpertPool([Expert(name="code", input_price=1.0, output_price=2.0), Expert(name="math")])
    decision = RoutedExperts(WordRouter.named({"code": 0.6, "math": 0.5}), pool).decide(RouteQuery(text="hello"))
    assert decision.prices == {"code": (200 * 1.0 + 250 * 2.0) / 1000}
    assert len(rows(decision)) == 2
