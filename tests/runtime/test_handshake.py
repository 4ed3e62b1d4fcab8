"""The handshake: what a server says that it serves, held against what the router was trained for."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.exceptions import ModelNotFoundError

from langchain_torouter import RoutedChatModel
from tests.support.scripted_tgi import Fault, Raw, ScriptedTGI
from torouter.chat import ChatRequest
from torouter.dispatch import DispatchSettings, Served, Target
from torouter.errors import ConfigurationError, ContextLengthError, ExpertMismatchError
from torouter.experts import Expert, ExpertPool
from torouter.routers.baselines import BestSingleRouter
from torouter.routers.config import ExpertFacts, RouterConfig
from torouter.routing.requirements import Requirements
from torouter.runtime.routed_experts import RoutedExperts, RouteQuery

ASK = ChatRequest(({"role": "user", "content": "Hi"},), {"max_tokens": 8})
REFUSE = DispatchSettings(handshake="refuse")


@pytest.fixture
def other() -> Iterator[ScriptedTGI]:
    """A second server."""
    with ScriptedTGI(model_id="test/other") as server:
        yield server


def trained(**models: str | None) -> BestSingleRouter:
    """A router that was trained with these models, the first one being the best."""
    facts = tuple(ExpertFacts(name=name, model=model) for name, model in models.items())
    means = [1 / number for number, _ in enumerate(facts, start=1)]
    return BestSingleRouter(RouterConfig(kind="best-single", experts=facts, settings={"means": means}))


def routed(router: BestSingleRouter, *experts: Expert, settings: DispatchSettings = REFUSE) -> RoutedExperts:
    return RoutedExperts(router, ExpertPool(experts), settings=settings)


@dataclass
class Caller:
    """Asks as an adapter does; `until` has to be over before an expert answers."""

    experts: RoutedExperts
    until: Callable[[], Awaitable[object]] | None = None

    async def ask(self, target: Target) -> str:
        if self.until is not None:
            await self.until()
        return (await self.experts.endpoint(target).client.chat(ASK)).text

    async def ask_stream(self, target: Target) -> AsyncGenerator[str, None]:
        async for chunk in self.experts.endpoint(target).client.chat_stream(ASK):
            yield chunk.text

    async def call(self) -> Served[str]:
        decision = await self.experts.adecide(RouteQuery(text="Hi"))
        return await self.experts.call(decision, self.ask)


async def called(experts: RoutedExperts) -> Served[str]:
    return await Caller(experts).call()


class Warnings(logging.Handler):
    """Collects warnings and sets an event on its loop at the first."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.loop, self.event = asyncio.get_running_loop(), asyncio.Event()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.loop.call_soon_threadsafe(self.event.set)


@pytest.fixture
async def warnings() -> AsyncIterator[Warnings]:
    """Warnings of the handshake."""
    handler = Warnings()
    logging.getLogger("torouter.runtime.handshake").addHandler(handler)
    yield handler
    logging.getLogger("torouter.runtime.handshake").removeHandler(handler)


@pytest.mark.parametrize(
    ("before", "described", "reason"),
    [
        ("test/before", None, "the router was trained for 'test/before'"),
        (None, "test/wanted", "it is to serve 'test/wanted'"),
        ("test/expert", "test/wanted", "it is to serve 'test/wanted'"),
    ],
)
async def test_another_model_is_told_once_with_both_ids_and_answers_all_the_same(
    tgi: ScriptedTGI, warnings: Warnings, before: str | None, described: str | None, reason: str
) -> None:
    experts = routed(trained(a=before), Expert(name="a", url=tgi.url, model=described), settings=DispatchSettings())
    assert (await Caller(experts, until=warnings.event.wait).call()).expert == "a"
    await called(experts)
    assert warnings.messages == [f"expert 'a' at {tgi.url} serves 'test/expert', but {reason}"]
    assert len(tgi.gets) == 1


async def test_many_first_calls_at_once_ask_once(tgi: ScriptedTGI, warnings: Warnings) -> None:
    experts = routed(trained(a="test/before"), Expert(name="a", url=tgi.url), settings=DispatchSettings())
    await asyncio.gather(*(Caller(experts, until=warnings.event.wait).call() for _ in range(8)))
    assert (len(tgi.requests), len(tgi.gets), len(warnings.messages)) == (8, 1, 1)


