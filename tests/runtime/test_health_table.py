"""Health that people see: both adapters' tables of replicas."""

from __future__ import annotations

import pytest

from tests.support.adapter_calls import Framework, ask, model_of
from tests.support.scripted_tgi import Fault, ScriptedTGI
from torouter.dispatch import DispatchSettings, ReplicaSnapshot
from torouter.experts import Expert
from torouter.routers.baselines import BestSingleRouter

frameworks = pytest.mark.parametrize("framework", ["langchain", "llamaindex"])


@frameworks
def test_a_model_shows_each_replicas_state(tgi: ScriptedTGI, framework: Framework) -> None:
    with ScriptedTGI() as other:
        model = model_of(
            framework,
            router=BestSingleRouter.of({"a": 0.9, "b": 0.5}),
            experts={"a": Expert(name="a", url=tgi.url, max_concurrency=4), "b": other.url},
            settings=DispatchSettings(max_concurrency=None, handshake="off"),
        )
        tgi.script(Fault.overloaded())
        assert ask(model, "Hi", streamed=False).text
        a, b = model.health()
    assert isinstance(a, ReplicaSnapshot)
    assert (a.expert, a.url, a.state, a.in_flight, a.limit) == ("a", tgi.url, "cooling", 0, 4)
    assert (a.answered, a.failed, a.last_error) == (0, 1, "ExpertOverloadedError")
    assert (b.state, b.answered, b.failed, b.limit) == ("ready", 1, 0, None)
    assert b.seconds is not None


def test_health_prints_as_a_table_and_shows_as_one_in_a_notebook(tgi: ScriptedTGI) -> None:
    model = model_of("langchain", router=BestSingleRouter.of({"<a>": 0.9}), experts={"<a>": tgi.url})
    tgi.script(Fault.status(503))
    ask(model, "Hi", streamed=False)
    health = model.health()
    head, row = str(health).splitlines()
    assert head.split()[:3] == ["expert", "url", "state"]
    assert row.split()[:2] == ["<a>", tgi.url]
    html = health._repr_html_()
    assert "&lt;a&gt;" in html
    assert "<a>" not in html
    assert html.count("<tr>") == 2


def test_health_holds_no_token(tgi: ScriptedTGI) -> None:
    experts = {"a": Expert(name="a", url=tgi.url, api_key="canary-7")}
    health = model_of("langchain", router=BestSingleRouter.of({"a": 0.9}), experts=experts).health()
    assert "canary-7" not in f"{health!r}{health}{health._repr_html_()}"
