"""TGILLM: one endpoint, its dialects, retries, errors and secrets."""

from __future__ import annotations

from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from pydantic import ValidationError

from llamaindex_torouter import TGILLM
from tests.support.llamaindex_world import counter, listening
from tests.support.scripted_tgi import Fault, ScriptedTGI, Text
from torouter.errors import (
    ConfigurationError,
    ExpertAuthenticationError,
    ExpertConnectionError,
    ExpertNotFoundError,
    ExpertOverloadedError,
    ExpertTimeoutError,
    TruncatedReplyError,
)
from torouter.experts import Expert


def llm(server: ScriptedTGI, **fields: Any) -> TGILLM:
    return TGILLM(**{"base_url": server.url, "max_retries": 0, **fields})


def test_standard_parameters_reach_the_server(tgi: ScriptedTGI) -> None:
    llm(tgi, temperature=0.5, max_tokens=17, top_p=0.9, seed=3, stop=["END"]).complete("hello")
    body = tgi.requests[-1].body
    assert {name: body[name] for name in ("temperature", "max_tokens", "top_p", "seed", "stop")} == {
        "temperature": 0.5,
        "max_tokens": 17,
        "top_p": 0.9,
        "seed": 3,
        "stop": ["END"],
    }


def test_the_model_is_a_lora_adapter_of_tgi_and_the_served_model_elsewhere(tgi: ScriptedTGI) -> None:
    llm(tgi, model="my-lora").complete("hello")
    llm(tgi).complete("hello", model="other-lora")
    assert [request.body["model"] for request in tgi.requests] == ["my-lora", "other-lora"]
    with ScriptedTGI(api="openai", model_id="served") as vllm:
        assert llm(vllm, api="openai", model="served").complete("hello").raw["model"] == "served"
        with pytest.raises(ExpertNotFoundError):
            llm(vllm, api="openai", model="other").complete("hello")


def test_an_empty_token_in_the_environment_is_none(tgi: ScriptedTGI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TGI_API_KEY", "")
    llm(tgi).complete("hello")
    assert "authorization" not in tgi.requests[-1].headers


@pytest.mark.parametrize("given", ["argument", "environment"])
def test_the_token_goes_into_the_header_and_into_nothing_that_is_shown(
    given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ScriptedTGI(api_key="sk-canary") as server:
        if given == "environment":
            monkeypatch.setenv("TGI_API_KEY", "sk-canary")
            monkeypatch.setenv("TGI_BASE_URL", server.url)
            model = TGILLM()
        else:
            model = llm(server, api_key="sk-canary")
        with listening() as events:
            assert model.complete("hello").text
        shown = [repr(model), str(model.to_payload()), str(model.to_dict()), model.to_json(), *map(repr, events)]
        assert not [text for text in shown if "canary" in text]
        with pytest.raises(ExpertAuthenticationError) as caught:
            llm(server, api_key="sk-other-canary").complete("hello")
        assert "canary" not in repr(caught.value) + str(caught.value)


def test_a_passing_failure_is_tried_again_and_a_lasting_one_is_not(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.overloaded(), Fault.status(503))
    assert llm(tgi, max_retries=2).complete("hello").text
    tgi.script(Fault.overloaded_in_stream())
    assert list(llm(tgi, max_retries=1).stream_complete("hello"))[-1].text
    tgi.always(Fault.overloaded())
    with pytest.raises(ExpertOverloadedError):
        llm(tgi, max_retries=1).complete("hello")
    asked = len(tgi.requests)
    tgi.always(Fault.status(404))
    with pytest.raises(ExpertNotFoundError):
        llm(tgi, max_retries=2).complete("hello")
    assert len(tgi.requests) == asked + 1


def test_a_cut_stream_is_an_error_that_keeps_what_had_come(tgi: ScriptedTGI) -> None:
    tgi.script(Fault.cut(after=3, clean=True))
    with pytest.raises(TruncatedReplyError) as caught:
        list(llm(tgi).stream_complete("hello"))
    assert caught.value.partial_text


def test_no_server_and_no_answer_are_told_apart(tgi: ScriptedTGI) -> None:
    with pytest.raises(ExpertConnectionError):
        TGILLM(base_url="http://127.0.0.1:1", max_retries=0).complete("hello")
    tgi.script(Fault.slow_start())
    with pytest.raises(ExpertTimeoutError):
        llm(tgi).complete("hello", timeout=0.1)


async def test_the_token_counter_reads_the_servers_usage_once(tgi: ScriptedTGI) -> None:
    handler, manager = counter()
    model = llm(tgi, callback_manager=manager)
    usage = (await model.acomplete("hello")).raw["usage"]
    _ = [one async for one in await model.astream_chat([ChatMessage(role=MessageRole.USER, content="hello")])]
    assert handler.total_llm_token_count == 2 * usage["total_tokens"]


def test_log_probabilities_are_in_the_raw_answer(tgi: ScriptedTGI) -> None:
    for response in (llm(tgi).complete("hi", logprobs=True), list(llm(tgi).stream_complete("hi", logprobs=True))[-1]):
        tokens = [token["token"] for token in response.raw["logprobs"]["content"]]
        assert "".join(tokens[:-1]) == response.text  # the last one ends the text


def test_an_answer_may_hold_any_character(tgi: ScriptedTGI) -> None:
    tgi.always(Fault.raw_unicode())
    assert list(llm(tgi).stream_complete("hi"))[-1].text == llm(tgi).complete("hi").text


def test_metadata_say_what_was_declared(tgi: ScriptedTGI) -> None:
    metadata = llm(tgi, context_window=1234, abilities=[], model="my-lora", max_tokens=9).metadata
    assert (metadata.context_window, metadata.num_output, metadata.model_name) == (1234, 9, "my-lora")
    assert not metadata.is_function_calling_model


def test_a_wrong_argument_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="url='localhost:8080'"):
        TGILLM(base_url="localhost:8080")
    with pytest.raises(ValidationError, match="max_tokens"):
        TGILLM(base_url="http://127.0.0.1:1", max_tokens=0)


def test_an_empty_answer_is_an_empty_text(tgi: ScriptedTGI) -> None:
    tgi.script(Text(""))
    assert llm(tgi).complete("hello").text == ""


def test_an_llm_of_an_expert_has_all_of_its_description(tgi: ScriptedTGI) -> None:
    prefix = ({"role": "system", "content": "Be short."},)
    expert = Expert(name="short", url=tgi.url, prefix=prefix, parameters={"max_tokens": 9}, api_key="sk-canary")
    model = TGILLM.of_expert(expert, temperature=0)
    assert model.complete("hello").text
    body = tgi.requests[-1].body
    assert body["messages"][0] == prefix[0]
    assert (body["max_tokens"], body["temperature"]) == (9, 0)
    assert "canary" not in repr(model) + str(model.to_payload())
