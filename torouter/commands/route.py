"""Scores every expert for a text and shows which one would be asked first."""

from __future__ import annotations

import argparse
import json
import sys
import time

HELP = "score the experts for a text"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("text", help="the query; - reads it from standard input")
    parser.add_argument("--router", required=True, metavar="DIR", help="a router's directory, or its id on the Hub")
    parser.add_argument("--engine", choices=("onnx", "torch"), default="onnx", help="what runs the encoder")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the experts, the best score first."""
    from torouter.routers.router import AutoRouter
    from torouter.routing.decision import RouteDecision
    from torouter.routing.display import score_lines

    text = sys.stdin.read() if arguments.text == "-" else arguments.text
    router = AutoRouter.from_pretrained(arguments.router, engine=arguments.engine)
    started = time.perf_counter()
    row = router.scores([text])[0]
    scores = dict(zip(router.experts, map(float, row), strict=True))
    ranking = tuple(sorted(scores, key=lambda name: -scores[name]))
    decision = RouteDecision(ranking, scores, milliseconds=1000 * (time.perf_counter() - started))
    if arguments.json:
        print(json.dumps(decision.to_json(), ensure_ascii=False, indent=2))
        return 0
    print("\n".join(score_lines(scores, ranking[0])))
    return 0
