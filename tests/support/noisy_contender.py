"""A contender for tests of the harness: it prints to standard output, echoes its tasks, and dies on demand."""

from __future__ import annotations

import os
import sys

from benchmarks.harness.contenders import serve

if __name__ == "__main__":

    def echo(task: dict[str, float]) -> dict[str, float]:
        print("a library that says hello")
        os.write(1, b"and one that does so in C\n")
        if "die" in task:
            raise SystemExit("I was asked to die")
        return task

    serve(echo, {"arguments": sys.argv[1:]})
