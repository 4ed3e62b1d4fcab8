"""Measures what routing costs a new process: seconds until the first decision, memory, and the size of an install.

    python -m benchmarks.start                # torouter
    python -m benchmarks.start --peers        # and ChatOpenAI, semantic-router and sentence-transformers
    python -m benchmarks.start --install      # and the size of each extra, each in a new environment: takes minutes

Every value is of a new process that runs a few lines as a user would write them, from before the process starts until
it reports that it is done. torouter too has an environment of its own, with both frameworks and without torch. A first
run, which is not counted, compiles the bytecode.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.decision.decision_times import PEERS
from benchmarks.decision.timed_routers import add_arguments, prepare
from benchmarks.decision.timed_worker import TOPICS
from benchmarks.harness.contenders import ROOT, Contender, installed
from benchmarks.harness.timing import Figures, medians, ratio, table, write
from torouter.routers.config import RouterConfig
from torouter.routers.encoders.pretrained import encoder_path

BASE, TARGET_SECONDS = "RoutedChatModel, BertRouter: first decision", 2.5
EXTRAS = ("", "langchain", "llamaindex", "otel", "search", "train", "demo", "text-generation")
CHAT_OPENAI = Contender("ChatOpenAI", "", ("langchain-openai==1.7.3",))
PRINT_RSS = (
    "\nimport resource\nprint(int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize(), flush=True)"
)
QUERY = "Write a function that reverses a list."


@dataclass(frozen=True)
class Program:
    """A few lines of Python, and the interpreter that runs them."""

    name: str
    code: str
    python: str

    def run(self) -> dict[str, float]:
        """Seconds from before its start until its lines are done, its CPU seconds, and its resident memory in MiB.

        Raises:
            SystemExit: It has failed.
        """
        with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as elsewhere:
            began, used = time.perf_counter(), _children_seconds()
            command = (self.python, "-c", self.code + PRINT_RSS)
            environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
            with subprocess.Popen(
                command, cwd=elsewhere, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            ) as child:
                assert child.stdout is not None
                line = child.stdout.readline()
                seconds = time.perf_counter() - began
            if child.returncode:
                log.seek(0)
                raise SystemExit(f"{self.name} has failed:\n{log.read()[-3000:]}")
            return {"seconds": seconds, "CPU seconds": _children_seconds() - used, "MiB": int(line) / 2**20}


def _children_seconds() -> float:
    """CPU seconds of all ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def ours(python: str, routers: dict[str, Path]) -> Iterator[Program]:
    """Imports alone, then everything until a decision; `routers` by their name in the table."""
    yield Program("python", "", python)
    for module in ("torouter", "langchain_torouter", "llamaindex_torouter"):
        yield Program(f"import {module}", f"import {module}", python)
    for name, directory in routers.items():
        config = RouterConfig.from_json((directory / "router.json").read_text(encoding="utf-8"))
        experts = {expert: f"http://127.0.0.1:{8080 + number}" for number, expert in enumerate(config.names)}
        scores = f"from torouter import AutoRouter\nAutoRouter.from_pretrained({str(directory)!r}).scores([{QUERY!r}])"
        yield Program(f"AutoRouter, {name}: first scores", scores, python)
        lines = (
            "from langchain_torouter import RoutedChatModel",
            f"model = RoutedChatModel(router={str(directory)!r}, experts={experts!r})",
            f"model.route({QUERY!r})",
        )
        yield Program(f"RoutedChatModel, {name}: first decision", "\n".join(lines), python)


def peers(encoder: Path) -> Iterator[Program]:
    """The peers until the same point; ChatOpenAI, which decides nothing, until it is constructed."""
    lines = (
        "from langchain_openai import ChatOpenAI",
        "ChatOpenAI(model='tgi', base_url='http://127.0.0.1:8080/v1', api_key='none')",
    )
    yield Program("ChatOpenAI: constructed", "\n".join(lines), CHAT_OPENAI.interpreter())
    python = {peer.name: peer.interpreter() for peer in PEERS}
    lines = (
        "from sentence_transformers import SentenceTransformer",
        f"SentenceTransformer({str(encoder)!r}, device='cpu').encode({QUERY!r})",
    )
    name = "sentence-transformers"
    yield Program("sentence-transformers: first embedding", "\n".join(lines), python[name])
    lines = (
        "from semantic_router import IndexedRouter, Route",
        "from semantic_router.encoders import HuggingFaceEncoder",
        f"routes = [Route(name=name, utterances=list(sentences)) for name, sentences in {dict(TOPICS)!r}.items()]",
        f"IndexedRouter(HuggingFaceEncoder(name={str(encoder)!r}), routes)({QUERY!r})",
    )
    yield Program("semantic-router: first decision", "\n".join(lines), python["semantic-router"])


