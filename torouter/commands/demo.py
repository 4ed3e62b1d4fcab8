"""Demonstrates routing with real experts, on this machine or behind your own endpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "train a router on the demo's outcomes and route a chain"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--experts", type=Path, metavar="YAML", help="your own endpoints; default: three experts on this machine")
    add("--out", type=Path, metavar="DIR", help="keep the trained router here")
    add("--epochs", type=int, help="epochs of training")
    add("--questions", type=int, default=120, help="questions to your own experts, for outcomes to train on")
    add("--allow-code", action="store_true", help="ask your own experts for Python code too, and run it to score it")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    import asyncio

    from torouter.demo.run import demo

    asyncio.run(
        demo(
            experts=arguments.experts,
            out=arguments.out,
            epochs=arguments.epochs,
            questions=arguments.questions,
            allow_code=arguments.allow_code,
        )
    )
    return 0
