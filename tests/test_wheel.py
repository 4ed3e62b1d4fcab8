"""What is published: the wheel's contents, and what it does in an environment that holds its base dependencies only."""

from __future__ import annotations

import email
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("torouter", "langchain_torouter", "llamaindex_torouter")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def run(*command: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command that sees no package but those of its own environment."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120, check=False, cwd=cwd, env=clean
    )


def pip(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout. Its build backend is the environment's, or else comes from the package index."""
    out = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    built = pip("wheel", "--no-deps", *isolation, "--wheel-dir", out, ROOT)
    if re.search(r"No matching distribution found for hatchling", built.stderr):
        pytest.skip("the build backend, hatchling, is neither installed nor to be had from a package index")
    assert built.returncode == 0, built.stderr
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def files(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def only(files: dict[str, bytes], ending: str) -> str:
    """The text of the one file in the wheel whose path ends like this."""
    (name,) = (name for name in files if name.endswith(ending))
    return files[name].decode()


def test_it_holds_all_three_packages_and_nothing_else(files: dict[str, bytes]) -> None:
    """Modules, marks of types and templates."""
    there = {name for name in files if ".dist-info/" not in name}
    written = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".jinja") or path.name == "py.typed"
    }
    assert there == written
    assert {f"{package}/py.typed" for package in PACKAGES} <= there
    assert any(name.endswith(".jinja") for name in there)


def test_its_metadata_is_the_projects(files: dict[str, bytes]) -> None:
    metadata = email.message_from_string(only(files, ".dist-info/METADATA"))
    assert metadata["Version"] == PROJECT["version"]
    assert set(metadata.get_all("Provides-Extra", ())) == set(PROJECT["optional-dependencies"])
    assert {requirement.name for requirement in base_requirements(files)} == {
        Requirement(line).name for line in PROJECT["dependencies"]
    }
    assert only(files, ".dist-info/licenses/LICENSE") == (ROOT / "LICENSE").read_text("utf-8")
    assert "torouter = torouter.cli:main" in only(files, ".dist-info/entry_points.txt")


def base_requirements(files: dict[str, bytes]) -> list[Requirement]:
    """What the wheel needs without any extra."""
    lines = email.message_from_string(only(files, ".dist-info/METADATA")).get_all("Requires-Dist", ())
    return [wanted for wanted in map(Requirement, lines) if wanted.marker is None or wanted.marker.evaluate()]


def with_their_own(requirements: Sequence[Requirement]) -> list[Distribution]:
    """The installed distributions that meet the requirements, and all that those need in turn."""
    found: dict[str, Distribution] = {}
    wanted = list(requirements)
    while wanted:
        name = canonicalize_name(wanted.pop().name)
        if name not in found:
            found[name] = distribution(name)
            needed = map(Requirement, found[name].requires or ())
            wanted += [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return list(found.values())


@pytest.fixture(scope="module")
def bare(wheel: Path, files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scripts of a new environment: the wheel is installed, its base dependencies are linked, and no extra is there."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=False, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    for needed in with_their_own(base_requirements(files)):
        for top in {file.parts[0] for file in needed.files or () if file.parts[0] not in ("..", "__pycache__")}:
            (site / top).symlink_to(needed.locate_file(top))
    installed = pip("--python", home / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    assert installed.returncode == 0, installed.stderr
    return home / "bin"


def test_a_bare_installation_gives_every_name(bare: Path, tmp_path: Path) -> None:
    code = (
        "import torouter; [getattr(torouter, name) for name in torouter.__all__];"
        "print(torouter.__file__, torouter.__version__, torouter.Expert(name='a', url='http://127.0.0.1:1').name)"
    )
    found = run(bare / "python", "-c", code, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    place, version, name = found.stdout.split()
    assert Path(place).is_relative_to(bare.parent)
    assert (version, name) == (PROJECT["version"], "a")


def test_a_bare_installation_has_the_command(bare: Path, tmp_path: Path) -> None:
    found = run(bare / "torouter", "--help", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert all(command in found.stdout for command in ("collect", "label", "train", "evaluate", "route", "demo"))


@pytest.mark.parametrize(
    ("statement", "extra"),
    [
        ("import langchain_torouter", "langchain"),
        ("import llamaindex_torouter", "llamaindex"),
        ("import torouter; torouter.OutcomeTable.read('outcomes.csv')", "train"),
        ("import torouter; torouter.train(None, out='router')", "train"),
        ("import torouter; torouter.OpenTelemetryHook()", "otel"),
    ],
)
def test_a_missing_extra_is_told_with_its_command(bare: Path, tmp_path: Path, statement: str, extra: str) -> None:
    found = run(bare / "python", "-c", statement, cwd=tmp_path)
    last = found.stderr.strip().splitlines()[-1]
    assert last.startswith("torouter.errors.MissingExtraError")
    assert f"pip install 'torouter[{extra}]'" in last
