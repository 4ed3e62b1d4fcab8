"""Scores code by running it against its tests, each answer in a restricted process of its own."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from torouter.errors import ConfigurationError

logger = logging.getLogger(__name__)

RUNNER = Path(__file__).with_name("code_runner.py")


class CodeScorer:
    """Scores 1 where the code of the response passes all tests of the reference, else 0.

    The code is the response's first fenced block, closed or not, or all of the response where it has no fence. The
    reference is JSON, {"tests": ["assert f(2) == 4", ...]}; a "code" beside them is a solution, which is not run.

    Guaranteed are a time limit, after which the whole process group is killed; limits on memory, processor time, size
    of files and open files (POSIX rlimits), and on threads unless the user is root; no environment, no user packages,
    an empty working directory, no input.

    On Linux the process also has no network: it gets an empty network namespace, if the kernel allows that to this
    user. Otherwise, and on other systems, only an audit hook blocks the network, which stops honest code but not an
    attack on CPython; a warning is logged then. The hook also forbids starting or signalling other processes, deleting
    or renaming files, and writing outside the empty directory.

    Not guaranteed: the code can read every file that this user can read, and an audit hook is no sandbox. If you expect
    hostile code, run `torouter label` as a whole in a container or a virtual machine without network.

    Args:
        seconds: Time limit of one response.
        megabytes: Limit of its address space.

    Raises:
        ConfigurationError: The system has no rlimits (Windows).
    """

    def __init__(self, *, seconds: float = 5.0, megabytes: int = 512) -> None:
        if os.name != "posix":
            raise ConfigurationError("scorer 'code' needs a POSIX system: only there can a process be limited")
        self._seconds = seconds
        self._megabytes = megabytes
        self._warned = False

    def __call__(self, responses: Sequence[str], references: Sequence[str]) -> list[float]:
        """Scores of 0 or 1.

        Raises:
            ConfigurationError: A reference is not the JSON described above.
        """
        from tqdm import tqdm

        tasks = [(code_in(text), _tests(reference)) for text, reference in zip(responses, references, strict=True)]
        bar = tqdm(tasks, unit="answer", desc="code", file=sys.stderr, disable=None)
        return [float(self._passes(code, tests)) for code, tests in bar]

    def _passes(self, code: str, tests: Sequence[str]) -> bool:
        # Only a run that passes the last test writes this word: the code may call sys.exit(0) before the first one.
        word = secrets.token_hex(16)
        task = {"code": code, "tests": tests, "word": word, "seconds": self._seconds, "megabytes": self._megabytes}
        with tempfile.TemporaryDirectory(prefix="torouter-code-") as folder:
            process = subprocess.Popen(  # noqa: S603 - running it is the task, and the user allowed it
                [sys.executable, "-I", "-B", str(RUNNER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(json.dumps(task).encode(), timeout=self._seconds)
            except subprocess.TimeoutExpired:
                return False
            finally:
                _kill_group(process)
        if b"network open" in output and not self._warned:
            self._warned = True
            logger.warning("no network namespace available: only an audit hook blocks the network for scored code")
        return word.encode() in output


def code_in(response: str) -> str:
    """The first fenced block of a response, closed or not; the whole response if it has none."""
    block = re.search(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", response, re.DOTALL | re.MULTILINE)
    return block[1] if block else response


def _tests(reference: str) -> list[str]:
    try:
        tests = json.loads(reference)["tests"]
    except (ValueError, TypeError, KeyError):
        tests = None
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        msg = f'scorer code: the reference {reference[:40]!r} is no JSON of the form {{"tests": ["assert ...", ...]}}'
        raise ConfigurationError(msg)
    return tests


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all that it started, so that nothing outlives the time limit."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
