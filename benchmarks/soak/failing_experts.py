"""Three experts in a process of their own that crash, stall, overload and come back, while one of them is always well.

Started by `benchmarks.soak`. It prints one line of JSON with the experts' urls, begins its weather when it reads a
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
SPELL = (0.2, 1.0)
"""Seconds after which the experts that may be ill change."""
OVERLAP = 2 * ATTEMPT_SECONDS
"""Seconds that the next expert to stay well is well beside the one before: so long a call may take to come to it."""


class Weather(threading.Thread):
    """Lets one expert be well, then another one, for a while both; the others' state is drawn anew all the time."""

    def __init__(self, servers: list[ScriptedTGI], seed: int) -> None:
        super().__init__(name="weather", daemon=True)
        self._servers = servers
        self._random = Random(seed)
        self._down: set[ScriptedTGI] = set()
        self.over = threading.Event()

    def run(self) -> None:
        well = self._servers[0]
        while not self.over.is_set():
            self._spells({well}, self._random.uniform(*SPELL) * 4)
            following = self._random.choice([server for server in self._servers if server is not well])
            self._change(following, "well")
            self._spells({well, following}, OVERLAP)
            well = following

    def _spells(self, well: set[ScriptedTGI], seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.over.is_set():
            for server in self._servers:
                if server not in well:
                    self._change(server, self._random.choice(["well", "crash", *FAULTS]))
            self.over.wait(self._random.uniform(*SPELL))

    def _change(self, server: ScriptedTGI, state: str) -> None:
        if server in self._down and state != "crash":
            self._down.remove(server)
            server.start()
        elif server not in self._down and state == "crash":
            self._down.add(server)
            server.stop()
        server.always(FAULTS.get(state))


def _saying(tokens: tuple[str, ...]) -> Callable[[object], Text]:
    return lambda _: Text(pieces=tokens)


def main() -> None:
    """Serve until standard input ends."""
    servers = [ScriptedTGI(model_id=f"test/{name}").start() for name in ANSWERS]
    for server, tokens in zip(servers, ANSWERS.values(), strict=True):
        server.answer = _saying(tokens)
    print(json.dumps({name: server.url for name, server in zip(ANSWERS, servers, strict=True)}), flush=True)
    weather = Weather(servers, int(sys.argv[1]))
    if sys.stdin.readline():
        weather.start()
        sys.stdin.read()
        weather.over.set()
        weather.join()
    for server in servers:
        server.stop()


if __name__ == "__main__":
    main()
