"""Measures time and peak memory of `torouter train` and `torouter evaluate` on a table of a million rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.contenders import ONE_THREAD, ROOT
from benchmarks.scale import random_table

EXPERTS = 8
SECONDS = 24 * 3600.0
_LOAD = """
import json, resource, sys, time
from torouter.routers.router import AutoRouter

began = time.perf_counter()
AutoRouter.from_pretrained(sys.argv[1]).scores(["a"])
figures = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time(), "ended": "done"}
print(json.dumps({**figures, "peak_gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}))
"""


def run_torouter(arguments: Sequence[str], *, log: Path, seconds: float = SECONDS) -> dict[str, Any]:
    """Run `torouter` with these arguments on one thread, for at most this many seconds.

    Returns:
        Seconds from start to end, CPU seconds, peak of resident memory in GB, and how it ended: "done", "ended early"
        (its time was over) or "failed" (the log has the reason).
    """
    began = time.perf_counter()
    with log.open("w") as file:
        child = subprocess.Popen(
            [sys.executable, "-c", "from torouter.cli import main; raise SystemExit(main())", *arguments],
            cwd=ROOT,
            env={**os.environ, **ONE_THREAD},
            stdout=file,
            stderr=file,
        )
        timer = threading.Timer(seconds, child.terminate)
        timer.daemon = True
        timer.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        except BaseException:
            child.terminate()
            raise
        finally:
            timer.cancel()
    child.returncode = os.waitstatus_to_exitcode(status)
    taken = time.perf_counter() - began
    ended = "done" if not status else "ended early" if taken >= seconds else "failed"
    return {
        "seconds": taken,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_gigabytes": usage.ru_maxrss / 1e6,
        "ended": ended,
    }


def measure_commands(
    rows: int, kinds: Sequence[str], work: Path, *, encoder: Path, max_length: int, bert_seconds: float
) -> dict[str, dict[str, Any]]:
    """The figures of training a router of each kind, loading it and evaluating it, by command and kind.

    A BertRouter trains for only `bert_seconds`: the first steps show its memory.
    """
    table = random_table.write(work / f"outcomes-{rows}.parquet", rows // EXPERTS, EXPERTS)
    figures: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        out = work / f"router-{kind}-{rows}"
        command = ["train", str(table), "--router", kind, "--out", str(out), "--split", "standard:0"]
        if kind != "fast":
            command += ["--encoder", str(encoder), "--max-length", str(max_length)]
        seconds = bert_seconds if kind == "bert" else SECONDS
        print(f"torouter {' '.join(command)}", file=sys.stderr, flush=True)
        figures[f"train, {kind}"] = run_torouter(command, log=work / f"train-{kind}.log", seconds=seconds)
        if figures[f"train, {kind}"]["ended"] != "done":
            continue
        figures[f"train, {kind}"]["megabytes"] = sum(file.stat().st_size for file in out.iterdir()) / 1e6
        figures[f"load, {kind}"] = load_checkpoint(out)
        command = ["evaluate", str(table), "--router", str(out), "--split", "standard:0", "--no-progress"]
        command += ["--report", str(work / f"report-{kind}")]
        print(f"torouter {' '.join(command)}", file=sys.stderr, flush=True)
        figures[f"evaluate, {kind}"] = run_torouter(command, log=work / f"evaluate-{kind}.log")
    return figures


def load_checkpoint(directory: Path) -> dict[str, Any]:
    """Time and memory of loading a checkpoint, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(directory)],
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
