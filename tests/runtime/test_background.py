"""Synchronous calls on the library's own event loop."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator

import pytest

from torouter.runtime import background


async def test_it_works_inside_a_running_loop() -> None:
    async def answer() -> int:
        return 42

    assert background.run(answer()) == 42


def test_the_coroutine_sees_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="")

    async def seen() -> str:
        return variable.get()

    variable.set("mine")
    assert background.run(seen()) == "mine"


def test_an_exception_comes_back_as_it_is() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        background.run(fail())


def test_a_call_from_the_loop_itself_is_refused_instead_of_waiting_for_ever() -> None:
    async def inner() -> None:
        """Never runs."""

    async def outer() -> None:
        background.run(inner())

    with pytest.raises(RuntimeError, match="asynchronous version"):
        background.run(outer())


async def numbers(closed: threading.Event) -> AsyncGenerator[int, None]:
    try:
        for number in range(10):
            yield number
    finally:
        closed.set()


def test_closing_the_iterator_closes_the_stream() -> None:
    closed = threading.Event()
    iterator = background.iterate(numbers(closed))
    assert [next(iterator), next(iterator)] == [0, 1]
    iterator.close()  # type: ignore[attr-defined]  # it is a generator
    assert closed.wait(5)
    assert list(background.iterate(numbers(closed))) == list(range(10))


def test_an_iterator_may_be_closed_on_the_loop_itself_as_garbage_collection_does() -> None:
    closed = threading.Event()
    iterator = background.iterate(numbers(closed))
    next(iterator)

    async def collect() -> None:
        iterator.close()  # type: ignore[attr-defined]

    background.run(collect())
    assert closed.wait(5)


def test_an_unfinished_iterator_does_not_hold_up_the_end_of_the_process() -> None:
    code = """
import builtins
from torouter.runtime import background
async def numbers():
    yield 1
    yield 2
builtins.kept = background.iterate(numbers())
print(next(builtins.kept))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (process.returncode, process.stdout, process.stderr) == (0, "1\n", "")


def test_many_threads_share_the_loop() -> None:
    loops: set[asyncio.AbstractEventLoop] = set()

    async def note() -> None:
        loops.add(asyncio.get_running_loop())

    threads = [threading.Thread(target=lambda: background.run(note())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loops == {background.background_loop()}


def test_a_forked_child_gets_a_loop_of_its_own_and_the_process_ends_quietly() -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and newer warn of every fork beside threads
from torouter.runtime import background
async def answer(): return 42
assert background.run(answer()) == 42
child = os.fork()
if child == 0:
    os._exit(0 if background.run(answer()) == 42 else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert (process.returncode, process.stderr) == (0, "")
