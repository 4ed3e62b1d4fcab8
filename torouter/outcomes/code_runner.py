"""Runs one answer's code and its tests in a restricted process; `code_scorer` starts this file as a script."""

from __future__ import annotations

import json
import os
import resource
import sys
from types import ModuleType
from typing import Any

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
# Prefixes of audit events: the network, other processes, other libraries, changes to files.
FORBIDDEN = (
    *("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "pty.", "os.kill"),
    *("signal.pthread_kill", "ctypes.", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink"),
    *("os.truncate", "os.chmod", "os.chown", "os.utime", "os.setxattr", "os.removexattr", "shutil.", "tempfile."),
)
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FOLDER = os.path.realpath(os.curdir)


def main() -> None:
    """Read the task from standard input; write its word to standard output if all tests pass."""
    task = json.load(sys.stdin)
    # The verdict gets a descriptor of its own, so that nothing the code prints can be taken for it.
    verdict = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    closed = leave_network()
    if not closed:
        os.write(verdict, b"network open\n")
    limit(task["seconds"], task["megabytes"])
    sys.addaudithook(forbid)
    module = sys.modules["answer"] = ModuleType("answer")  # dataclasses look up their module
    for source in (task["code"], *task["tests"]):
        exec(compile(source, "answer.py", "exec"), module.__dict__)  # noqa: S102
    os.write(verdict, task["word"].encode())
    os._exit(0)  # without waiting for the code's threads and exit handlers


def leave_network() -> bool:
    """Move into a network namespace without any device, if the kernel allows it; return whether it did."""
    if sys.platform != "linux":
        return False
    import ctypes

    unshare = ctypes.CDLL(None).unshare
    return bool(unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 or unshare(CLONE_NEWNET) == 0)


def limit(seconds: float, megabytes: int) -> None:
    """Set the kernel's limits on what this process may use."""
    limits = {
        resource.RLIMIT_AS: megabytes * 2**20,
        resource.RLIMIT_CPU: int(seconds) + 1,
        resource.RLIMIT_FSIZE: 2**20,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,  # does not bind root
    }
    for kind, limit in limits.items():
        try:
            resource.setrlimit(kind, (limit, limit))
        except (OSError, ValueError):
            # macOS refuses RLIMIT_AS; a lower hard limit can't be raised and stays.
            continue


def forbid(event: str, arguments: tuple[Any, ...]) -> None:
    """The audit hook: refuse the events of `FORBIDDEN`, and writing to files outside of the working folder."""
    if event.startswith(FORBIDDEN):
        raise PermissionError(f"scored code may not use {event}")
    if event == "open":
        path, _, flags = arguments
        outside = not isinstance(path, int) and not os.path.realpath(os.fsdecode(path)).startswith(FOLDER + os.sep)
        if flags & WRITING and outside:
            raise PermissionError("scored code may write into its working folder only")


if __name__ == "__main__":
    main()