async def test_an_answer_does_not_wait_for_a_server_that_tells_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        experts = routed(trained(a="test/before"), Expert(name="a", url=url), settings=DispatchSettings())

        async def ask(_: Target) -> str:
            return "answer"

        decision = experts.decide(RouteQuery(text="Hi"))
        assert (await experts.call(decision, ask)).value == "answer"
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_answer_that_comes_first_does_not_end_the_handshake(tgi: ScriptedTGI, warnings: Warnings) -> None:
    experts = routed(trained(a="test/before"), Expert(name="a", url=tgi.url), settings=DispatchSettings())

    async def ask(_: Target) -> str:
        return "answer"

    await experts.call(experts.decide(RouteQuery(text="Hi")), ask)
    await warnings.event.wait()
    assert len(tgi.gets) == 1


async def test_a_refused_expert_gets_no_request_and_the_next_one_answers(
    tgi: ScriptedTGI, other: ScriptedTGI, warnings: Warnings
) -> None:
    first, second = Expert(name="a", url=tgi.url), Expert(name="b", url=other.url)
    experts = routed(trained(a="test/before", b="test/other"), first, second)
    served = await called(experts)
    assert (served.expert, [attempt.error for attempt in served.attempts]) == ("b", ["ExpertMismatchError"])
    assert "serves 'test/expert', but the router was trained for 'test/before'" in served.attempts[0].message
    assert not tgi.requests
    assert [row.state for row in experts.health()] == ["cooling", "ready"]
    assert not warnings.messages


async def test_a_stream_is_refused_too(tgi: ScriptedTGI, other: ScriptedTGI) -> None:
    first, second = Expert(name="a", url=tgi.url), Expert(name="b", url=other.url)
    experts = routed(trained(a="test/before", b=None), first, second)
    decision = experts.decide(RouteQuery(text="Hi"))
    stream = await experts.open_stream(decision, Caller(experts).ask_stream)
    assert stream.expert == "b"
    assert "".join([piece async for piece in stream])
    assert not tgi.requests


async def test_with_nobody_else_the_call_fails_with_the_reason(tgi: ScriptedTGI) -> None:
    experts = routed(trained(a="test/before"), Expert(name="a", url=tgi.url))
    with pytest.raises(ExpertMismatchError, match=r"serves 'test/expert', but"):
        await called(experts)


def test_langchain_calls_it_a_model_that_is_not_found(tgi: ScriptedTGI) -> None:
    model = RoutedChatModel(router=trained(a="test/before"), experts={"a": tgi.url}, settings=REFUSE)
    with pytest.raises(ModelNotFoundError, match="test/before"):
        model.invoke("Hi")


async def test_a_mended_server_is_asked_again(tgi: ScriptedTGI) -> None:
    settings = DispatchSettings(handshake="refuse", access_cooldown=0)
    experts = routed(trained(a="test/fixed"), Expert(name="a", url=tgi.url), settings=settings)
    with pytest.raises(ExpertMismatchError):
        await called(experts)
    tgi.on_get("/info", info_of(model_id="test/fixed"))
    assert (await called(experts)).expert == "a"


async def test_off_asks_nobody(tgi: ScriptedTGI) -> None:
    settings = DispatchSettings(handshake="off")
    await called(routed(trained(a="test/before"), Expert(name="a", url=tgi.url), settings=settings))
    assert not tgi.gets


async def test_the_right_model_is_asked_once_and_letters_case_is_no_difference(tgi: ScriptedTGI) -> None:
    experts = routed(trained(a="Test/Expert"), Expert(name="a", url=tgi.url))
    await called(experts)
    await called(experts)
    assert (len(tgi.requests), len(tgi.gets)) == (2, 1)


@pytest.mark.parametrize("reply", [Raw(404), Raw(401), Raw(200, {"content-type": "text/html"}, b"<html>")])
async def test_a_server_that_does_not_tell_is_no_fault_and_is_asked_once(tgi: ScriptedTGI, reply: Raw) -> None:
    tgi.on_get("/info", reply)
    tgi.on_get("/v1/models", reply)
    experts = routed(trained(a="test/before"), Expert(name="a", url=tgi.url))
    await called(experts)
    asked = len(tgi.gets)
    await called(experts)
    assert len(tgi.gets) == asked


