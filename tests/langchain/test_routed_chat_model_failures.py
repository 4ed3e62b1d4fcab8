"""RoutedChatModel when experts fail, servers and LangChain's own models: who answers instead, and what is raised."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event
from typing import Any

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelAPIError, ModelInvalidRequestError, ModelTimeoutError
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from tests.support.langchain_world import World, merged
from tests.support.scripted_tgi import Fault
from torouter.errors import ExpertUnavailableError, NoExpertLeftError

# --- failover ---


@pytest.mark.parametrize(
    "fault",
    [
        Fault.overloaded(),
        Fault.status(503),
        Fault.status(500),
        Fault.html_502(),
        Fault.empty_401(),
        Fault.status(404),
        Fault.reset(),
        Fault.not_json(),
        Fault.validation("`inputs` must have less than 16 tokens. Given: 20"),
    ],
    ids=lambda fault: str(getattr(fault, "status", type(fault).__name__)),
)
@pytest.mark.parametrize("streamed", [False, True])
def test_the_next_expert_of_the_ranking_answers_when_the_first_cannot(world: World, fault: Any, streamed: bool) -> None:
    world.math.script(fault)
    answer = merged(list(world.model.stream("ask math"))) if streamed else world.model.invoke("ask math")
    routing = answer.response_metadata["routing"]
    assert routing["expert"] == "code"
    assert [attempt["expert"] for attempt in routing["failed_attempts"]] == ["math"]
    assert answer.response_metadata["model_name"] == "test/code"


def test_an_overload_inside_a_stream_before_its_first_token_fails_over(world: World) -> None:
    world.math.script(Fault.overloaded_in_stream())
    answer = merged(list(world.model.stream("ask math")))
    assert answer.response_metadata["routing"]["expert"] == "code"


@pytest.mark.parametrize("fault", [Fault.cut(after=2), Fault.error_midway(after=2)], ids=["cut", "error"])
async def test_a_stream_that_breaks_after_its_first_token_raises_with_what_had_come(world: World, fault: Any) -> None:
    world.math.script(fault)
    texts: list[str] = []
    with pytest.raises(ModelAPIError) as caught:  # noqa: PT012 - what came before the error counts too
        async for chunk in world.model.astream("ask math"):
            texts.append(chunk.text)  # noqa: PERF401 - a comprehension would lose them all
    assert getattr(caught.value, "partial_text", None) == "".join(texts) != ""
    assert not world.code.requests


def test_a_wrong_request_is_raised_at_once(world: World) -> None:
    world.math.script(Fault.validation("`top_p` must be > 0.0 and < 1.0"))
    with pytest.raises(ModelInvalidRequestError):
        world.model.invoke("ask math")
    assert not world.code.requests


def test_when_nobody_is_left_one_error_lists_every_attempt(world: World) -> None:
    world.math.always(Fault.overloaded())
    world.code.always(Fault.status(503))
    with pytest.raises(NoExpertLeftError) as caught:
        world.again(max_retries=0).invoke("ask math")
    assert isinstance(caught.value, ModelAPIError)
    assert {attempt.expert for attempt in caught.value.attempts} == {"code", "math"}
    assert "math" in str(caught.value)
    assert "code" in str(caught.value)


def test_the_timeout_is_one_deadline_over_all_experts(world: World) -> None:
    world.math.always(Fault.slow_start())
    world.code.always(Fault.slow_start())
    with pytest.raises(ModelTimeoutError):
        world.again(timeout=0.2).invoke("ask math")


def test_input_that_fits_nowhere_is_a_context_error(world: World) -> None:
    for server in (world.math, world.code):
        server.always(Fault.validation("`inputs` must have less than 16 tokens. Given: 20"))
    with pytest.raises(ContextOverflowError):
        world.model.invoke("ask math")


def test_an_abandoned_stream_gives_its_connection_back(world: World) -> None:
    world.math.script(Fault.stall(after=1))
    stream = world.model.stream("ask math")
    next(stream)
    stream.close()  # type: ignore[attr-defined]  # it is a generator
    world.math.wait_until(lambda: world.math.in_flight == 0)


async def test_an_abandoned_asynchronous_stream_gives_its_connection_back(world: World) -> None:
    world.math.script(Fault.stall(after=1))
    stream = world.model.astream("ask math")
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]  # it is a generator
    await world.math.until(lambda: world.math.in_flight == 0)


# --- LangChain models as experts ---


async def test_a_chat_model_expert_streams_and_fails_over_like_any_other(world: World) -> None:
    class Broken(GenericFakeChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise ModelAPIError("down")

    model = world.again(experts={"code": world.code.url, "math": Broken(messages=iter([]))})
    answer = await model.ainvoke("ask math")
    assert answer.response_metadata["routing"]["expert"] == "code"
    assert answer.response_metadata["routing"]["failed_attempts"][0]["expert"] == "math"
    working = world.again(
        experts={"code": world.code.url, "math": GenericFakeChatModel(messages=iter([AIMessage("one two")]))}
    )
    assert [chunk.text async for chunk in working.astream("ask math")][:3] == ["one", " ", "two"]


class Steps(FakeListChatModel):
    """Streams synchronously: each text at once, an exception raised, an event waited for."""

    steps: list[Any]

    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for step in self.steps:
            if isinstance(step, Exception):
                raise step
            if isinstance(step, Event):
                step.wait()
            else:
                yield ChatGenerationChunk(message=AIMessageChunk(content=step))


def test_a_chat_model_that_stalls_before_its_first_token_is_given_up_for_the_next_expert(world: World) -> None:
    released = Event()
    stalled = Steps(responses=[], steps=[released, "late"])
    model = world.again(experts={"code": world.code.url, "math": stalled}, timeout=1.0)
    try:
        assert merged(list(model.stream("ask math"))).response_metadata["routing"]["expert"] == "code"
    finally:
        released.set()


@pytest.mark.parametrize("end", [ConnectionResetError("cut"), Event()])
def test_a_chat_models_stream_that_breaks_raises_with_what_had_come(world: World, end: Any) -> None:
    broken = Steps(responses=[], steps=["one", " two", end])
    model = world.again(experts={"code": world.code.url, "math": broken}, timeout=0.3)
    try:
        with pytest.raises(ExpertUnavailableError) as caught:
            list(model.stream("ask math"))
    finally:
        if isinstance(end, Event):
            end.set()
    assert caught.value.partial_text == "one two"


def test_a_bug_in_a_chat_model_is_raised_as_it_is(world: World) -> None:
    class Buggy(FakeListChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            raise ZeroDivisionError

    model = world.again(experts={"code": world.code.url, "math": Buggy(responses=[])})
    with pytest.raises(ZeroDivisionError):
        model.invoke("ask math")
    assert not world.code.requests
