"""Serving in the environment without the train extra: both adapters, a router, and ONNX Runtime beside them."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.scripted_tgi import Fault, ScriptedTGI, Text
from tests.text_generation.words_knn import knn_router
from torouter import BestSingleRouter, Expert

pytest.importorskip("text_generation", reason="it has an environment of its own: make test-text-generation")

ROUTER = BestSingleRouter.of({"old": 0.9, "new": 0.5})


def experts(old: ScriptedTGI, new: ScriptedTGI) -> dict[str, Any]:
    return {"old": Expert(name="old", url=old.url, client="text-generation"), "new": new.url}


def test_this_environment_has_no_torch() -> None:
    assert find_spec("torch") is None
    assert find_spec("transformers") is None


def test_a_router_on_onnx_runtime_sends_each_query_to_its_expert(tgi: ScriptedTGI, tmp_path: Path) -> None:
    from langchain_torouter import RoutedChatModel

    with ScriptedTGI(model_id="test/new") as new:
        model = RoutedChatModel(router=knn_router(tmp_path), experts=experts(tgi, new))
        answers = model.batch(["some code please", "facts only"])
    assert [answer.response_metadata["routing"]["expert"] for answer in answers] == ["old", "new"]
    assert answers[0].text == " Hello from test/expert."


def test_the_native_client_answers_where_the_package_fails(tgi: ScriptedTGI) -> None:
    from langchain_torouter import RoutedChatModel

    with ScriptedTGI() as new:
        model = RoutedChatModel(router=ROUTER, experts=experts(tgi, new))
        tgi.script(Text("from the package"), Text("and streamed"), Fault.overloaded())
        new.script(Text("from the native client"))
        answer = model.invoke("Hi")
        assert (answer.text, answer.response_metadata["routing"]["expert"]) == ("from the package", "old")
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_tokens"] == 4
        assert "".join(chunk.text for chunk in model.stream("Hi")) == "and streamed"
        answer = model.invoke("Hi")
        assert (answer.text, answer.response_metadata["routing"]["expert"]) == ("from the native client", "new")


def test_a_request_with_tools_goes_to_an_expert_that_knows_them(tgi: ScriptedTGI) -> None:
    from langchain_torouter import RoutedChatModel

    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    with ScriptedTGI() as new:
        model = RoutedChatModel(router=ROUTER, experts=experts(tgi, new)).bind_tools([weather])
        assert model.invoke("Weather in Oslo?").response_metadata["routing"]["expert"] == "new"
        assert not [one for one in tgi.requests if one.method == "POST"]


def test_a_routed_llm_asks_through_the_package(tgi: ScriptedTGI) -> None:
    from llamaindex_torouter import RoutedLLM

    with ScriptedTGI() as new:
        llm = RoutedLLM(router=ROUTER, experts=experts(tgi, new))
        tgi.script(Text("whole"), Text("in steps"))
        assert llm.complete("Hi").text == "whole"
        assert [step.text for step in llm.stream_complete("Hi")][-1] == "in steps"
        assert {one.path for one in tgi.requests} >= {"/chat_tokenize", "/", "/generate_stream"}


def test_many_calls_at_once_get_their_own_answers(tgi: ScriptedTGI) -> None:
    from langchain_torouter import RoutedChatModel

    async def all_of_them() -> list[str]:
        model = RoutedChatModel(router=ROUTER, experts=experts(tgi, tgi))
        return [answer.text for answer in await asyncio.gather(*(model.ainvoke(f"Hi {n}") for n in range(20)))]

    assert asyncio.run(all_of_them()) == [" Hello from test/expert."] * 20
