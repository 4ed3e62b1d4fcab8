"""What an import loads, and what it says when an extra is missing; each in a fresh process."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.support import tiny
from tests.support.processes import fresh
from tests.support.scripted_tgi import ScriptedTGI

HEAVY = ("torch", "transformers", "pandas", "pyarrow", "langchain_core", "llama_index", "onnxruntime", "tokenizers")


def loaded(statement: str) -> set[str]:
    """The heavy packages that a statement loads."""
    found = fresh(f"{statement}\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])")
    assert found.returncode == 0, found.stderr
    return set(found.stdout.split())


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("import torouter", set()),
        ("from torouter import Expert, ExpertPool, AutoRouter, RoutingPolicy, RouteDecision", set()),
        ("import torouter.endpoints, torouter.dispatch, torouter.runtime.routed_experts", set()),
        ("from langchain_torouter import RoutedChatModel, ChatTGI", {"langchain_core"}),
        ("from llamaindex_torouter import RoutedLLM, TGILLM, TORouterSelector", {"llama_index"}),
        ("from torouter.cli import main", set()),
    ],
)
def test_an_import_loads_no_framework_that_it_does_not_need(statement: str, allowed: set[str]) -> None:
    assert loaded(statement) <= allowed


@pytest.mark.parametrize(
    ("missing", "statement", "command"),
    [
        ("langchain_core", "import langchain_torouter", "pip install 'torouter[langchain]'"),
        ("llama_index", "import llamaindex_torouter", "pip install 'torouter[llamaindex]'"),
        (
            "pandas",
            "from torouter.outcomes.table import OutcomeTable; OutcomeTable.read('x.csv')",
            "pip install 'torouter[train]'",
        ),
        (
            "text_generation",
            (
                "from torouter import Expert; from torouter.endpoints import client_for; "
                "client_for(Expert(name='a', url='http://x', client='text-generation'))"
            ),
            "pip install 'torouter[text-generation]'",
        ),
        (
            "opentelemetry",
            "from torouter.runtime.telemetry import OpenTelemetryHook as T; T()",
            "pip install 'torouter[otel]'",
        ),
        (
            "xllamacpp",
            "from torouter.demo.server import smollm2_server; smollm2_server().__enter__()",
            "pip install 'torouter[demo]'",
        ),
    ],
)
def test_a_missing_extra_is_told_with_the_command_that_brings_it(missing: str, statement: str, command: str) -> None:
    found = fresh(f"import sys; sys.modules[{missing!r}] = None\n{statement}")
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("torouter.errors.MissingExtraError")
    assert command in last


ASKED = {
    "langchain": """
        from langchain_torouter import ChatTGI, RoutedChatModel

        assert ChatTGI(base_url=url).invoke("hello").text
        routed = RoutedChatModel(router=router, experts=experts)
        assert routed.invoke("hello").response_metadata["routing"]["expert"] in experts
        assert "".join(chunk.text for chunk in routed.stream("hello"))
    """,
    "llamaindex": """
        from llamaindex_torouter import RoutedLLM, TGILLM

        assert TGILLM(base_url=url).complete("hello").text
        routed = RoutedLLM(router=router, experts=experts)
        assert routed.complete("hello").additional_kwargs["routing"]["expert"] in experts
        assert "".join(step.delta for step in routed.stream_complete("hello"))
    """,
}


@pytest.mark.parametrize(("framework", "other"), [("langchain", "llama_index"), ("llamaindex", "langchain_core")])
def test_answering_loads_neither_what_training_needs_nor_the_other_framework(
    framework: str, other: str, tgi: ScriptedTGI, bert_directory: Path
) -> None:
    """Real calls of both models, one of them through a BERT-Router, whole and streamed."""
    given = f"url, router = {tgi.url!r}, {str(bert_directory)!r}\nexperts = dict.fromkeys({tiny.EXPERTS}, url)\n"
    found = loaded(given + textwrap.dedent(ASKED[framework]))
    assert "onnxruntime" in found
    assert found.isdisjoint({"torch", "transformers", "pandas", "pyarrow", other})
    assert len(tgi.requests) == 3
