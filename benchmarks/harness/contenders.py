"""Runs the contenders of a benchmark, each in a process, and where needed an environment, of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

ROOT = Path(__file__).parents[2]
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), "1"),
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}
"""Environment variables of a contender that is timed."""

Task = dict[str, Any]
"""What a worker is asked to do, as JSON; each benchmark has its own keys."""


@dataclass(frozen=True)
class Contender:
    """What is measured.

    Attributes:
        name: As in the tables.
        module: The module of `benchmarks` that its process runs.
        requirements: What to install into an environment of its own; empty for the running one.
        arguments: Command line of the module, before what all contenders get.
    """

    name: str
    module: str
    requirements: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def interpreter(self) -> str:
        """The Python that can import it; its environment is created on first use, inside the running one's folder."""
        if not self.requirements:
            return sys.executable
        return installed(Path(sys.prefix) / "peers" / "+".join(self.requirements), *self.requirements)


def installed(directory: Path, *requirements: str) -> str:
    """The Python of the environment in `directory`; a missing one is created with these arguments of `pip install`."""
    python = directory / "bin" / "python"
    if not python.exists():
        print(f"installing {' '.join(requirements)}", file=sys.stderr, flush=True)
        try:
            venv.create(directory, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True, stdout=sys.stderr)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)  # the next run would use the incomplete one
            raise
    return str(python)


@contextmanager
def child_process(
    *command: str, log: Any, limit: float, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A child process that ends with the block, and is killed after `limit` seconds in any case."""
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        bufsize=1,
        env={**os.environ, **(environment or {})},
    )
    killer = threading.Timer(limit, child.kill)
    killer.daemon = True
    killer.start()
    try:
        yield child
    finally:
        with suppress(BrokenPipeError):  # it ended before reading everything
            cast("Any", child.stdin).close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        killer.cancel()
        cast("Any", child.stdout).close()


def read_json_line(child: subprocess.Popen[str], log: Any) -> dict[str, Any]:
    """The next line of JSON that a child process prints.

    Raises:
        SystemExit: It ended without one; the message is the end of its log.
    """
    line = cast("Any", child.stdout).readline()
    if not line:
        log.seek(0)
        raise SystemExit(f"{child.args!r} ended without a result:\n{log.read()[-3000:]}")
    return cast("dict[str, Any]", json.loads(line))


class Worker:
    """A contender's process, which answers one line of JSON with another; see `serve`.

    Attributes:
        ready: What it printed first.
    """

    def __init__(self, name: str, child: subprocess.Popen[str], log: Any) -> None:
        self.name, self._child, self._log = name, child, log
        self.ready = read_json_line(child, log)

    def ask(self, task: Task) -> dict[str, Any]:
        """Its answer to a task.

        Raises:
            SystemExit: It has failed.
        """
        with suppress(BrokenPipeError):  # it has ended; reading the answer reports its log
            cast("Any", self._child.stdin).write(json.dumps(task) + "\n")
        return read_json_line(self._child, self._log)


@contextmanager
def started(
    contenders: Iterable[Contender], arguments: Sequence[str] = (), *, limit: float = 3600
) -> Iterator[list[Worker]]:
    """The contenders' processes, one thread each, with their own and these arguments; they end with the block."""
    with ExitStack() as stack:
        workers = []
        for contender in contenders:
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            command = (contender.interpreter(), "-m", contender.module, *contender.arguments, *arguments)
            child = stack.enter_context(child_process(*command, log=log, limit=limit, environment=ONE_THREAD))
            workers.append(Worker(contender.name, child, log))
        yield workers


def serve(answer: Callable[[Task], Mapping[str, Any]], ready: Mapping[str, Any] | None = None) -> None:
    """The worker's side: print `ready`, then answer each line of standard input until it ends.

    Standard output is for the answers only: what libraries print goes to standard error.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    out.write(json.dumps(dict(ready or {})) + "\n")
    for line in sys.stdin:
        out.write(json.dumps(dict(answer(json.loads(line)))) + "\n")
