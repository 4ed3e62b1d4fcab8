"""Training and evaluation on an outcome table of a million rows: seconds and peak memory of the commands themselves."""

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


def ran(arguments: Sequence[str], *, log: Path, seconds: float = SECONDS) -> dict[str, Any]:
    """Run `torouter` with these arguments on one thread, for so many seconds at most.

    Returns:
        Seconds from start to end, CPU seconds, the peak of its resident memory in GB, and how it ended: "done", "ended
        early" (its time was over) or "failed", of which the log tells more.
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


def measured(
    rows: int, kinds: Sequence[str], work: Path, *, encoder: Path, max_length: int, bert_seconds: float
) -> dict[str, dict[str, Any]]:
    """Figures of `torouter train` for each kind and of `torouter evaluate` for what it wrote, by a name for each.

    A BertRouter learns for `bert_seconds` only: its memory shows within the first steps.
    """
    table = random_table.write(work / f"outcomes-{rows}.parquet", rows // EXPERTS, EXPERTS)
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        out = work / f"router-{kind}-{rows}"
        command = ["train", str(table), "--router", kind, "--out", str(out), "--split", "standard:0"]
        if kind != "fast":
            command += ["--encoder", str(encoder), "--max-length", str(max_length)]
        seconds = bert_seconds if kind == "bert" else SECONDS
        print(f"torouter {' '.join(command)}", file=sys.stderr, flush=True)
        found[f"train, {kind}"] = ran(command, log=work / f"train-{kind}.log", seconds=seconds)
        if found[f"train, {kind}"]["ended"] != "done":
            continue
        found[f"train, {kind}"]["megabytes"] = sum(file.stat().st_size for file in out.iterdir()) / 1e6
        found[f"load, {kind}"] = loaded(out)
        command = ["evaluate", str(table), "--router", str(out), "--split", "standard:0", "--no-progress"]
        command += ["--report", str(work / f"report-{kind}")]
        print(f"torouter {' '.join(command)}", file=sys.stderr, flush=True)
        found[f"evaluate, {kind}"] = ran(command, log=work / f"evaluate-{kind}.log")
    return found


def loaded(directory: Path) -> dict[str, Any]:
    """Seconds and memory of loading a checkpoint in a process of its own."""
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
