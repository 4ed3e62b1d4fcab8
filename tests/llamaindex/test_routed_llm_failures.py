"""RoutedLLM when experts fail, servers and LlamaIndex's own LLMs: who answers instead, and what is raised."""

from __future__ import annotations

from dataclasses import replace
from threading import Event
from typing import Any

import pytest
from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen

from llamaindex_torouter import RoutedLLM
from tests.support.llamaindex_world import Sure, World, routing, user
from tests.support.scripted_tgi import Fault
from tests.support.word_router import WordRouter
from torouter.dispatch import DispatchSettings
from torouter.errors import (
    ContextLengthError,
    DeadlineExceededError,
    ExpertError,
    ExpertRequestError,
    ExpertUnavailableError,
    NoExpertLeftError,
)

# --- failover ---


@pytest.mark.parametrize("fault", [Fault.overloaded(), Fault.html_502(), Fault.empty_401(), Fault.reset()])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_next_expert_answers_when_the_first_cannot(world: World, fault: Any, streamed: bool) -> None:
    world.math.script(fault)
    response = list(world.llm.stream_complete("ask math"))[-1] if streamed else world.llm.complete("ask math")
    assert routing(response)["expert"] == "code"
    assert [attempt["expert"] for attempt in routing(response)["failed_attempts"]] == ["math"]


async def test_a_stream_that_breaks_after_its_first_token_raises_with_what_had_come(world: World) -> None:
    world.math.script(Fault.cut(after=3))
    texts: list[str] = []
    with pytest.raises(ExpertError) as caught:  # noqa: PT012 - what came before the error counts too
        async for response in await world.llm.astream_complete("ask math"):
            texts.append(response.text)  # noqa: PERF401 - a comprehension would lose them all
    assert caught.value.partial_text == texts[-1] != ""
    assert world.asked == (0, 1)


def test_a_wrong_request_is_raised_at_once(world: World) -> None:
    world.math.script(Fault.validation("`top_p` must be > 0.0 and < 1.0"))
    with pytest.raises(ExpertRequestError):
        world.llm.complete("ask math")
    assert world.asked == (0, 1)


def test_when_nobody_is_left_one_error_lists_every_attempt(world: World) -> None:
    world.math.always(Fault.overloaded())
    world.code.always(Fault.status(503))
    with pytest.raises(NoExpertLeftError) as caught:
        list(world.again(max_retries=0).stream_complete("ask math"))
    assert {attempt.expert for attempt in caught.value.attempts} == {"code", "math"}


def test_a_model_can_try_all_experts_again(world: World) -> None:
    quick = DispatchSettings(cooldown=0.01)
    for llm in (world.again(settings=quick, max_retries=2), world.again(settings=replace(quick, rounds=3))):
        world.math.script(Fault.overloaded())
        world.code.script(Fault.overloaded())
        assert llm.complete("ask math").text
    world.math.always(Fault.overloaded())
    world.code.always(Fault.overloaded())
    with pytest.raises(NoExpertLeftError):
        world.again(max_retries=0).complete("ask math")


def test_the_timeout_is_one_deadline_over_all_experts(world: World) -> None:
    world.math.always(Fault.slow_start())
    world.code.always(Fault.slow_start())
    with pytest.raises(DeadlineExceededError):
        world.again(timeout=0.2).complete("ask math")
    with pytest.raises(DeadlineExceededError):
        world.llm.complete("ask math", timeout=0.2)


def test_input_that_fits_nowhere_is_a_context_error(world: World) -> None:
    for server in (world.math, world.code):
        server.always(Fault.validation("`inputs` must have less than 16 tokens. Given: 20"))
    with pytest.raises(ContextLengthError):
        world.llm.complete("ask math")


async def test_an_abandoned_stream_gives_its_connection_back(world: World) -> None:
    world.math.script(Fault.stall(after=2), Fault.stall(after=2))
    stream = world.llm.stream_complete("ask math")
    next(stream)
    del stream
    await world.math.until(lambda: world.math.in_flight == 0)
    chat = await world.llm.astream_chat(user("ask math"))
    await anext(chat)
    await chat.aclose()
    await world.math.until(lambda: world.math.in_flight == 0)


# --- LlamaIndex's LLMs as experts ---


class _StatusError(Exception):
    """What openai, anthropic and httpx raise: an exception with a status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status}")
        self.status_code = status


class APIConnectionError(Exception):
    """What openai and anthropic call a lost connection."""


@pytest.mark.parametrize(
    "failure", [TimeoutError(), ConnectionResetError(), _StatusError(429), _StatusError(500), APIConnectionError()]
)
def test_an_llms_failure_that_may_pass_fails_over(world: World, failure: Exception) -> None:
    llm = world.again(experts={"code": world.code.url, "math": Sure(failure=failure)})
    assert routing(llm.complete("ask math"))["expert"] == "code"


class Steps(Sure):
    """Streams synchronously: each text at once, an exception raised, an event waited for."""

    steps: list[Any]

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def steps() -> CompletionResponseGen:
            text = ""
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Event):
                    step.wait()
                else:
                    text += step
                    yield CompletionResponse(text=text, delta=step)

        return steps()


def test_an_llm_that_stalls_before_its_first_token_is_given_up_for_the_next_expert(world: World) -> None:
    released = Event()
    llm = world.again(experts={"code": world.code.url, "math": Steps(steps=[released, "late"])}, timeout=1.0)
    try:
        assert routing(list(llm.stream_chat(user("ask math")))[-1])["expert"] == "code"
    finally:
        released.set()


@pytest.mark.parametrize("end", [ConnectionResetError("cut"), Event()])
def test_an_llms_stream_that_breaks_raises_with_what_had_come(world: World, end: Any) -> None:
    llm = world.again(experts={"code": world.code.url, "math": Steps(steps=["one", " two", end])}, timeout=0.3)
    try:
        with pytest.raises(ExpertUnavailableError) as caught:
            list(llm.stream_chat(user("ask math")))
    finally:
        if isinstance(end, Event):
            end.set()
    assert caught.value.partial_text == "one two"


def test_a_routed_llm_as_expert_whose_own_experts_have_all_failed_is_given_up_for_the_next(world: World) -> None:
    inner = RoutedLLM(
        router=WordRouter.named({"small": 0.5}),
        experts={"small": Sure(failure=TimeoutError())},
        settings=DispatchSettings(),
    )
    llm = world.again(experts={"code": world.code.url, "math": inner})
    assert routing(llm.complete("ask math"))["expert"] == "code"


def test_an_llms_wrong_request_or_bug_is_raised_as_it_is(world: World) -> None:
    with pytest.raises(ExpertRequestError):
        world.again(experts={"code": world.code.url, "math": Sure(failure=_StatusError(400))}).complete("ask math")
    with pytest.raises(ZeroDivisionError):
        world.again(experts={"code": world.code.url, "math": Sure(failure=ZeroDivisionError())}).complete("ask math")
    assert world.asked == (0, 0)
