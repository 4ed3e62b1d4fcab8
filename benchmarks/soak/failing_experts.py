"""Serves three experts that crash, stall, overload and recover, while at least one of them is always healthy.

Started by `benchmarks.soak`. It prints one line of JSON with the experts' urls, starts the outages when it reads a
line, and ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from random import Random

from benchmarks.soak.soak_load import ANSWERS, ATTEMPT_SECONDS
from tests.support.scripted_tgi import Fault, ScriptedTGI, Text
from tests.support.scripted_tgi.replies import Reply

FAULTS: dict[str, Reply] = {
    "stall": Fault.slow_start(),
    "stall midway": Fault.stall(5),
    "overload": Fault.overloaded(),
    "overload in stream": Fault.overloaded_in_stream(),
    "out of memory": Fault.status(424),
    "bad gateway": Fault.html_502(),
    "reset": Fault.reset(),
    "cut": Fault.cut(5),
    "cut without a sign": Fault.cut(5, clean=True),
}
STATE_SECONDS = (0.2, 1.0)
"""Shortest and longest time between two changes of the experts that may fail."""
OVERLAP = 2 * ATTEMPT_SECONDS
"""Seconds for which the next healthy expert and the last one are both healthy: a call may need so long to reach it."""


class Outages(threading.Thread):
    """Keeps one expert healthy, then another one, with an overlap; the others change between random states."""

    def __init__(self, servers: list[ScriptedTGI], seed: int) -> None:
        super().__init__(name="outages", daemon=True)
        self._servers = servers
        self._random = Random(seed)
        self._down: set[ScriptedTGI] = set()
        self.over = threading.Event()

    def run(self) -> None:
        healthy = self._servers[0]
        while not self.over.is_set():
            self._fail_all_but({healthy}, self._random.uniform(*STATE_SECONDS) * 4)
            following = self._random.choice([server for server in self._servers if server is not healthy])
            self._change(following, "healthy")
            self._fail_all_but({healthy, following}, OVERLAP)
            healthy = following

    def _fail_all_but(self, healthy: set[ScriptedTGI], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over.is_set():
            for server in self._servers:
                if server not in healthy:
                    self._change(server, self._random.choice(["healthy", "crash", *FAULTS]))
            self.over.wait(self._random.uniform(*STATE_SECONDS))

    def _change(self, server: ScriptedTGI, state: str) -> None:
        if server in self._down and state != "crash":
            self._down.remove(server)
            server.start()
        elif server not in self._down and state == "crash":
            self._down.add(server)
            server.stop()
        server.always(FAULTS.get(state))


def _always_answering(tokens: tuple[str, ...]) -> Callable[[object], Text]:
    return lambda _: Text(pieces=tokens)


def main() -> None:
    """Serve until standard input ends."""
    servers = [ScriptedTGI(model_id=f"test/{name}").start() for name in ANSWERS]
    for server, tokens in zip(servers, ANSWERS.values(), strict=True):
        server.answer = _always_answering(tokens)
    print(json.dumps({name: server.url for name, server in zip(ANSWERS, servers, strict=True)}), flush=True)
    outages = Outages(servers, int(sys.argv[1]))
    if sys.stdin.readline():
        outages.start()
        sys.stdin.read()
        outages.over.set()
        outages.join()
    for server in servers:
        server.stop()


if __name__ == "__main__":
    main()
