"""The map of the packages holds: imports go down from room to room and never in a circle, names are unique."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ADAPTERS = ("langchain_torouter", "llamaindex_torouter")
PACKAGES = ("torouter", *ADAPTERS)

LEVELS = (
    {"errors", "secrets", "chat", "version"},
    {"experts"},
    {"routers"},
    {"routing"},
    {"endpoints", "dispatch"},
    {"runtime"},
    {"outcomes"},
    {"training"},
    {"evaluation"},
    {*ADAPTERS},
    {"demo", "commands", "cli"},
)
"""Rooms of torouter (folders, or single modules beside them) and the adapters, from the lowest to the highest."""
APART = (("dispatch", "endpoints"), ("routers", "routing"), ADAPTERS)
"""Of these neither imports the other."""
SERVING = {"routers", "routing", "dispatch", "endpoints", "runtime", *ADAPTERS}
MAKING = {"outcomes", "training", "evaluation"}
"""Rooms that take part in a call, and those that only making and judging a router needs."""

MOST_FILES = 20
MOST_LINES = 450
RUN_BY_NAME = {"__init__", "__main__"}
"""Names that Python gives a meaning, so that any folder may have one."""


def sources(folder: str) -> list[Path]:
    """The Python files of a folder of the repository and of all folders in it."""
    return sorted((ROOT / folder).rglob("*.py"))


def module_of(file: Path) -> str:
    """The dotted name of a file's module; a package's is that of its `__init__.py`."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, modules: frozenset[str]) -> Iterator[str]:
    """Our modules that a file imports, at its top, inside functions and for type checking alike."""
    name, is_package = module_of(file), file.stem == "__init__"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            above = name.split(".")[: len(name.split(".")) - node.level + is_package] if node.level else []
            base = ".".join((*above, *filter(None, [node.module])))
            for alias in node.names:
                target = f"{base}.{alias.name}"  # `from package import module` imports the module
                if target in modules or base in modules:
                    yield target if target in modules else base


@cache
def graph() -> dict[str, set[str]]:
    """Every module, and the modules that it imports."""
    files = [file for package in PACKAGES for file in sources(package)]
    modules = frozenset(map(module_of, files))
    return {module_of(file): set(imports(file, modules)) for file in files}


def room_of(module: str) -> str:
    """A module's room; an adapter is a room of its own, and so is `torouter` itself."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "torouter" and rest else package


def arrows() -> Iterator[tuple[str, str]]:
    """Each import from one room into another; `torouter` itself may name everything, since it imports lazily."""
    for module, targets in graph().items():
        for target in targets:
            if module != "torouter" and room_of(module) != room_of(target):
                yield module, target


def test_modules_import_each_other_in_no_circle() -> None:
    try:
        TopologicalSorter(graph()).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' <- '.join(error.args[1])}")


def test_every_module_is_in_a_room_of_the_map() -> None:
    rooms = {room_of(module) for module in graph()} - {"torouter"}

    assert rooms == set.union(*LEVELS)


def test_rooms_import_only_from_rooms_below_them() -> None:
    level = {room: number for number, rooms in enumerate(LEVELS) for room in rooms} | {"torouter": len(LEVELS)}

    assert not [arrow for arrow in arrows() if level[room_of(arrow[0])] < level[room_of(arrow[1])]]


@pytest.mark.parametrize("rooms", APART, ids=" and ".join)
def test_rooms_that_stand_apart_do_not_import_each_other(rooms: tuple[str, str]) -> None:
    assert not [arrow for arrow in arrows() if {room_of(module) for module in arrow} == set(rooms)]


def test_what_serves_a_call_imports_nothing_that_makes_a_router() -> None:
    assert not [arrow for arrow in arrows() if room_of(arrow[0]) in SERVING and room_of(arrow[1]) in MAKING]


def test_modules_import_from_modules_and_not_from_the_package_that_names_them_all() -> None:
    assert not [module for module, targets in graph().items() if "torouter" in targets]


@pytest.mark.parametrize("folder", ["torouter", "tests", "benchmarks"])
def test_no_folder_holds_more_files_than_one_can_overlook(folder: str) -> None:
    counts = Counter(file.parent.relative_to(ROOT) for file in sources(folder))

    assert not {str(place): count for place, count in counts.items() if count > MOST_FILES}


@pytest.mark.parametrize("folder", ["torouter", "benchmarks"])
def test_no_two_modules_have_one_name(folder: str) -> None:
    counts = Counter(file.stem for file in sources(folder) if file.stem not in RUN_BY_NAME)

    assert not [name for name, count in counts.items() if count > 1]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_longer_than_one_can_overlook(package: str) -> None:
    lines = {module_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in sources(package)}

    assert not {module: count for module, count in lines.items() if count > MOST_LINES}
