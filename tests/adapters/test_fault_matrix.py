"""Every fault of the scripted server, in every way of asking: it ends as the failure table says and leaves nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from langchain_core.tracers.run_collector import RunCollectorCallbackHandler

from tests.support.adapter_calls import Framework, Received, aask, ask, model_of
from tests.support.llamaindex_world import listening
from tests.support.scripted_tgi import Fault, ScriptedTGI, Text
from tests.support.scripted_tgi.replies import JSON, Mishap, Reply
from tests.support.word_router import WordRouter
from torouter.dispatch import DispatchSettings
from torouter.endpoints import Timeouts, http_sessions
from torouter.errors import (
    ContextLengthError,
    ExpertAuthenticationError,
    ExpertConnectionError,
    ExpertError,
    ExpertGenerationError,
    ExpertNotFoundError,
    ExpertOverloadedError,
    ExpertPermissionError,
    ExpertProtocolError,
    ExpertRequestError,
    ExpertServerError,
    ExpertTimeoutError,
    TruncatedReplyError,
)
from torouter.experts import Expert
from torouter.runtime import background

PROMPT = "a private question"
TOKENS = {"first": ("alpha", " one", " two", " three"), "second": ("omega", " four", " five", " six")}
TEXT = {name: "".join(tokens) for name, tokens in TOKENS.items()}
CANARY = {"first": "canary-of-the-first-7d", "second": "canary-of-the-second-7d"}


@dataclass(frozen=True)
class World:
    """Two experts whose servers want their own token."""

    first: ScriptedTGI
    second: ScriptedTGI

    @property
    def servers(self) -> dict[str, ScriptedTGI]:
        return {"first": self.first, "second": self.second}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ScriptedTGI(api_key=CANARY["first"]) as first, ScriptedTGI(api_key=CANARY["second"]) as second:
        world = World(first, second)
        for name, server in world.servers.items():
            server.answer = lambda _, tokens=TOKENS[name]: Text(pieces=tokens)
        for framework in ("langchain", "llamaindex"):  # each starts threads that stay
            Case(world, framework).ask(streamed=True)
        yield world


@dataclass(frozen=True)
class Next:
    """The second expert answers, and the first cools down, except where its window was too small."""

    error: type[ExpertError]


@dataclass(frozen=True)
class Raised:
    """The error is raised at once, and no expert cools down."""

    error: type[ExpertError]


@dataclass(frozen=True)
class Broken:
    """The stream ends with this error after what had come: `tokens` of them, or as many as were read before."""

    error: type[ExpertError]
    tokens: int | None = 2


@dataclass(frozen=True)
class Whole:
    """The first expert answers."""

    text: str = TEXT["first"]


Outcome = Next | Raised | Broken | Whole


def stopped(world: World) -> None:
    world.first.stop()


def elsewhere(world: World) -> Reply:
    return Fault.redirect(f"{world.second.url}/elsewhere")


TOO_LONG = "`inputs` must have less than 4095 tokens. Given: 5000"
WRONG = "`temperature` must be strictly positive"
ODD = Fault.raw_unicode()

FAULTS: dict[str, tuple[Reply | Callable[[World], Reply | None], Outcome, Outcome]] = {
    # The fault, how a call ends and how a stream ends. The first word is the fault's name in `Fault`.
    "status 400": (Fault.status(400), Raised(ExpertRequestError), Raised(ExpertRequestError)),
    "status 403": (Fault.status(403), Next(ExpertPermissionError), Next(ExpertPermissionError)),
    "status 404": (Fault.status(404), Next(ExpertNotFoundError), Next(ExpertNotFoundError)),
    "status 408": (Fault.status(408), Next(ExpertTimeoutError), Next(ExpertTimeoutError)),
    "status 413": (Fault.status(413), Next(ContextLengthError), Next(ContextLengthError)),
    "status 424": (Fault.status(424), Next(ExpertGenerationError), Next(ExpertGenerationError)),
    "status 500": (Fault.status(500), Next(ExpertGenerationError), Next(ExpertGenerationError)),
    "status 503": (Fault.status(503), Next(ExpertServerError), Next(ExpertServerError)),
    "status 504": (Fault.status(504), Next(ExpertServerError), Next(ExpertServerError)),
    "overloaded": (Fault.overloaded(), Next(ExpertOverloadedError), Next(ExpertOverloadedError)),
    "overloaded_in_stream": (
        *(Fault.overloaded_in_stream(), Next(ExpertOverloadedError), Next(ExpertOverloadedError)),
    ),
    "validation too long": (Fault.validation(TOO_LONG), Next(ContextLengthError), Next(ContextLengthError)),
    "validation wrong": (Fault.validation(WRONG), Raised(ExpertRequestError), Raised(ExpertRequestError)),
    "plain_422": (Fault.plain_422(), Raised(ExpertRequestError), Raised(ExpertRequestError)),
    "incomplete_generation": (
        *(Fault.incomplete_generation(), Next(ExpertGenerationError), Next(ExpertGenerationError)),
    ),
    "error_midway first": (Fault.error_midway(0), Next(ExpertGenerationError), Next(ExpertGenerationError)),
    "error_midway later": (Fault.error_midway(2), Next(ExpertGenerationError), Broken(ExpertGenerationError)),
    "cut first": (Fault.cut(0), Next(TruncatedReplyError), Next(TruncatedReplyError)),
    "cut later": (Fault.cut(2), Next(TruncatedReplyError), Broken(TruncatedReplyError, tokens=None)),
    "cut clean first": (Fault.cut(0, clean=True), Next(ExpertProtocolError), Next(TruncatedReplyError)),
    "cut clean later": (Fault.cut(2, clean=True), Next(ExpertProtocolError), Broken(TruncatedReplyError)),
    "no_done": (Fault.no_done(), Whole(), Whole()),
    "stall first": (Fault.stall(0), Next(ExpertTimeoutError), Next(ExpertTimeoutError)),
    "stall later": (Fault.stall(2), Next(ExpertTimeoutError), Broken(ExpertTimeoutError)),
    "slow_start": (Fault.slow_start(), Next(ExpertTimeoutError), Next(ExpertTimeoutError)),
    "keep_alive": (Fault.keep_alive(3), Whole(), Whole()),
    "raw_unicode": (ODD, Whole("".join(ODD.pieces)), Whole("".join(ODD.pieces))),
    "html_502": (Fault.html_502(), Next(ExpertServerError), Next(ExpertServerError)),
    "empty_401": (Fault.empty_401(), Next(ExpertAuthenticationError), Next(ExpertAuthenticationError)),
    "not_json": (Fault.not_json(), Next(ExpertProtocolError), Next(ExpertProtocolError)),
    "oversized_body": (Fault.oversized_body(), Next(ExpertProtocolError), Next(ExpertProtocolError)),
    "oversized_event": (Fault.oversized_event(), Next(ExpertProtocolError), Next(ExpertProtocolError)),
    "redirect": (elsewhere, Next(ExpertNotFoundError), Next(ExpertNotFoundError)),
    "reset": (Fault.reset(), Next(ExpertConnectionError), Next(ExpertConnectionError)),
    "bytes a token's echo": (
        Fault.bytes(401, JSON, f'{{"error":"wrong key {CANARY["first"]}"}}'.encode()),
        *(Next(ExpertAuthenticationError), Next(ExpertAuthenticationError)),
    ),
    "nobody listens": (stopped, Next(ExpertConnectionError), Next(ExpertConnectionError)),
}


class Case:
    """One model over the two experts, and all that it shows of itself."""

    def __init__(self, world: World, framework: Framework, *, silent: bool = False) -> None:
        self.world = world
        self.runs = RunCollectorCallbackHandler()
        experts = {
            name: Expert(name=name, url=server.url, api_key=CANARY[name]) for name, server in world.servers.items()
        }
        self.model = model_of(
            framework,
            router=WordRouter.named({"first": 0.6, "second": 0.5}),
            experts=experts,
            # Where silence is the fault, the first expert may take 0.3 s while the second is ready.
            settings=DispatchSettings(deadline=30, attempt_share=0.01 if silent else 0.5, cooldown=30),
            timeouts=Timeouts(idle=1 if silent else 30),
        )

    def ask(self, *, streamed: bool) -> Received:
        return ask(self.model, PROMPT, streamed=streamed, callbacks=[self.runs])

    async def aask(self, *, streamed: bool) -> Received:
        return await aask(self.model, PROMPT, streamed=streamed, callbacks=[self.runs])

    def shown(self, *received: Received) -> str:
        """Everything that a log, a trace or a debugger could get hold of."""
        texts = [repr(self.model), str(self.model), repr(self.model._routed.dispatcher.snapshot())]
        texts += [repr(run.model_dump()) for run in self.runs.traced_runs]
        for one in received:
            texts.append(f"{one} {one.error}")
            if one.error is not None:
                trace = traceback.TracebackException.from_exception(one.error, capture_locals=True)
                texts += trace.format()
        return "\n".join(texts)


@pytest.mark.parametrize("framework", ["langchain", "llamaindex"])
@pytest.mark.parametrize("streamed", [False, True], ids=["call", "stream"])
@pytest.mark.parametrize("way", ["sync", "async"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_as_the_failure_table_says_and_leaves_nothing(
    world: World, caplog: pytest.LogCaptureFixture, name: str, way: str, streamed: bool, framework: Framework
) -> None:
    caplog.set_level(logging.DEBUG)
    fault, *outcomes = FAULTS[name]
    outcome = outcomes[streamed]
    for server in world.servers.values():
        server.requests.clear()
    case = Case(world, framework, silent=isinstance(fault, Mishap) and fault.then in ("hold", "stall"))
    threads = set(threading.enumerate())
    reply = fault(world) if callable(fault) else fault
    if reply is not None:
        world.first.script(reply)

    with listening() as events:
        if way == "sync":
            received, after = case.ask(streamed=streamed), case.ask(streamed=streamed)
            loop = background.background_loop()
            assert not asyncio.run_coroutine_threadsafe(_unfinished_tasks(), loop).result(30)
            _check_connections(world, loop)
        else:
            received, after = asyncio.run(_asked(case, streamed=streamed))
    assert set(threading.enumerate()) <= threads
    if fault is stopped:
        world.first.start()

    _check(received, outcome)
    _check_next_call(world, after, outcome)
    shown = case.shown(received, after) + caplog.text + "".join(repr(event.model_dump()) for event in events)
    for name, server in world.servers.items():
        assert {request.headers.get("Authorization") for request in server.requests} <= {f"Bearer {CANARY[name]}"}
        assert {request.path for request in server.requests} <= {"/v1/chat/completions"}
        assert CANARY[name] not in shown
    assert PROMPT not in caplog.text
    assert not any(text in caplog.text for text in TEXT.values())


async def _unfinished_tasks() -> set[asyncio.Task[Any]]:
    """The loop's other tasks that do not end by themselves: a handshake may outlast the answer that it ran beside."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return (await asyncio.wait(others, timeout=5))[1] if others else set()