def measure(programs: Sequence[Program], repeats: int) -> Figures:
    """What `Program.run` returns for each program, by quantity; all of them in turns."""
    figures: Figures = {}
    for program in programs:
        program.run()
    for repeat in range(repeats):
        for program in (*programs[repeat % len(programs) :], *programs[: repeat % len(programs)]):
            for quantity, value in program.run().items():
                figures.setdefault(quantity, {}).setdefault(program.name, []).append(value)
        print(f"repeat {repeat + 1} of {repeats}", file=sys.stderr, flush=True)
    return figures


def size(python: str) -> tuple[float, int]:
    """MB and number of an environment's packages, without pip and setuptools, which every environment has."""
    (packages,) = Path(python).parents[1].glob("lib/python*/site-packages")
    kept = [entry for entry in packages.iterdir() if not entry.name.startswith(("pip", "setuptools", "pkg_resources"))]
    files = [file for entry in kept for file in (entry.rglob("*") if entry.is_dir() else (entry,))]
    total = sum(file.lstat().st_size for file in files if not file.is_dir())
    return total / 1e6, sum(entry.name.endswith(".dist-info") for entry in kept)


def sizes(extras: Sequence[str], with_peers: bool) -> dict[str, tuple[float, int]]:
    """The size of torouter with each extra, freshly installed, and of the peers' environments."""
    sizes_by_name = {}
    for extra in extras:
        wanted = f"{ROOT}[{extra}]" if extra else str(ROOT)
        constraints = "constraints-text-generation.txt" if extra == "text-generation" else "constraints.txt"
        with tempfile.TemporaryDirectory() as directory:
            python = installed(Path(directory) / "new", "--constraint", str(ROOT / constraints), wanted)
            sizes_by_name[f"torouter[{extra}]" if extra else "torouter"] = size(python)
    for contender in (CHAT_OPENAI, *PEERS) if with_peers else ():
        sizes_by_name[" ".join(contender.requirements)] = size(contender.interpreter())
    return sizes_by_name


def page(figures: Figures, names: Sequence[str], install_sizes: dict[str, tuple[float, int]], command: str) -> str:
    """The Markdown page."""
    by_quantity = medians(figures)
    seconds = by_quantity["seconds"]
    rows = [
        (
            name,
            f"{seconds[name]:.2f}",
            f"{ratio(figures, 'seconds', name, BASE):.2f}" if BASE in seconds else "",
            f"{by_quantity['CPU seconds'][name]:.2f}",
            f"{by_quantity['MiB'][name]:.0f}",
        )
        for name in names
    ]
    parts = [f"`{command}`", table(("new process", "seconds", "ratio", "CPU seconds", "MiB"), rows)]
    if BASE in seconds:
        verdict = "met" if seconds[BASE] <= TARGET_SECONDS else "missed"
        parts.append(f"Target, {BASE} within {TARGET_SECONDS} s: {seconds[BASE]:.2f} s, {verdict}")
    if install_sizes:
        rows = [(name, f"{megabytes:.0f}", f"{count}") for name, (megabytes, count) in install_sizes.items()]
        parts.append(table(("install", "MB", "packages"), rows))
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the programs in turns and write `start.json` and `start.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=str(__doc__).split("\n")[0])
    parser.add_argument("--peers", action="store_true", help="measure the peers too, in environments of their own")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help="only these rows of the table")
    parser.add_argument("--install", action="store_true", help="measure the size of each extra's install")
    parser.add_argument(
        "--extras", nargs="*", default=EXTRAS, metavar="EXTRA", help="the extras that --install measures"
    )
    parser.add_argument("--here", action="store_true", help="run torouter in the environment of this command")
    parser.add_argument("--repeats", type=int, default=7, help="turns of all programs")
    add_arguments(parser, "bert and fast")
    options = parser.parse_args(argv)

    encoder = Path(encoder_path(options.encoder)).resolve()
    python = sys.executable
    if not options.here:
        wanted = ("--constraint", str(ROOT / "constraints.txt"), "--editable", f"{ROOT}[langchain,llamaindex]")
        python = installed(Path(sys.prefix) / "peers" / "torouter", *wanted)
    routers = {
        name: prepare(kind, options.routers.resolve(), encoder)
        for name, kind in (("BertRouter", "bert"), ("FastRouter", "fast"))
    }
    programs = [*ours(python, routers), *(peers(encoder) if options.peers else ())]
    if options.contenders:
        programs = [program for program in programs if program.name in options.contenders]
    if not programs:
        raise SystemExit(f"--contenders {options.contenders}: no such program, see the table's first column")
    figures = measure(programs, options.repeats)
    install_sizes = sizes(options.extras, options.peers) if options.install else {}
    command = shlex.join(("python", "-m", "benchmarks.start", *(sys.argv[1:] if argv is None else argv)))
    result: dict[str, Any] = {
        "unit": {"sizes": "MB and number of packages"},
        "medians": medians(figures),
        "repeats": figures,
        "target": {"name": BASE, "seconds": TARGET_SECONDS},
        "sizes": install_sizes,
    }
    write(options.out, "start", result, page(figures, [program.name for program in programs], install_sizes, command))


if __name__ == "__main__":
    main()
