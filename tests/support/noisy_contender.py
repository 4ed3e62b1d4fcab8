"""A contender for the tests: it prints where answers belong, answers with what it is asked, and dies on demand."""

from __future__ import annotations

import os
import sys

from benchmarks.harness.contenders import serve

if __name__ == "__main__":

    def answer(asked: dict[str, float]) -> dict[str, float]:
        print("a library that says hello")
        os.write(1, b"and one that does so in C\n")
        if "die" in asked:
            raise SystemExit("I was asked to die")
        return asked

    serve(answer, {"arguments": sys.argv[1:]})
