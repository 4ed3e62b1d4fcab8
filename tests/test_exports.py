"""The one face: what `torouter` exports, to programs, to type checkers and to readers of the docs."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import torouter
from tests.support.processes import fresh
from torouter import errors

ROOT = Path(__file__).parents[1]
TAUGHT = {"torouter", "torouter.demo", "torouter.cli"}
"""Modules that a page may import from: the face, what the examples run on, and the command line."""
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted(ROOT.glob("examples/**/*.py")),
    *sorted(ROOT.glob("examples/*.ipynb")),
]


def test_every_name_can_be_imported_and_is_listed() -> None:
    assert [name for name in torouter.__all__ if getattr(torouter, name) is None] == []
    assert set(torouter.__all__) <= set(dir(torouter))
    assert len(torouter.__all__) == len(set(torouter.__all__))


def test_type_checkers_see_the_names_that_programs_get() -> None:
    """The `as` form is what makes a name public to a checker."""
    tree = ast.parse(Path(torouter.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.asname: (line.module, alias.name) for line in block.body for alias in line.names}
    assert seen == {name: (module, name) for module, names in torouter._NAMES.items() for name in names}
    assert set(seen) == set(torouter.__all__)


def test_every_exception_is_exported() -> None:
    ours = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert {name for name in ours if not name.startswith("_")} <= set(torouter.__all__)


def test_no_submodule_can_shadow_a_name() -> None:
    """Importing `torouter.train`, were there such a module, would replace the function `torouter.train`."""
    assert {module.name for module in pkgutil.iter_modules(torouter.__path__)}.isdisjoint(torouter.__all__)
    for name in ("torouter.training.trainer", "torouter.outcomes.collector", "torouter.commands.evaluate"):
        importlib.import_module(name)
    assert all(callable(getattr(torouter, name)) for name in ("train", "collect", "label", "evaluate", "routing_text"))


@pytest.mark.parametrize(
    "statement",
    [
        "import torouter; torouter.train, torouter.OutcomeTable, torouter.ExpertOverloadedError",
        "import torouter; torouter.evaluate, torouter.get_scorer, torouter.calibrate, torouter.OpenTelemetryHook",
        "import torouter.errors, torouter.training; import torouter; torouter.train, torouter.Timeouts",
        "from torouter import *; Expert, train, routing_text",
    ],
)
def test_a_fresh_process_needs_no_deep_path(statement: str) -> None:
    found = fresh(statement)
    assert found.returncode == 0, found.stderr


def test_no_name_needs_an_extra_before_it_is_used() -> None:
    extras = ("torch", "transformers", "pandas", "pyarrow", "matplotlib", "jinja2", "onnx", "opentelemetry", "usearch")
    found = fresh(
        f"""
        import sys
        sys.modules.update(dict.fromkeys({extras}))
        import torouter
        for name in torouter.__all__:
            getattr(torouter, name)
        try:
            torouter.OutcomeTable.read("outcomes.csv")
        except torouter.MissingExtraError as error:
            print(error)
        """
    )
    assert found.returncode == 0, found.stderr
    assert "pip install 'torouter[train]'" in found.stdout


def test_a_misspelt_name_is_told_with_the_nearest_ones() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'Exprt': did you mean Expert or "):
        torouter.Exprt  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'zzz'$"):
        torouter.zzz  # noqa: B018
    with pytest.raises(ImportError, match="Exprt"):
        from torouter import Exprt  # noqa: F401


def test_a_checkout_that_is_not_installed_has_a_version(tmp_path: Path) -> None:
    (tmp_path / "torouter").symlink_to(Path(torouter.__file__).parent)
    code = "import torouter; print(torouter.__version__)"
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert found.stdout.strip() == "0+unknown", found.stderr


def code_of(page: Path) -> Iterator[str]:
    """The Python of a page: its fenced blocks, its cells, or all of it."""
    text = page.read_text("utf-8")
    if page.suffix == ".md":
        yield from map(textwrap.dedent, re.findall(r"^ *```python\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE))
    elif page.suffix == ".ipynb":
        yield from ("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    else:
        yield text


def imported(code: str) -> Iterator[tuple[str, str]]:
    """Module and name of each import from torouter; `import torouter` and its attributes too."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torouter":
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith("torouter."))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torouter":
            yield "torouter", node.attr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_teaches_top_level_imports_of_names_that_exist(page: Path) -> None:
    found = [pair for code in code_of(page) for pair in imported(code)]
    assert [f"{module}: {name}" for module, name in found if module not in TAUGHT] == []
    assert [name for module, name in found if not hasattr(importlib.import_module(module), name)] == []
    assert [name for module, name in found if module == "torouter" and name not in torouter.__all__] == []


def test_the_public_types_are_what_the_typing_samples_say() -> None:
    """mypy, strict, on `tests/typing`. Its cache is the one that `make lint` fills."""
    pytest.importorskip("mypy", reason="mypy comes with the dependency group `lint`")
    found = subprocess.run(
        [sys.executable, "-m", "mypy", "tests/typing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr
