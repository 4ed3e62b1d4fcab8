"""The finished cells of a run that is not over, one JSON line each, so that a run that dies loses none of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from torouter.errors import ConfigurationError

Row = dict[str, Any]
Cell = tuple[str, str]
"""Query id and expert."""


class CellJournal:
    """The journal of one outcome table, held by one process at a time.

    A line is handed to the operating system before `add` returns: killing the process loses none. A last line that was
    cut in the middle is dropped.

    Args:
        path: Its file, which is created where it is missing.

    Attributes:
        rows: The row of each finished cell.
        fingerprints: Each expert's fingerprint, as it was when the expert was asked.

    Raises:
        ConfigurationError: Another process holds it, or a line is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[Cell, Row] = {}
        self.fingerprints: dict[str, str] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            opened.enter_context(_locked(path))
            self._file = opened.enter_context(path.open("a+b"))
            self._read()
            self._opened = opened.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._opened:
            if not self._file.closed and self._file.seek(0, os.SEEK_END) == 0:
                self.remove()  # an empty journal says nothing

    def add_experts(self, fingerprints: Mapping[str, str]) -> None:
        """Record the experts that are asked from now on."""
        if any(self.fingerprints.get(name) != fingerprint for name, fingerprint in fingerprints.items()):
            self.fingerprints.update(fingerprints)
            self._append({"experts": dict(fingerprints)})

    def add(self, row: Row) -> None:
        """Record a finished cell."""
        self.rows[row["query_id"], row["expert"]] = row
        self._append(row)

    def remove(self) -> None:
        """Delete the journal, once the outcome table holds all of it."""
        self._file.close()  # Windows deletes no open file
        self._path.unlink()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        self._file.flush()

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            self._file.truncate(whole)
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                entry = json.loads(line)
                if "experts" in entry:
                    self.fingerprints.update(entry["experts"])
                else:
                    self.rows[entry["query_id"], entry["expert"]] = entry
            except (ValueError, TypeError, KeyError):
                msg = f"{self._path}: line {number} is damaged: delete that line to ask its cell again"
                raise ConfigurationError(msg) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the journal's lock, which ends with this process, however it ends."""
    lock_file = path.with_name(path.name + ".lock")  # not the journal itself: Windows would let nobody write to it
    lock = FileLock(lock_file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        msg = f"{path}: another `torouter collect` is writing it: wait until it ends, or give another --out"
        raise ConfigurationError(msg) from None
    try:
        yield
    finally:
        # Deleted while it is held: a lock on a file that is gone counts for nothing, so the next run makes a new one.
        # Windows refuses, and FileLock deletes it there.
        with suppress(OSError):
            lock_file.unlink()
        lock.release()