async def test_a_server_that_can_not_tell_now_is_asked_again(tgi: ScriptedTGI) -> None:
    tgi.on_get("/info", Fault.html_502())
    experts = routed(trained(a="test/before"), Expert(name="a", url=tgi.url))
    await called(experts)
    tgi.on_get("/info", info_of(model_id="test/expert"))
    with pytest.raises(ExpertMismatchError):
        await called(experts)


async def test_an_openai_server_is_known_by_its_models() -> None:
    with ScriptedTGI(api="openai", model_id="served/model", max_total_tokens=900) as server:
        expert = Expert(name="a", url=server.url, api="openai", model="served/model")
        experts = routed(trained(a="served/model"), expert)
        await called(experts)
        assert experts.experts["a"].context_window == 900
        with pytest.raises(ExpertMismatchError, match="serves 'served/model'"):
            await called(routed(trained(a="another/model"), expert))


async def test_limits_that_the_description_lacks_are_the_servers_own() -> None:
    with ScriptedTGI(max_concurrent_requests=3, max_total_tokens=700, max_input_tokens=699) as server:
        experts = routed(trained(a=None, b=None), Expert(name="a", url=server.url), Expert(name="b", url=server.url))
        assert experts.input_tokens(["long " * 1000]) is None
        await called(experts)
        assert experts.health()[0].limit == 3
        assert experts.experts["a"].context_window == 700
        needs = Requirements(input_tokens=experts.input_tokens(["long " * 1000]))
        assert experts.decide(RouteQuery(text="Hi", requirements=needs)).ranking == ("b",)
        with pytest.raises(ContextLengthError):
            experts.decide(RouteQuery(text="Hi", requirements=needs, pinned="a"))


async def test_the_default_length_of_an_answer_follows_the_window_that_became_known() -> None:
    with ScriptedTGI(max_total_tokens=700, max_input_tokens=699) as server:
        model = RoutedChatModel(router=trained(a=None), experts={"a": server.url}, settings=REFUSE)
        await model.ainvoke("Hi", max_tokens=8)
        await model.ainvoke("Hi")
        assert [request.body["max_tokens"] for request in server.requests] == [8, 350]


async def test_a_described_limit_stands() -> None:
    with ScriptedTGI(max_concurrent_requests=3, max_total_tokens=700, max_input_tokens=699) as server:
        expert = Expert(name="a", url=server.url, max_concurrency=5, context_window=900)
        experts = routed(trained(a=None), expert)
        await called(experts)
        assert (experts.health()[0].limit, experts.experts["a"].context_window) == (5, 900)


async def test_the_settings_limit_stands_where_the_server_takes_more(tgi: ScriptedTGI) -> None:
    settings = DispatchSettings(handshake="refuse", max_concurrency=2)
    experts = routed(trained(a=None), Expert(name="a", url=tgi.url), settings=settings)
    await called(experts)
    assert experts.health()[0].limit == 2


async def test_of_two_replicas_the_smaller_window_counts_and_each_has_its_own_limit() -> None:
    large = ScriptedTGI(max_concurrent_requests=4, max_total_tokens=900)
    small = ScriptedTGI(max_concurrent_requests=2, max_total_tokens=700)
    with large, small:
        experts = routed(trained(a=None), Expert(name="a", urls=[large.url, small.url]))
        both = asyncio.Barrier(2)  # so that each replica gets one of the calls
        await asyncio.gather(*(Caller(experts, until=both.wait).call() for _ in range(2)))
        assert [row.limit for row in experts.health()] == [4, 2]
        assert experts.experts["a"].context_window == 700


@pytest.mark.parametrize("wrong", ["yes", None, True])
def test_an_unknown_mode_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"handshake=.* use one of warn, refuse, off"):
        DispatchSettings(handshake=wrong)


def info_of(**facts: Any) -> Raw:
    return Raw(200, {"content-type": "application/json"}, json.dumps(facts).encode())
