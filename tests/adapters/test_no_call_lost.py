"""Any sequence of faults through both adapters and real sockets: no call is lost while one expert lives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.adapter_calls import Framework, Received, aask, model_of
from tests.support.scripted_tgi import Fault, ScriptedTGI, Text
from tests.support.scripted_tgi.replies import Mishap, Reply
from tests.support.word_router import WordRouter
from torouter.dispatch import DispatchSettings
from torouter.errors import ExpertGenerationError, TruncatedReplyError

NAMES = ("code", "facts", "math")
TOKENS = {name: tuple(f"{name}{number} " for number in range(6)) for name in NAMES}
FAULTS: tuple[Reply | None, ...] = (
    None,  # nobody listens
    *(Fault.status(status) for status in (403, 404, 424, 429, 500, 503)),
    *(Fault.overloaded_in_stream(), Fault.incomplete_generation(), Fault.error_midway(0), Fault.error_midway(3)),
    *(Fault.cut(0), Fault.cut(3), Fault.cut(0, clean=True), Fault.cut(3, clean=True), Fault.reset()),
    *(Fault.html_502(), Fault.empty_401(), Fault.not_json(), Fault.redirect("http://127.0.0.1:9/")),
)
SETTINGS = DispatchSettings(cooldown=0.01, max_cooldown=0.04, access_cooldown=0.04, deadline=30)
"""Cool-downs that pass within a test, so that experts are tried again all the time."""

calls = st.lists(st.tuples(st.sampled_from(NAMES), st.booleans()), min_size=1, max_size=5)
phases = st.lists(
    st.tuples(st.sampled_from(NAMES), st.tuples(*[st.sampled_from(FAULTS)] * 2), calls), min_size=1, max_size=5
)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, ScriptedTGI]]:
    with ExitStack() as stack:
        servers = {name: stack.enter_context(ScriptedTGI()) for name in NAMES}
        for name, server in servers.items():
            server.answer = lambda _, tokens=TOKENS[name]: Text(pieces=tokens)
        yield servers


@pytest.mark.parametrize("framework", ["langchain", "llamaindex"])
@given(phases=phases)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_call_fails_while_one_expert_is_healthy_and_answers_are_never_mixed(
    servers: dict[str, ScriptedTGI],
    framework: Framework,
    phases: list[tuple[str, tuple[Reply | None, Reply | None], list[tuple[str, bool]]]],
) -> None:
    """In each phase one expert is well and the two others fail; calls of one phase are made at the same time."""
    urls = {name: server.url for name, server in servers.items()}
    model = model_of(framework, router=WordRouter.named(dict.fromkeys(NAMES, 0.5)), experts=urls, settings=SETTINGS)

    async def main() -> None:
        for healthy, faults, planned in phases:
            ill = dict(zip((name for name in NAMES if name != healthy), faults, strict=True))
            for name, fault in ill.items():
                servers[name].always(fault)
                if fault is None:
                    servers[name].stop()
            try:
                received = await asyncio.gather(
                    *(aask(model, f"ask {first}", streamed=streamed) for first, streamed in planned)
                )
            finally:
                for name, fault in ill.items():
                    servers[name].always(None)
                    if fault is None:
                        servers[name].start()
            for (_, streamed), one in zip(planned, received, strict=True):
                _check(one, healthy, ill, streamed=streamed)
        assert all(replica.in_flight == 0 for replica in model._routed.dispatcher.snapshot())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def _check(received: Received, healthy: str, ill: dict[str, Reply | None], *, streamed: bool) -> None:
    if received.error is None:
        assert received.text == "".join(TOKENS[healthy])
        assert received.routing is not None
        assert received.routing["expert"] == healthy
        return
    # Only a stream that an ill expert had begun may end with an error, and never with another expert's text.
    error = received.error
    assert isinstance(error, ExpertGenerationError | TruncatedReplyError)
    assert streamed
    fault = ill[error.expert]
    assert isinstance(fault, Mishap)
    assert fault.after
    assert received.text
    assert "".join(TOKENS[error.expert]).startswith(received.text)
    assert error.partial_text == received.text
