"""README, docs and changelog against the code: imports, names, links, files and commands in them exist."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from torouter.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
OURS = {"torouter", "langchain_torouter", "llamaindex_torouter", "torouter.demo"}
"""Packages that a page may import from."""
FOLDERS = "tests|benchmarks|examples|docs|torouter"
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def code_blocks(page: Path) -> list[str]:
    """The page's fenced Python."""
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for block in blocks]


def headings(page: Path) -> set[str]:
    """Anchors of the page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def quoted(page: Path) -> list[str]:
    """What the page shows as code within a line."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`]+)`", text)


def imported(code: str) -> Iterator[tuple[str, str | None]]:
    """Module and name of each import of ours; no name where the whole module is imported."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module:
            found = [(node.module, alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found = [(alias.name, None) for alias in node.names]
        else:
            continue
        yield from (pair for pair in found if "torouter" in pair[0].partition(".")[0])


def commands(page: Path, pattern: str) -> list[tuple[str, set[str]]]:
    """What `pattern` captures of each command on the page, and the command's options."""
    lines = re.findall(pattern + r"([^`\n#]*)", page.read_text("utf-8"))
    return [(name, set(re.findall(r"(?<!\S)--[a-z0-9-]+", rest))) for name, rest in lines]


@every_page
def test_code_imports_public_names_of_top_level_packages(page: Path) -> None:
    pairs = [pair for code in code_blocks(page) for pair in imported(code)]
    assert {module for module, _ in pairs} <= OURS
    unknown = [
        f"{module}.{name}"
        for module, name in pairs
        if name is not None and name not in getattr(importlib.import_module(module), "__all__", ())
    ]
    assert unknown == []


@every_page
def test_text_names_no_module_below_a_top_level_package(page: Path) -> None:
    assert [text for text in quoted(page) if re.search(r"torouter\.\w+\.\w", text)] == []


@every_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text("utf-8"))
    broken = []
    for target in targets:
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in headings(file)):
            broken.append(target)
    assert broken == []


@every_page
def test_files_and_tests_that_are_named_exist(page: Path) -> None:
    tests = {file.name: file.read_text("utf-8") for file in (ROOT / "tests").rglob("test_*.py")}
    missing = []
    for text in quoted(page):
        if re.fullmatch(rf"(?:{FOLDERS})/[\w/.-]+", text) and not (ROOT / text).exists():
            missing.append(text)
        if case := re.fullmatch(r"(test_\w+\.py)(?:::(test_\w+))?", text):
            file, function = case.groups()
            if file not in tests or (function and f"def {function}(" not in tests[file]):
                missing.append(text)
    assert missing == []


@every_page
def test_commands_of_torouter_have_the_options_that_are_shown(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = []
    for name, options in commands(page, r"torouter (collect|label|train|evaluate|route|demo)\b"):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        known = set(re.findall(r"--[a-z0-9-]+", capsys.readouterr().out))
        unknown += [f"{name} {option}" for option in options - known]
    assert unknown == []


@every_page
def test_benchmarks_exist_and_have_the_options_that_are_shown(page: Path) -> None:
    unknown = []
    for module, options in commands(page, r"python -m (benchmarks(?:\.\w+)+)"):
        folder, _, last = module.rpartition(".")
        if not last.isupper() and importlib.util.find_spec(module) is None:  # NAME stands for any of them
            unknown.append(module)
            continue
        place = ROOT / module.replace(".", "/")
        sources = place.glob("*.py") if place.is_dir() else (ROOT / folder.replace(".", "/")).rglob("*.py")
        known = {option for file in sources for option in re.findall(r'"(--[a-z0-9-]+)"', file.read_text("utf-8"))}
        unknown += [f"{module} {option}" for option in options - known]
    assert unknown == []
