"""The command line, `torouter COMMAND`; each command is a module of `torouter.commands`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence

from torouter.errors import TORouterError

COMMANDS = ("collect", "label", "train", "evaluate", "route", "demo")
USAGE_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an error of torouter's own is one line on stderr and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="torouter: %(message)s")
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except TORouterError as error:
        print(f"torouter: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torouter", description="Routes each query to the expert that answers best.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"torouter.commands.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.__doc__)
        module.configure(command)
        command.set_defaults(run=module.run)
    return parser
