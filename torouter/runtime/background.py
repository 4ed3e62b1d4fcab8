"""Runs coroutines for synchronous callers on one background event loop, and heavy work in the library's own threads.

The loop runs in a daemon thread. So synchronous methods work anywhere, also inside a notebook's running loop, and one
call's connections are reused by the next.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")

_END_SECONDS = 2.0
"""Most seconds that closing a stream, or the process, waits for the loop."""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_pid: int | None = None
_workers: dict[int, ThreadPoolExecutor] = {}
"""Thread pools by process id, since a forked child has none of its parent's threads."""


def background_loop() -> asyncio.AbstractEventLoop:
    """The library's event loop, started on first use and again in a forked child, whose copy of the thread is dead."""
    global _loop, _pid
    with _lock:
        if _loop is None or _loop.is_closed() or _pid != os.getpid():
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="torouter", daemon=True)
            thread.start()
            atexit.register(_shut_down, loop, thread, os.getpid())
            _loop, _pid = loop, os.getpid()
        return _loop


def _shut_down(loop: asyncio.AbstractEventLoop, thread: threading.Thread, pid: int) -> None:
    """Stop the loop as `asyncio.run` would, so that its connections are closed and nothing is written to stderr."""
    if pid != os.getpid():
        return  # a forked child has a copy of the loop, but not of its thread
    with suppress(TimeoutError):
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(timeout=_END_SECONDS)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(_END_SECONDS)


async def _cancel_all() -> None:
    loop = asyncio.get_running_loop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_END_SECONDS / 2)
    await loop.shutdown_asyncgens()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run `coroutine` on the background loop and wait for it; KeyboardInterrupt cancels it.

    The coroutine sees the caller's context variables.

    Raises:
        RuntimeError: The caller runs on the background loop itself.
    """
    loop = background_loop()
    if _running_loop() is loop:
        coroutine.close()
        msg = "a synchronous method was called on torouter's own event loop: use its asynchronous version there"
        raise RuntimeError(msg)
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def iterate(stream: AsyncGenerator[T, None]) -> Iterator[T]:
    """Iterate over `stream` from synchronous code; closing the iterator closes the stream and its connection."""
    loop = background_loop()
    try:
        while True:
            try:
                item = run(_next(stream))
            except StopAsyncIteration:
                return
            yield item
    finally:
        _close(stream, loop)


def _close(stream: AsyncGenerator[T, None], loop: asyncio.AbstractEventLoop) -> None:
    """Close the stream on its loop.

    Garbage collection may close an abandoned iterator in any thread: the loop's own, one that outlives the loop, or one
    that holds a lock which closing the stream needs. So this never waits in the first two, and not for long in others.
    """
    if not loop.is_running():
        return
    closing = asyncio.run_coroutine_threadsafe(stream.aclose(), loop)
    if _running_loop() is not loop:
        with suppress(TimeoutError):
            closing.result(timeout=_END_SECONDS)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _next(stream: AsyncGenerator[T, None]) -> T:
    return await anext(stream)


async def work(task: Callable[[], T]) -> T:
    """Compute in a worker thread while the event loop runs on. `task` sees the caller's context variables.

    The pool is the library's own and has one thread per core: more forward passes at a time would only wait for each
    other, and in the loop's own pool they would delay name lookups. A task must not wait for a network or take seconds,
    since all decisions share this pool.
    """
    return await asyncio.get_running_loop().run_in_executor(_pool(), contextvars.copy_context().run, task)


def _pool() -> ThreadPoolExecutor:
    with _lock:
        if os.getpid() not in _workers:
            _workers[os.getpid()] = ThreadPoolExecutor(_cores(), thread_name_prefix="torouter")
        return _workers[os.getpid()]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
