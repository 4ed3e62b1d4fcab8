"""Contenders of a benchmark: each a process, in an environment of its own where it needs one, all asked in turns."""

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
"""Environment of a contender whose time is taken."""

Asked = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """Who is measured: a module of `benchmarks`, what to install where it needs an environment of its own, and the
    arguments that are its alone."""

    name: str
    module: str
    requirements: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()

    def interpreter(self) -> str:
        """The Python that can import it; its environment is made on first use, beside the running one."""
        if not self.requirements:
            return sys.executable
        return installed(Path(sys.prefix) / "peers" / "+".join(self.requirements), *self.requirements)


def installed(directory: Path, *wanted: str) -> str:
    """The Python of an environment with what `pip install` is to bring, made where it is not there yet."""
    python = directory / "bin" / "python"
    if not python.exists():
        print(f"installing {' '.join(wanted)}", file=sys.stderr, flush=True)
        try:
            venv.create(directory, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, stdout=sys.stderr)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)  # or the next run would take it for whole
            raise
    return str(python)


@contextmanager
def process(
    *command: str, log: Any, limit: float, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A child that is ended with the block, and killed after `limit` seconds whatever happens."""
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
        with suppress(BrokenPipeError):  # it has ended without reading all
            cast("Any", child.stdin).close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        killer.cancel()
        cast("Any", child.stdout).close()


def told(child: subprocess.Popen[str], log: Any) -> dict[str, Any]:
    """The next line of JSON that a child prints.

    Raises:
        SystemExit: It has ended without one; the message is what it logged last.
    """
    line = cast("Any", child.stdout).readline()
    if not line:
        log.seek(0)
        raise SystemExit(f"{child.args!r} ended without a result:\n{log.read()[-3000:]}")
    return cast("dict[str, Any]", json.loads(line))


class Worker:
    """A contender's process that answers one line of JSON with another; see `serve`."""

    def __init__(self, name: str, child: subprocess.Popen[str], log: Any) -> None:
        self.name, self._child, self._log = name, child, log
        self.ready = told(child, log)
        """What it said first."""

    def ask(self, asked: Asked) -> dict[str, Any]:
        """Its answer.

        Raises:
            SystemExit: It has failed.
        """
        with suppress(BrokenPipeError):  # it has ended: what it logged tells why
            cast("Any", self._child.stdin).write(json.dumps(asked) + "\n")
        return told(self._child, self._log)


@contextmanager
def started(
    contenders: Iterable[Contender], arguments: Sequence[str] = (), *, limit: float = 3600
) -> Iterator[list[Worker]]:
    """The contenders' processes, one thread each, with their own and these arguments; ended with the block."""
    with ExitStack() as stack:
        workers = []
        for contender in contenders:
            log = stack.enter_context(tempfile.TemporaryFile("w+"))
            command = (contender.interpreter(), "-m", contender.module, *contender.arguments, *arguments)
            child = stack.enter_context(process(*command, log=log, limit=limit, environment=ONE_THREAD))
            workers.append(Worker(contender.name, child, log))
        yield workers


def serve(answer: Callable[[Asked], Mapping[str, Any]], ready: Mapping[str, Any] | None = None) -> None:
    """The worker's side: say `ready`, then answer each line of standard input until it ends.

    Standard output is the answers' alone: what libraries print goes to standard error.
    """
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    out.write(json.dumps(dict(ready or {})) + "\n")
    for line in sys.stdin:
        out.write(json.dumps(dict(answer(json.loads(line)))) + "\n")