async def _asked(case: Case, *, streamed: bool) -> tuple[Received, Received]:
    received, after = await case.aask(streamed=streamed), await case.aask(streamed=streamed)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    await asyncio.to_thread(_check_connections, case.world, asyncio.get_running_loop())
    return received, after


def _check_connections(world: World, loop: asyncio.AbstractEventLoop) -> None:
    """No call goes on, at either end; what connections are open are idle."""
    for server in world.servers.values():
        server.wait_until(lambda server=server: server.in_flight == server.held == 0)
    session, _ = http_sessions._open[loop]
    assert not session.connector._acquired  # aiohttp has no public word for it


def _check(received: Received, outcome: Outcome) -> None:
    error = received.error
    if isinstance(outcome, Whole | Next):
        assert error is None, traceback.format_exception(error)
        assert received.text == (TEXT["second"] if isinstance(outcome, Next) else outcome.text)
        assert received.routing is not None
        assert received.routing["expert"] == ("second" if isinstance(outcome, Next) else "first")
        failed = [(attempt["expert"], attempt["error"]) for attempt in received.routing["failed_attempts"]]
        assert failed == ([("first", outcome.error.__name__)] if isinstance(outcome, Next) else [])
        return
    assert isinstance(error, outcome.error)
    assert error.expert == "first"
    assert error.partial_text == received.text
    if isinstance(outcome, Broken):
        assert received.text
        assert TEXT["first"].startswith(received.text)
        assert outcome.tokens is None or received.text == "".join(TOKENS["first"][: outcome.tokens])


def _check_next_call(world: World, after: Received, outcome: Outcome) -> None:
    """The failed expert is left alone; one that is well is not."""
    cools = isinstance(outcome, Next | Broken) and outcome.error is not ContextLengthError
    assert after.error is None
    assert after.text == TEXT["second" if cools else "first"]
    assert len(world.second.requests) == isinstance(outcome, Next) + cools


def test_the_matrix_has_every_fault_of_the_scripted_server() -> None:
    known = {name for name, made in vars(Fault).items() if isinstance(made, staticmethod)}
    assert known <= {name.split()[0] for name in FAULTS}
