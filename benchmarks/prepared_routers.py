"""Routers for benchmarks of time: trained in no time on invented queries, since a forward pass costs the same anyway.

Nothing but the standard library is imported here, so that contenders in environments of their own can ask the queries.
"""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from benchmarks.contenders import ONE_THREAD, ROOT

TOPICS = {
    "code": "python function loop compiler variable string array class method bug test server thread memory",
    "math": "sum product integral proof theorem angle triangle number root equation matrix limit series prime",
    "facts": "river capital king planet war island empire century treaty museum bridge flag border coast",
    "law": "contract court judge clause tenant lawsuit claim witness statute appeal licence damages party fine",
    "medicine": "patient dose fever nurse symptom kidney vaccine surgery blood muscle allergy clinic lung bone",
    "finance": "bond stock interest loan market profit tax budget currency dividend audit price debt fund",
    "poetry": "verse rhyme sonnet moon autumn sorrow dream silence rose winter shadow song lover dawn",
    "travel": "train hotel ticket airport beach luggage visa guide mountain ferry hostel museum map station",
}
EXPERTS = tuple(TOPICS)
"""The eight experts, each with a topic of its own."""
_GLUE = "please tell me how the and of a with in for what why could you explain about one more when that is to"
_WORDS = 25
_PHRASES = 512
_TRAINED = range(10**9, 10**9 + 400)
"""Numbers of the queries to learn from, which no benchmark asks."""
_TOROUTER = "import sys; from torouter.cli import main; sys.exit(main())"


def query(number: int) -> str:
    """Query `number`, about 30 tokens of a BERT; another for every number. It is made in a microsecond or two."""
    return f"{_words(number % _PHRASES)} {number}?"


@functools.cache
def _words(number: int) -> str:
    rng = random.Random(number)
    own = TOPICS[EXPERTS[number % len(EXPERTS)]].split()
    return " ".join(rng.choice(own if rng.random() < 0.4 else _GLUE.split()) for _ in range(_WORDS))


def prepared(kind: str, cache: Path) -> Path:
    """The checkpoint of a "bert" or a "fast" router over `EXPERTS`; it is trained into the cache on first use.

    The fast one is distilled from the other.

    Raises:
        SystemExit: The training has failed; the message is what it said last.
    """
    directory = cache / kind
    if (directory / "router.json").exists():
        return directory
    cache.mkdir(parents=True, exist_ok=True)
    own = ["--epochs", "1", "--frozen-layers", "5"] if kind == "bert" else ["--teacher", str(prepared("bert", cache))]
    table = cache / "outcomes.jsonl"
    table.write_text("".join(f"{json.dumps(row)}\n" for row in _outcomes()), encoding="utf-8")
    print(f"training a {kind} router", file=sys.stderr, flush=True)
    trained = subprocess.run(
        [
            *(sys.executable, "-c", _TOROUTER, "train", str(table), "--router", kind),
            *("--no-progress", "--out", str(directory), *own),
        ],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        check=False,
    )
    if trained.returncode:
        raise SystemExit(f"the {kind} router can't be trained:\n{trained.stderr[-3000:]}")
    return directory


def _outcomes() -> list[dict[str, object]]:
    """Each expert is right on its own topic."""
    return [
        {
            "query_id": str(number),
            "dataset": EXPERTS[number % len(EXPERTS)],
            "query": query(number),
            "expert": expert,
            "score": 0.9 if number % len(EXPERTS) == place else 0.2,
        }
        for number in _TRAINED
        for place, expert in enumerate(EXPERTS)
    ]
